use bytes::{BufMut, Bytes};
use sinew_engine::kv::{Entry, Key, Revision};

use crate::kv::{
    change::{self, Malformed},
    index::source::Value,
};

/// A block in memory, whose checksum was right.
#[derive(Clone)]
pub(super) struct Block(Bytes);

impl Block {
    /// Nothing when it does not match its checksum.
    pub(super) fn new(bytes: Bytes) -> Option<Self> {
        View::checked(&bytes)?;
        Some(Self(bytes))
    }

    pub(super) fn view(&self) -> View<'_> {
        View::of(&self.0)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// The items of a block.
#[derive(Clone, Copy)]
pub(super) struct View<'b> {
    items: &'b [u8],
    offsets: &'b [[u8; 4]],
}

/// A version, or what leads to some.
#[derive(Clone, Copy)]
pub(super) struct Item<'b> {
    pub(super) key: &'b [u8],
    pub(super) revision: Revision,
    payload: &'b [u8],
}

impl<'b> View<'b> {
    /// Nothing when it does not match its checksum.
    pub(super) fn checked(block: &'b [u8]) -> Option<Self> {
        let whole = block.split_last_chunk::<4>().filter(|(content, checksum)| {
            content.len() >= 4 && crc32c::crc32c(content).to_le_bytes() == **checksum
        });
        whole.map(|_| Self::of(block))
    }

    /// Of a block that was checked before.
    fn of(block: &'b [u8]) -> Self {
        let none = Self {
            items: &[],
            offsets: &[],
        };
        let Some((content, _)) = block.split_last_chunk::<4>() else {
            return none;
        };
        let Some((content, count)) = content.split_last_chunk::<4>() else {
            return none;
        };
        let count = u32::from_le_bytes(*count) as usize;
        let Some(end) = content.len().checked_sub(4 * count) else {
            return none;
        };
        let (items, offsets) = content.split_at(end);
        Self {
            items,
            offsets: offsets.as_chunks().0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn item(&self, index: usize) -> Result<Item<'b>, Malformed> {
        let start = u32::from_le_bytes(*self.offsets.get(index).ok_or(Malformed)?) as usize;
        let end = match self.offsets.get(index + 1) {
            Some(next) => u32::from_le_bytes(*next) as usize,
            None => self.items.len(),
        };
        let item = self.items.get(start..end).ok_or(Malformed)?;
        let (length, item) = item.split_first_chunk().ok_or(Malformed)?;
        let length = u16::from_le_bytes(*length) as usize;
        let (key, item) = item.split_at_checked(length).ok_or(Malformed)?;
        let (revision, payload) = item.split_first_chunk().ok_or(Malformed)?;
        Ok(Item {
            key,
            revision: Revision::from_le_bytes(*revision),
            payload,
        })
    }

    /// The first item that is not before this key and revision: the same key with this revision or
    /// an older one, or a later key.
    pub(super) fn lower_bound(&self, key: &[u8], at: Revision) -> Result<usize, Malformed> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            let item = self.item(middle)?;
            if item.key.cmp(key).then(at.cmp(&item.revision)).is_lt() {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        Ok(from)
    }
}

impl<'b> Item<'b> {
    /// The offset and the length of the block that it leads to.
    pub(super) fn child(&self) -> Result<(u64, u32), Malformed> {
        let (offset, length) = self.payload.split_first_chunk().ok_or(Malformed)?;
        let length = length.try_into().map_err(|_| Malformed)?;
        Ok((u64::from_le_bytes(*offset), u32::from_le_bytes(length)))
    }

    pub(super) fn value(&self) -> Result<Value<'b>, Malformed> {
        match self.payload.split_first().ok_or(Malformed)? {
            (0, _) => Ok(None),
            (1, rest) => {
                let (lease, value) = rest.split_first_chunk().ok_or(Malformed)?;
                Ok(Some((value, change::lease(u64::from_le_bytes(*lease)))))
            }
            _ => Err(Malformed),
        }
    }

    pub(super) fn entry(&self) -> Result<Option<Entry>, Malformed> {
        Ok(self.value()?.map(|(value, lease)| Entry {
            key: Key::copy_from_slice(self.key),
            value: Bytes::copy_from_slice(value),
            revision: self.revision,
            lease,
        }))
    }
}

/// A block that is being made.
#[derive(Default)]
pub(super) struct Builder {
    items: Vec<u8>,
    offsets: Vec<u32>,
    /// Where the last item's key lies.
    last_key: std::ops::Range<usize>,
    last_revision: Revision,
}

impl Builder {
    pub(super) fn add_value(&mut self, key: &[u8], revision: Revision, value: Value<'_>) {
        self.add_key(key, revision);
        match value {
            None => self.items.put_u8(0),
            Some((value, lease)) => {
                self.items.put_u8(1);
                self.items.put_u64_le(lease.map_or(0, |lease| lease.0));
                self.items.put_slice(value);
            }
        }
    }

    pub(super) fn add_child(&mut self, key: &[u8], revision: Revision, place: (u64, u32)) {
        self.add_key(key, revision);
        self.items.put_u64_le(place.0);
        self.items.put_u32_le(place.1);
    }

    /// Says how long the block is that the last item leads to.
    pub(super) fn set_length(&mut self, length: u32) {
        let at = self.items.len() - 4;
        self.items[at..].copy_from_slice(&length.to_le_bytes());
    }

    fn add_key(&mut self, key: &[u8], revision: Revision) {
        let start = u32::try_from(self.items.len()).expect("blocks end far below 4 GB");
        self.offsets.push(start);
        let length = u16::try_from(key.len()).expect("the limits keep keys below 64 KB");
        self.items.put_u16_le(length);
        self.items.put_slice(key);
        self.last_key = self.items.len() - key.len()..self.items.len();
        self.last_revision = revision;
        self.items.put_u64_le(revision);
    }

    pub(super) fn bytes(&self) -> usize {
        self.items.len() + 4 * self.offsets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(super) fn last(&self) -> (&[u8], Revision) {
        (&self.items[self.last_key.clone()], self.last_revision)
    }

    /// Appends the block to `to`, and begins another one; answers the block's length.
    pub(super) fn finish(&mut self, to: &mut Vec<u8>) -> u32 {
        let start = to.len();
        to.extend_from_slice(&self.items);
        for offset in &self.offsets {
            to.put_u32_le(*offset);
        }
        let count = u32::try_from(self.offsets.len()).expect("blocks end far below 4 GB");
        to.put_u32_le(count);
        let checksum = crc32c::crc32c(&to[start..]);
        to.put_u32_le(checksum);
        self.items.clear();
        self.offsets.clear();
        u32::try_from(to.len() - start).expect("blocks end far below 4 GB")
    }
}
