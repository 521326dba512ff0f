//! Random histories, each step compared with the reference engine.

use std::{collections::HashMap, sync::Arc, time::Duration};

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use sinew_core::{ManualClock, Timestamp};

use super::{
    Case, case,
    stand::{Stand, key},
};
use crate::cache::{Cache, Increment, Item, Key, Lifetime, MemoryCache, Swap, Version};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(
        random_histories,
        ForgetsOnlyForRoom,
        "Every operation does what it does on the reference."
    )]
}

const HISTORIES: u64 = 60;

/// Times are in steps, which the case turns into durations that the engine can tell apart.
#[derive(Clone, Debug)]
enum Step {
    Get(u8),
    GetMany(Vec<u8>),
    Set(u8, u8, Option<u32>),
    SetMany(Vec<(u8, u8)>, Option<u32>),
    Add(u8, u8, Option<u32>),
    /// Swaps with the version that was current so many reads of the key ago.
    Swap(u8, usize, u8, Option<u32>),
    Increment(u8, i64, Option<u32>),
    Touch(u8, Option<u32>),
    Delete(u8),
    DeleteVersion(u8, usize),
    DeleteMany(Vec<u8>),
    Clear,
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..5u8;
    let value = 0..4u8;
    let life = prop::option::weighted(0.4, 1..8u32);
    prop_oneof![
        4 => name.clone().prop_map(Step::Get),
        1 => prop::collection::vec(name.clone(), 0..4).prop_map(Step::GetMany),
        4 => (name.clone(), value.clone(), life.clone()).prop_map(|(k, v, l)| Step::Set(k, v, l)),
        1 => (prop::collection::vec((name.clone(), value.clone()), 0..4), life.clone())
            .prop_map(|(items, l)| Step::SetMany(items, l)),
        3 => (name.clone(), value.clone(), life.clone()).prop_map(|(k, v, l)| Step::Add(k, v, l)),
        3 => (name.clone(), 0..3usize, value.clone(), life.clone())
            .prop_map(|(k, ago, v, l)| Step::Swap(k, ago, v, l)),
        4 => (name.clone(), prop_oneof![-3..4i64, Just(i64::MAX), Just(i64::MIN)], life.clone())
            .prop_map(|(k, by, l)| Step::Increment(k, by, l)),
        2 => (name.clone(), life.clone()).prop_map(|(k, l)| Step::Touch(k, l)),
        2 => name.clone().prop_map(Step::Delete),
        2 => (name.clone(), 0..3usize).prop_map(|(k, ago)| Step::DeleteVersion(k, ago)),
        1 => prop::collection::vec(name, 0..4).prop_map(Step::DeleteMany),
        1 => Just(Step::Clear),
        4 => (1..6u32).prop_map(Step::Pass),
    ]
}

async fn random_histories(stand: Stand) {
    for seed in 0..HISTORIES {
        let steps = history(seed);
        println!("seed {seed}: {} steps", steps.len());
        let mut pair = Pair::new(stand.another(false).await);
        for (number, step) in steps.iter().enumerate() {
            pair.run(step, &format!("seed {seed}, step {number}: {step:?}"))
                .await;
        }
    }
}

fn history(seed: u64) -> Vec<Step> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let history = prop::collection::vec(step(), 1..120);
    history
        .new_tree(&mut runner)
        .expect("any history will do")
        .current()
}

/// The engine beside the reference.
struct Pair {
    stand: Stand,
    engine: Arc<dyn Cache>,
    clock: ManualClock,
    reference: MemoryCache,
    /// The versions that reads of a key saw, the engine's and the reference's, newest last.
    seen: HashMap<u8, Vec<(Version, Version)>>,
}

impl Pair {
    fn new(stand: Stand) -> Self {
        let clock = ManualClock::new(Timestamp(1_000_000));
        Self {
            engine: stand.cache(),
            reference: MemoryCache::new(clock.clock()),
            clock,
            stand,
            seen: HashMap::new(),
        }
    }

    /// Without a manual clock lifetimes cannot be compared step by step: nothing expires then.
    fn life(&self, steps: Option<u32>) -> Lifetime {
        match steps {
            None => Lifetime::Unlimited,
            Some(_) if !self.stand.time_is_manual() => Lifetime::For(Duration::from_secs(3600)),
            // Half a step more, so that nothing ends just when it is looked at.
            Some(steps) => Lifetime::For(self.unit() * steps + self.unit() / 2),
        }
    }

    fn unit(&self) -> Duration {
        self.stand
            .limits()
            .lifetime_step
            .max(Duration::from_millis(1))
            * 2
    }

    fn seen(&self, name: u8, ago: usize) -> (Version, Version) {
        let seen = self.seen.get(&name).map_or(&[][..], Vec::as_slice);
        seen.iter()
            .rev()
            .nth(ago)
            .copied()
            .unwrap_or((Version(0), Version(0)))
    }

    async fn run(&mut self, step: &Step, what: &str) {
        let (engine, reference) = (self.engine.clone(), self.reference.clone());
        match step.clone() {
            Step::Get(k) => {
                let (found, expected) = (
                    engine.get(&name(k)).await.unwrap(),
                    reference.get(&name(k)).await.unwrap(),
                );
                self.same(k, found, expected, what);
            }
            Step::GetMany(ks) => {
                let keys: Vec<Key> = ks.iter().copied().map(name).collect();
                let found = engine.get_many(&keys).await.unwrap();
                let expected = reference.get_many(&keys).await.unwrap();
                for ((k, found), expected) in ks.into_iter().zip(found).zip(expected) {
                    self.same(k, found, expected, what);
                }
            }
            Step::Set(k, v, l) => {
                let life = self.life(l);
                engine.set(name(k), value(v), life).await.unwrap();
                reference.set(name(k), value(v), life).await.unwrap();
            }
            Step::SetMany(items, l) => {
                let life = self.life(l);
                let items: Vec<_> = items
                    .into_iter()
                    .map(|(k, v)| (name(k), value(v)))
                    .collect();
                engine.set_many(items.clone(), life).await.unwrap();
                reference.set_many(items, life).await.unwrap();
            }
            Step::Add(k, v, l) => {
                let life = self.life(l);
                let found = engine.set_if_absent(name(k), value(v), life).await.unwrap();
                let expected = reference
                    .set_if_absent(name(k), value(v), life)
                    .await
                    .unwrap();
                assert_eq!(found.is_some(), expected.is_some(), "{what}");
            }
            Step::Swap(k, ago, v, l) => {
                let (ours, theirs) = self.seen(k, ago);
                let life = self.life(l);
                let found = engine
                    .compare_and_set(name(k), ours, value(v), life)
                    .await
                    .unwrap();
                let expected = reference
                    .compare_and_set(name(k), theirs, value(v), life)
                    .await
                    .unwrap();
                assert_eq!(shown(found), shown(expected), "{what}");
            }
            Step::Increment(k, by, l) => {
                let increment = Increment::by(by).living(self.life(l));
                let found = engine.increment(name(k), increment).await;
                let expected = reference.increment(name(k), increment).await;
                match (found, expected) {
                    (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{what}"),
                    (Err(found), Err(expected)) => {
                        assert_eq!(found.code(), expected.code(), "{what}");
                    }
                    other => panic!("{what}: {other:?}"),
                }
            }
            Step::Touch(k, l) => {
                let life = self.life(l);
                let found = engine.touch(&name(k), life).await.unwrap();
                assert_eq!(
                    found,
                    reference.touch(&name(k), life).await.unwrap(),
                    "{what}"
                );
            }
            Step::Delete(k) => {
                let found = engine.delete(&name(k)).await.unwrap();
                assert_eq!(found, reference.delete(&name(k)).await.unwrap(), "{what}");
            }
            Step::DeleteVersion(k, ago) => {
                let (ours, theirs) = self.seen(k, ago);
                let found = engine.compare_and_delete(&name(k), ours).await.unwrap();
                let expected = reference
                    .compare_and_delete(&name(k), theirs)
                    .await
                    .unwrap();
                assert_eq!(found, expected, "{what}");
            }
            Step::DeleteMany(ks) => {
                let keys: Vec<Key> = ks.into_iter().map(name).collect();
                let found = engine.delete_many(&keys).await.unwrap();
                assert_eq!(found, reference.delete_many(&keys).await.unwrap(), "{what}");
            }
            Step::Clear => {
                engine.clear().await.unwrap();
                reference.clear().await.unwrap();
            }
            Step::Pass(steps) if self.stand.time_is_manual() => {
                self.stand.pass(self.unit() * steps).await;
                self.clock.advance(self.unit() * steps);
            }
            Step::Pass(_) => {}
        }
    }

    fn same(&mut self, k: u8, found: Option<Item>, expected: Option<Item>, what: &str) {
        match (found, expected) {
            (None, None) => {}
            (Some(found), Some(expected)) => {
                assert_eq!(found.value, expected.value, "{what}");
                if self.stand.time_is_manual() {
                    assert_eq!(found.left, expected.left, "{what}");
                }
                let seen = self.seen.entry(k).or_default();
                // Versions change together or not at all.
                if let Some((ours, theirs)) = seen.last() {
                    assert_eq!(
                        *ours == found.version,
                        *theirs == expected.version,
                        "{what}"
                    );
                }
                seen.push((found.version, expected.version));
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

fn name(number: u8) -> Key {
    key(&format!("k{number}"))
}

/// Two numbers, so that counters work on some, and two texts.
fn value(number: u8) -> Key {
    key(["1", "-7", "text", ""][usize::from(number)])
}

fn shown(swap: Swap) -> &'static str {
    match swap {
        Swap::Set(_) => "set",
        Swap::Changed => "changed",
        Swap::Absent => "absent",
    }
}
