//! A blocked Bloom filter ("Cache-, Hash- and Space-Efficient Bloom Filters", Putze, Sanders and
//! Singler, 2007): all bits of a key lie in one cache line, so that asking for a key that is not
//! there costs one look into memory.

use std::sync::atomic::{AtomicU64, Ordering};

const LINE_WORDS: usize = 8;
const BITS_PER_KEY: usize = 10;
/// Each takes nine bits of the hash, which say a bit of the line.
const PROBES: u32 = 6;

/// Tells that a key is not there, or that it may be.
#[derive(Debug)]
pub(super) struct Filter {
    lines: Box<[[AtomicU64; LINE_WORDS]]>,
}

impl Filter {
    /// For about `keys` keys, in `most_bytes` at most: with less than ten bits a key it says "may be"
    /// more often than for a key in a hundred.
    pub(super) fn new(keys: usize, most_bytes: usize) -> Self {
        let bytes = (keys * BITS_PER_KEY / 8).min(most_bytes);
        let lines = (bytes / (8 * LINE_WORDS)).max(1);
        let lines = std::iter::repeat_with(Default::default).take(lines);
        Self {
            lines: lines.collect(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * 8 * LINE_WORDS
    }

    pub(super) fn add(&self, hash: u64) {
        let line = self.line(hash);
        for (word, bit) in places(hash) {
            line[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(super) fn may_have(&self, hash: u64) -> bool {
        let line = self.line(hash);
        places(hash).all(|(word, bit)| line[word].load(Ordering::Relaxed) & bit != 0)
    }

    fn line(&self, hash: u64) -> &[AtomicU64; LINE_WORDS] {
        // The high half times the number of lines, so that no division is needed.
        let index = ((hash >> 32) * self.lines.len() as u64) >> 32;
        &self.lines[usize::try_from(index).unwrap_or_default()]
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let words = self.lines.iter().flatten();
        words
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let lines = bytes.chunks_exact(8 * LINE_WORDS).map(|line| {
            let mut words = line
                .as_chunks::<8>()
                .0
                .iter()
                .map(|word| AtomicU64::new(u64::from_le_bytes(*word)));
            std::array::from_fn(|_| words.next().unwrap_or_default())
        });
        Self {
            lines: lines.collect(),
        }
    }
}

/// The word and the bit of each probe. The line was chosen by the high half.
fn places(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PROBES).map(move |probe| {
        let place = (mixed >> (9 * probe)) & 511;
        ((place >> 6) as usize, 1 << (place & 63))
    })
}

/// A hash of a key, stable over versions: it is in files. Multiply and fold, as wyhash does.
pub(in crate::kv) fn hash(key: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xa076_1d64_78bd_642f;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let (chunks, rest) = key.as_chunks::<8>();
    let mut hash = key.len() as u64 ^ 0xe703_7ed1_a0b4_28db;
    for chunk in chunks {
        hash = fold(hash ^ u64::from_le_bytes(*chunk), MULTIPLIER);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    hash = fold(hash ^ u64::from_le_bytes(last), MULTIPLIER);
    fold(hash, 0x8ebc_6af0_9c88_c6e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_denied_and_few_are_imagined() {
        let filter = Filter::new(10_000, usize::MAX);
        for key in 0..10_000 {
            filter.add(hash(format!("key/{key}").as_bytes()));
        }
        let filter = Filter::decode(&filter.encode());
        let has = |key: &String| filter.may_have(hash(key.as_bytes()));
        assert!(
            (0..10_000)
                .map(|key| format!("key/{key}"))
                .all(|key| has(&key))
        );
        let imagined = (0..10_000).map(|key| format!("other/{key}")).filter(has);
        assert!(imagined.count() < 300);
    }

    /// It is in files. When this fails, the format has changed.
    #[test]
    fn the_hash_stays_the_same() {
        assert_eq!(hash(b""), HASHES[0]);
        assert_eq!(hash(b"a key of more than eight bytes"), HASHES[1]);
    }
    const HASHES: [u64; 2] = [11_912_144_113_143_032_851, 10_040_025_480_083_470_905];
}
