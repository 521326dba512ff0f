/// Chooses one of `count` candidates: draws two at random and returns the index of the one with the
/// lesser `load` ("The Power of Two Choices in Randomized Load Balancing", Mitzenmacher 2001).
/// `None` when there is no candidate. `random` yields uniform 64-bit values.
pub fn least_loaded_of_two(
    count: usize,
    mut random: impl FnMut() -> u64,
    load: impl Fn(usize) -> u64,
) -> Option<usize> {
    match count {
        0 => None,
        1 => Some(0),
        _ => {
            // A product's upper half is uniform enough in 0..count and needs no division.
            let mut below = |bound: usize| ((u128::from(random()) * bound as u128) >> 64) as usize;
            let first = below(count);
            // The second is drawn from the others, so the two always differ.
            let second = (first + 1 + below(count - 1)) % count;
            Some(if load(second) < load(first) {
                second
            } else {
                first
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::least_loaded_of_two;

    #[test]
    fn the_most_loaded_is_never_chosen_and_the_rest_share() {
        let loads = [3, 9, 1, 1];
        let mut chosen = [0u32; 4];
        for _ in 0..4_000 {
            let index = least_loaded_of_two(4, rand::random, |i| loads[i]).unwrap();
            chosen[index] += 1;
        }
        assert_eq!(chosen[1], 0, "{chosen:?}");
        assert!(chosen[2] > 1_000 && chosen[3] > 1_000, "{chosen:?}");
    }

    #[test]
    fn few_candidates() {
        assert_eq!(least_loaded_of_two(0, rand::random, |_| 0), None);
        assert_eq!(least_loaded_of_two(1, rand::random, |_| 0), Some(0));
    }
}
