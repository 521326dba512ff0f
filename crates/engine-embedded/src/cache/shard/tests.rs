use std::collections::BTreeSet;

use super::*;

/// Puts `key` with a weight of 1 into a shard that may weigh `room`.
fn put(shard: &mut Shard, key: u64, room: u64) {
    let weight = shard.small.weight + shard.main.weight;
    if weight == room {
        assert!(shard.evict(1, key) > 0);
    }
    let name = key.to_le_bytes();
    match shard.find(key, &name) {
        Some(slot) => shard.replace(slot, Bytes::new(), 1, NEVER),
        None => shard.insert(key, &name, Bytes::new(), 1, NEVER),
    };
}

fn read(shard: &Shard, key: u64) -> bool {
    shard.get(key, &key.to_le_bytes(), 0).is_some()
}

#[test]
fn a_scan_leaves_what_is_in_use() {
    const ROOM: u64 = 100;
    let mut shard = Shard::default();
    for key in 0..50 {
        put(&mut shard, key, ROOM);
        assert!(read(&shard, key) && read(&shard, key));
    }
    for key in 1_000..2_000 {
        put(&mut shard, key, ROOM);
    }
    let kept = (0..50).filter(|key| read(&shard, *key)).count();
    assert_eq!(
        kept, 50,
        "all that was read twice outlives a scan of ten times the room"
    );
}

#[test]
fn a_ghost_that_comes_back_stays() {
    const ROOM: u64 = 100;
    let mut shard = Shard::default();
    for key in 0..101 {
        put(&mut shard, key, ROOM);
    }
    assert!(!read(&shard, 0), "the oldest went");
    put(&mut shard, 0, ROOM);
    for key in 1_000..1_080 {
        put(&mut shard, key, ROOM);
    }
    assert!(read(&shard, 0), "it had entered the main queue");
}

#[test]
fn the_spared_item_stays_until_it_is_alone() {
    let mut shard = Shard::default();
    for key in 0..10 {
        put(&mut shard, key, 10);
    }
    assert_eq!(shard.evict(u64::MAX, 3), 9);
    assert!(read(&shard, 3));
    assert_eq!(shard.evict(u64::MAX, 3), 0);
    assert_eq!(shard.evict(1, 4), 1);
    assert_eq!(
        (shard.table.len(), shard.small.len() + shard.main.len()),
        (0, 0)
    );
}

#[test]
fn ghosts_are_bounded() {
    let mut shard = Shard::default();
    for key in 0..100_000 {
        put(&mut shard, key, 50);
    }
    assert!(shard.ghosts.known.len() <= 64 && shard.ghosts.order.len() <= 64);
    assert!(shard.slots.len() <= 50);
}

#[test]
fn the_books_always_agree() {
    let mut shard = Shard::default();
    let mut random = 1_u64;
    for step in 0..20_000_u64 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let key = (random >> 40) % 60;
        let name = key.to_le_bytes();
        let slot = shard.find(key, &name);
        let deadline = if random >> 33 & 1 == 0 {
            NEVER
        } else {
            step + (random >> 50) % 50
        };
        let weight = 1 + (random >> 20) % 9;
        match ((random >> 60) % 6, slot) {
            (0 | 1, Some(slot)) => drop(shard.replace(slot, Bytes::new(), weight, deadline)),
            (0..3, None) => drop(shard.insert(key, &name, Bytes::new(), weight, deadline)),
            (2, Some(slot)) => drop(shard.remove(slot)),
            (3, Some(slot)) => shard.set_deadline(slot, deadline),
            (4, _) => drop(shard.evict(weight, key)),
            _ => drop(shard.expire(step)),
        }
        agree(&shard);
    }
    assert!(shard.evicted > 100 && shard.expired > 100);
}

fn agree(shard: &Shard) {
    let free: BTreeSet<u32> = shard.free.iter().copied().collect();
    let live: Vec<u32> = (0..u32::try_from(shard.slots.len()).unwrap())
        .filter(|slot| !free.contains(slot))
        .collect();
    assert_eq!(live.len(), shard.table.len());
    assert_eq!(live.len(), shard.small.len() + shard.main.len());
    let weight: u64 = live.iter().map(|slot| shard.weight(*slot)).sum();
    assert_eq!(weight, shard.small.weight + shard.main.weight);
    let deadlines: BTreeSet<(u64, u32)> = live
        .iter()
        .map(|slot| (shard.slots[index(*slot)].deadline, *slot))
        .filter(|(deadline, _)| *deadline != NEVER)
        .collect();
    assert_eq!(deadlines, shard.deadlines);
}
