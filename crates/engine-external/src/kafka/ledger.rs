//! What a register's log says, as a pure function of the log: who reads the same entries has the same values, and knows of
//! every conditional write whether it counted.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::batch::{Found, Raw};

/// The name of the header that holds what an entry is.
const HEADER: &[u8] = b"sinew";
const FORMAT: u8 = 1;
/// A value that was removed is remembered for so many entries, so that a write from before, which was long under way, does not count.
const REMEMBERED: u64 = 4096;
/// Of so many entries it is known whether they counted.
const VERDICTS: usize = 16_384;

/// What an entry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Write the value, or remove it, if the key is at this version as [`Ledger::version`] tells it.
    PutAt(u64),
    /// Write the value, or remove it.
    Put,
    /// Remove everything whose key begins so.
    RemoveAll,
    /// Tell those who wait for it.
    Hint,
    /// One of the values that there are at this offset.
    Item { version: u64, at: u64 },
    /// The values at this offset were so many.
    Whole { count: u64, at: u64 },
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) ask: Ask,
    pub(super) key: String,
    pub(super) value: Option<Bytes>,
}

impl Entry {
    pub(super) fn new(ask: Ask, key: impl Into<String>, value: Option<Bytes>) -> Self {
        Self {
            ask,
            key: key.into(),
            value,
        }
    }

    pub(super) fn seal(self) -> Raw {
        let (kind, first, second) = match self.ask {
            Ask::PutAt(version) => (0, version, 0),
            Ask::Put => (1, 0, 0),
            Ask::RemoveAll => (2, 0, 0),
            Ask::Hint => (3, 0, 0),
            Ask::Item { version, at } => (4, version, at),
            Ask::Whole { count, at } => (5, count, at),
        };
        let mut head = BytesMut::with_capacity(18);
        head.put_slice(&[FORMAT, kind]);
        head.put_u64_le(first);
        head.put_u64_le(second);
        Raw {
            key: Some(self.key.into()),
            value: self.value,
            headers: vec![(Bytes::from_static(HEADER), head.freeze())],
        }
    }

    /// None: it is not one of ours.
    pub(super) fn unseal(raw: Raw) -> Option<Self> {
        let (_, mut head) = raw.headers.into_iter().find(|(name, _)| name == HEADER)?;
        if head.len() != 18 || head.get_u8() != FORMAT {
            return None;
        }
        let (kind, first, second) = (head.get_u8(), head.get_u64_le(), head.get_u64_le());
        let ask = match kind {
            0 => Ask::PutAt(first),
            1 => Ask::Put,
            2 => Ask::RemoveAll,
            3 => Ask::Hint,
            4 => Ask::Item {
                version: first,
                at: second,
            },
            5 => Ask::Whole {
                count: first,
                at: second,
            },
            _ => return None,
        };
        let key = String::from_utf8(raw.key?.into()).ok()?;
        Some(Self {
            ask,
            key,
            value: raw.value,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    version: u64,
    /// None: it was removed.
    value: Option<Bytes>,
}

/// The values, as of an offset.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The entries below it are in here.
    pub(super) next: u64,
    /// Where the log began when it was last looked at.
    pub(super) start: u64,
    items: BTreeMap<String, Item>,
    verdicts: VecDeque<(u64, bool)>,
}

impl Ledger {
    /// From a log that begins at `start`, wholly read; none when it does not hold what came before.
    pub(super) fn load(
        start: u64,
        entries: Vec<(u64, Entry)>,
        next: u64,
    ) -> Option<(Self, Vec<String>)> {
        let mut ledger = Self {
            next: start,
            start,
            ..Self::default()
        };
        if start > 0 {
            ledger.next = ledger.restore(&entries)?;
        }
        let from = ledger.next;
        let entries = entries.into_iter().filter(|(offset, _)| *offset >= from);
        let hints = ledger.absorb(from, entries.collect(), next);
        Some((ledger, hints))
    }

    /// Takes the newest values that are whole, and tells as of where they are.
    fn restore(&mut self, entries: &[(u64, Entry)]) -> Option<u64> {
        let mut kept: BTreeMap<u64, BTreeMap<&str, Item>> = BTreeMap::new();
        let mut best = None;
        for (_, entry) in entries {
            match entry.ask {
                // What is as of before the beginning is of no use: what came in between is gone.
                Ask::Item { version, at } if at >= self.start => {
                    let value = entry.value.clone();
                    let item = Item { version, value };
                    kept.entry(at).or_default().insert(&entry.key, item);
                }
                Ask::Whole { count, at } if at >= self.start => {
                    let items = kept.get(&at);
                    if items.map_or(0, |items| items.len() as u64) == count {
                        best = best.max(Some(at));
                    }
                }
                _ => {}
            }
        }
        let at = best?;
        let items = kept.remove(&at).unwrap_or_default();
        let own = |(key, item): (&str, Item)| (key.to_owned(), item);
        self.items = items.into_iter().map(own).collect();
        Some(at)
    }

    /// Takes entries that were read from an offset on, up to another: those that are new. Answers the hints among them.
    pub(super) fn absorb(
        &mut self,
        from: u64,
        entries: Vec<(u64, Entry)>,
        next: u64,
    ) -> Vec<String> {
        let mut hints = Vec::new();
        if from > self.next {
            return hints;
        }
        for (offset, entry) in entries {
            if offset < self.next {
                continue;
            }
            let counts = match entry.ask {
                Ask::PutAt(version) if version != self.version_at(&entry.key, offset) => false,
                Ask::PutAt(_) | Ask::Put => {
                    self.set(entry.key, offset, entry.value);
                    true
                }
                Ask::RemoveAll => {
                    let prefix = entry.key;
                    let below = self.items.range_mut(prefix.clone()..);
                    for (_, item) in below.take_while(|(key, _)| key.starts_with(&prefix)) {
                        if item.value.is_some() {
                            item.value = None;
                            item.version = offset + 1;
                        }
                    }
                    true
                }
                Ask::Hint => {
                    hints.push(entry.key);
                    true
                }
                Ask::Item { .. } | Ask::Whole { .. } => true,
            };
            self.verdicts.push_back((offset, counts));
            if self.verdicts.len() > VERDICTS {
                self.verdicts.pop_front();
            }
            if offset % REMEMBERED == 0 {
                self.items
                    .retain(|_, item| item.value.is_some() || !is_forgotten(item, offset));
            }
            self.next = offset + 1;
        }
        self.next = self.next.max(next);
        hints
    }

    fn set(&mut self, key: String, offset: u64, value: Option<Bytes>) {
        let version = offset + 1;
        self.items.insert(key, Item { version, value });
    }

    fn version_at(&self, key: &str, offset: u64) -> u64 {
        match self.items.get(key) {
            Some(item) if item.value.is_some() || !is_forgotten(item, offset) => item.version,
            _ => 0,
        }
    }

    /// What a conditional write must name; also of a key that was removed not long ago.
    pub(super) fn version(&self, key: &str) -> u64 {
        self.version_at(key, self.next)
    }

    /// A value and its version.
    pub(super) fn get(&self, key: &str) -> Option<(Bytes, u64)> {
        let item = self.items.get(key)?;
        Some((item.value.clone()?, item.version))
    }

    /// Those whose keys begin so, with the rest of the key.
    pub(super) fn list(&self, prefix: &str) -> Vec<(String, Bytes, u64)> {
        let below = self.items.range(prefix.to_owned()..);
        let below = below.take_while(|(key, _)| key.starts_with(prefix));
        below
            .filter_map(|(key, item)| {
                Some((
                    key[prefix.len()..].to_owned(),
                    item.value.clone()?,
                    item.version,
                ))
            })
            .collect()
    }

    /// Whether an entry counted; none when that is not known any more.
    pub(super) fn verdict(&self, offset: u64) -> Option<bool> {
        let place = self.verdicts.binary_search_by_key(&offset, |(at, _)| *at);
        place.ok().map(|place| self.verdicts[place].1)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Everything as of now, as entries, the last of which says that it is whole.
    pub(super) fn snapshot(&self) -> Vec<Entry> {
        let at = self.next;
        let mut entries: Vec<Entry> = self
            .items
            .iter()
            .filter(|(_, item)| item.value.is_some() || !is_forgotten(item, at))
            .map(|(key, item)| {
                let version = item.version;
                Entry::new(Ask::Item { version, at }, key, item.value.clone())
            })
            .collect();
        let count = entries.len() as u64;
        entries.push(Entry::new(Ask::Whole { count, at }, "", None));
        entries
    }
}

fn is_forgotten(item: &Item, offset: u64) -> bool {
    item.version + REMEMBERED < offset
}

/// Records as entries; none when one is not ours.
pub(super) fn entries(found: Vec<Found>) -> Option<Vec<(u64, Entry)>> {
    found
        .into_iter()
        .map(|found| Some((found.offset, Entry::unseal(found.raw)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> Option<Bytes> {
        Some(text.to_owned().into())
    }

    #[test]
    fn of_two_conditional_writes_the_first_counts() {
        let mut ledger = Ledger::default();
        let log = vec![
            (0, Entry::new(Ask::PutAt(0), "k", value("a"))),
            (1, Entry::new(Ask::PutAt(0), "k", value("b"))),
            (2, Entry::new(Ask::PutAt(1), "k", value("c"))),
            (3, Entry::new(Ask::PutAt(1), "k", value("d"))),
        ];
        ledger.absorb(0, log, 4);
        let verdicts: Vec<_> = (0..5).map(|offset| ledger.verdict(offset)).collect();
        let expected = [Some(true), Some(false), Some(true), Some(false), None];
        assert_eq!(verdicts, expected);
        assert_eq!(ledger.get("k"), value("c").map(|value| (value, 3)));
    }

    #[test]
    fn a_write_from_before_a_removal_does_not_count() {
        let mut ledger = Ledger::default();
        let log = vec![
            (0, Entry::new(Ask::PutAt(0), "g.config", value("a"))),
            (1, Entry::new(Ask::RemoveAll, "g.", None)),
            // It was sent when there was nothing, and took its time.
            (2, Entry::new(Ask::PutAt(0), "g.config", value("a"))),
        ];
        ledger.absorb(0, log, 3);
        assert_eq!(
            (ledger.get("g.config"), ledger.version("g.config")),
            (None, 2)
        );
        ledger.absorb(
            3,
            vec![(3, Entry::new(Ask::PutAt(2), "g.config", value("b")))],
            4,
        );
        assert!(ledger.get("g.config").is_some());
    }

    #[test]
    fn entries_come_back_and_nothing_else_is_taken_for_one() {
        for ask in [
            Ask::PutAt(7),
            Ask::Put,
            Ask::RemoveAll,
            Ask::Hint,
            Ask::Item { version: 3, at: 9 },
            Ask::Whole { count: 1, at: 9 },
        ] {
            let entry = Entry::new(ask, "key", value("x"));
            assert_eq!(Entry::unseal(entry.clone().seal()), Some(entry));
        }
        assert_eq!(Entry::unseal(Raw::default()), None);
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let ask = prop_oneof![
            (0..40_u64).prop_map(Ask::PutAt),
            Just(Ask::Put),
            Just(Ask::RemoveAll),
        ];
        let value = prop::option::of(Just(Bytes::from_static(b"v")));
        (ask, "[ab]", value).prop_map(|(ask, key, value)| Entry::new(ask, key, value))
    }

    proptest! {
        /// Whoever begins with a log whose beginning was removed comes to the same as who has read all of it.
        #[test]
        fn a_shortened_log_says_the_same(
            before in prop::collection::vec(entry(), 0..30),
            between in prop::collection::vec(entry(), 0..10),
            after in prop::collection::vec(entry(), 0..10),
        ) {
            let number = |entries: Vec<Entry>, from: u64| -> Vec<_> { (from..).zip(entries).collect() };
            let mut whole = Ledger::default();
            let cut = before.len() as u64;
            whole.absorb(0, number(before, 0), cut);
            let snapshot = whole.snapshot();
            let rest = [between, snapshot, after].concat();
            let end = cut + rest.len() as u64;
            let rest = number(rest, cut);
            whole.absorb(cut, rest.clone(), end);
            if cut > 0 {
                let (short, _) = Ledger::load(cut, rest, end).expect("it holds what came before");
                prop_assert_eq!(&short.items, &whole.items);
                prop_assert_eq!(short.next, whole.next);
            }
        }
    }

    #[test]
    fn a_log_without_its_beginning_is_refused() {
        let ledger = Ledger::default();
        let mut half = ledger.snapshot();
        half.pop();
        let entries = (5..).zip(half).collect();
        assert!(Ledger::load(5, entries, 6).is_none());
    }
}
