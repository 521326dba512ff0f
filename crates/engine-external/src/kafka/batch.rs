//! Kafka's record batches, version 2 (`DefaultRecordBatch`): what partitions hold and requests carry.
//!
//! Ours and not the client library's, because its records lose headers of which two have the same name.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before the records.
const HEAD: usize = 61;
/// Bytes of a batch that its length does not count.
const UNCOUNTED: usize = 12;
const COMPRESSED: i16 = 0b111;
const APPEND_TIME: i16 = 0b1000;
const CONTROL: i16 = 0b10_0000;

/// A record, as it is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    pub(super) headers: Vec<(Bytes, Bytes)>,
}

/// A record, as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) offset: u64,
    /// Milliseconds since 1970.
    pub(super) time: u64,
    pub(super) raw: Raw,
}

impl Raw {
    /// About how long it is in a batch, bytes.
    pub(super) fn size(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| 10 + name.len() + value.len())
            .sum();
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        30 + length(&self.key) + length(&self.value) + headers
    }
}

fn put_varint(out: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn take_varint(from: &mut Bytes) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = from.has_remaining().then(|| from.get_u8())?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&Bytes>) {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}

fn take_bytes(from: &mut Bytes) -> Option<Option<Bytes>> {
    match take_varint(from)? {
        -1 => Some(None),
        length => {
            let length = usize::try_from(length).ok()?;
            (from.remaining() >= length).then(|| Some(from.split_to(length)))
        }
    }
}

/// A batch of these records, entered at this time by our clock; the broker writes its own where the topic says so.
pub(super) fn seal(records: &[Raw], now: u64) -> Bytes {
    let size: usize = records.iter().map(Raw::size).sum();
    let mut batch = BytesMut::with_capacity(HEAD + size);
    let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
    let now = now.cast_signed();
    batch.put_i64(0); // base offset: the broker's matter
    batch.put_i32(0); // length, below
    batch.put_i32(-1); // leader epoch
    batch.put_u8(2); // version
    batch.put_u32(0); // checksum, below
    batch.put_i16(0); // attributes
    batch.put_i32(count - 1); // last offset
    batch.put_i64(now);
    batch.put_i64(now);
    batch.put_i64(-1); // producer
    batch.put_i16(-1); // its epoch
    batch.put_i32(-1); // sequence
    batch.put_i32(count);
    let mut record = BytesMut::new();
    for (index, raw) in records.iter().enumerate() {
        record.clear();
        record.put_u8(0); // attributes
        put_varint(&mut record, 0); // time after the first
        put_varint(&mut record, index as i64);
        put_bytes(&mut record, raw.key.as_ref());
        put_bytes(&mut record, raw.value.as_ref());
        put_varint(&mut record, raw.headers.len() as i64);
        for (name, value) in &raw.headers {
            put_bytes(&mut record, Some(name));
            put_bytes(&mut record, Some(value));
        }
        put_varint(&mut batch, record.len() as i64);
        batch.put_slice(&record);
    }
    let length = i32::try_from(batch.len() - UNCOUNTED).unwrap_or(i32::MAX);
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    batch.freeze()
}

/// Why a batch cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Its bytes are not what was written.
    Damaged,
    /// Somebody else wrote it, in a way that Sinew does not.
    Foreign,
}

/// The records of these batches from an offset on, and the offset behind the last whole batch, if there is one. A broker
/// cuts the last batch off where its answer ends.
pub(super) fn unseal(mut bytes: Bytes, from: u64) -> Result<(Vec<Found>, Option<u64>), Bad> {
    let mut found = Vec::new();
    let mut next = None;
    while bytes.len() >= HEAD {
        let length = (&bytes[8..12]).get_i32();
        let length = usize::try_from(length).map_err(|_| Bad::Damaged)? + UNCOUNTED;
        if length < HEAD {
            return Err(Bad::Damaged);
        }
        if bytes.len() < length {
            break;
        }
        let batch = bytes.split_to(length);
        next = Some(open(batch, from, &mut found)?);
    }
    Ok((found, next))
}

fn open(mut batch: Bytes, from: u64, found: &mut Vec<Found>) -> Result<u64, Bad> {
    if batch[16] != 2 {
        return Err(Bad::Foreign);
    }
    let checksum = (&batch[17..21]).get_u32();
    if crc32c::crc32c(&batch[21..]) != checksum {
        return Err(Bad::Damaged);
    }
    let base = u64::try_from(batch.get_i64()).map_err(|_| Bad::Damaged)?;
    batch.advance(13);
    let attributes = batch.get_i16();
    let last = batch.get_i32();
    let first_time = batch.get_i64();
    let last_time = batch.get_i64();
    batch.advance(14);
    let count = batch.get_i32();
    let next = base
        .checked_add_signed(i64::from(last) + 1)
        .ok_or(Bad::Damaged)?;
    if attributes & CONTROL != 0 {
        return Ok(next);
    }
    if attributes & COMPRESSED != 0 {
        return Err(Bad::Foreign);
    }
    for _ in 0..count {
        let length = take_varint(&mut batch).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= batch.len());
        let record = batch.split_to(length.ok_or(Bad::Damaged)?);
        let (time, delta, raw) = read(record).ok_or(Bad::Damaged)?;
        let time = if attributes & APPEND_TIME != 0 {
            last_time
        } else {
            first_time.saturating_add(time)
        };
        let offset = base.checked_add_signed(delta).ok_or(Bad::Damaged)?;
        if offset >= from {
            found.push(Found {
                offset,
                time: u64::try_from(time).unwrap_or_default(),
                raw,
            });
        }
    }
    Ok(next)
}

fn read(mut record: Bytes) -> Option<(i64, i64, Raw)> {
    record.has_remaining().then(|| record.get_u8())?;
    let time = take_varint(&mut record)?;
    let delta = take_varint(&mut record)?;
    let key = take_bytes(&mut record)?;
    let value = take_bytes(&mut record)?;
    let count = take_varint(&mut record)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = take_bytes(&mut record)??;
        headers.push((name, take_bytes(&mut record)?.unwrap_or_default()));
    }
    let raw = Raw {
        key,
        value,
        headers,
    };
    Some((time, delta, raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Raw> {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let full = Raw {
            key: Some(bytes("key")),
            value: Some(vec![7; 300].into()),
            headers: vec![(bytes("a"), bytes("1")), (bytes("a"), bytes("2"))],
        };
        vec![full, Raw::default()]
    }

    #[test]
    fn records_come_back_from_their_place_on() {
        let mut two = BytesMut::from(&seal(&records(), 1234)[..]);
        let mut second = BytesMut::from(&seal(&records(), 1235)[..]);
        second[..8].copy_from_slice(&2_u64.to_be_bytes());
        two.extend_from_slice(&second);
        let (found, next) = unseal(two.clone().freeze(), 1).unwrap();
        assert_eq!(next, Some(4));
        let offsets: Vec<u64> = found.iter().map(|found| found.offset).collect();
        assert_eq!(offsets, [1, 2, 3]);
        assert_eq!((found[0].time, found[1].time), (1234, 1235));
        assert_eq!(found[1].raw, records()[0]);
        // The last batch is cut off.
        let (found, next) = unseal(two.freeze().slice(..second.len() + 70), 0).unwrap();
        assert_eq!((found.len(), next), (2, Some(2)));
        assert_eq!(unseal(Bytes::new(), 0).unwrap(), (Vec::new(), None));
    }

    #[test]
    fn damage_is_found() {
        let whole = seal(&records(), 1);
        for at in 17..whole.len() {
            let mut damaged = BytesMut::from(&whole[..]);
            damaged[at] ^= 1;
            assert_eq!(unseal(damaged.freeze(), 0), Err(Bad::Damaged), "{at}");
        }
    }

    #[test]
    fn numbers_have_any_size() {
        for value in [0, 1, -1, 63, 64, -65, 300, i64::MAX, i64::MIN] {
            let mut bytes = BytesMut::new();
            put_varint(&mut bytes, value);
            let mut bytes = bytes.freeze();
            assert_eq!(take_varint(&mut bytes), Some(value));
            assert!(bytes.is_empty());
        }
    }
}
