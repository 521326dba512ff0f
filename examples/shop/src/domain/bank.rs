//! Whether the simulated bank approves.

use uuid::Uuid;

/// Says no to `decline_permille` of 1000 orders. The same order has the same answer at the same
/// seed and rate, whenever and however often the bank is asked; an order that is declined at some
/// rate is declined at every higher one too.
pub(crate) fn approves(order: Uuid, seed: i64, decline_permille: i64) -> bool {
    // SplitMix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
    // 2014) spreads what differs in the id over all bits.
    let (high, low) = order.as_u64_pair();
    let mut mixed = high ^ low.rotate_left(32) ^ (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed % 1000) as i64 >= decline_permille
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_the_seed_matters() {
        let orders: Vec<Uuid> = (0..20_000).map(|_| sinew_core::new_id()).collect();
        let declined = |seed, rate| {
            let no = orders.iter().filter(|order| !approves(**order, seed, rate));
            no.copied().collect::<Vec<_>>()
        };
        assert!(declined(1, 0).is_empty());
        assert_eq!(declined(1, 1000).len(), orders.len());
        let (one, two) = (declined(1, 100), declined(2, 100));
        assert!((1_700..2_300).contains(&one.len()), "{}", one.len());
        assert_ne!(one, two);
        let more = declined(1, 200);
        assert!(one.iter().all(|order| more.contains(order)));
    }
}
