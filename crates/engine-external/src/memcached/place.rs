//! Which server a key is on: rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit
//! Rates", 1998). The server that gives a key the highest score has it, so one server more or less moves
//! only the keys that it gains or leaves.

/// FNV-1a, 64 bits: the same on every machine and in every version, as nodes must agree on it.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// MurmurHash3's finalizer: every bit of the input moves every bit of the result.
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ bits >> 33
}

/// The number of the server with the highest score.
pub(super) fn choose(key: &[u8], seeds: impl ExactSizeIterator<Item = u64>) -> usize {
    if seeds.len() == 1 {
        return 0;
    }
    let key = hash(key);
    seeds
        .enumerate()
        .max_by_key(|(_, seed)| mix(key ^ mix(*seed)))
        .map_or(0, |(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["a:1", "b:1", "c:1", "d:1"];

    fn seeds(names: &[&str]) -> Vec<u64> {
        names.iter().map(|name| hash(name.as_bytes())).collect()
    }

    #[test]
    fn keys_are_spread_and_few_move() {
        let (three, four) = (seeds(&NAMES[..3]), seeds(&NAMES));
        let (mut counts, mut moved) = ([0; 4], 0);
        for n in 0..10_000 {
            let key = format!("key-{n}");
            let before = choose(key.as_bytes(), three.iter().copied());
            let after = choose(key.as_bytes(), four.iter().copied());
            counts[after] += 1;
            if before != after {
                assert_eq!(after, 3, "only to the new one");
                moved += 1;
            }
        }
        assert!(
            counts.iter().all(|count| (2200..2800).contains(count)),
            "{counts:?}"
        );
        assert_eq!(moved, counts[3]);
    }

    #[test]
    fn the_order_of_the_servers_means_nothing() {
        let reversed: Vec<&str> = NAMES.into_iter().rev().collect();
        for n in 0..100 {
            let key = format!("{n}");
            let one = NAMES[choose(key.as_bytes(), seeds(&NAMES).into_iter())];
            let other = reversed[choose(key.as_bytes(), seeds(&reversed).into_iter())];
            assert_eq!(one, other);
        }
    }

    #[test]
    fn places_stay_as_they_are() {
        // Other numbers would lose every team's cache with an upgrade.
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
        let places = ["a", "b", "c", "d", "e", "f"]
            .map(|key| choose(key.as_bytes(), seeds(&NAMES).into_iter()));
        assert_eq!(places, PLACES);
    }

    const PLACES: [usize; 6] = [0, 2, 1, 0, 2, 1];
}
