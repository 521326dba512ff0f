//! Random histories, each step compared with the reference engine.

use std::{collections::HashMap, sync::Arc};

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use sinew_core::{Clock, Result};

use super::{
    Case, End, case,
    stand::{Stand, key, noise},
};
use crate::blob::{
    Blob, Expect, Key, List, MemoryBlob, Object, OnlyIf, Part, Put, Range, Upload, body, collect,
};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(
        random_histories,
        Nothing,
        "Every operation does what it does on the reference."
    )]
}

const HISTORIES: u64 = 25;
const NAMES: [&str; 5] = ["a", "a/b", "a/c", "b", "a-b"];
/// None of them is a folder of another.
const TREE: [&str; 5] = ["a.b", "a/b", "a/c", "b", "a-b"];

#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize, bool),
    Get(usize, Option<(u64, u64)>),
    Delete(usize),
    Copy(usize, usize, bool),
    List(String, bool, usize),
    Begin(usize),
    /// A part of the n-th newest upload.
    Part(usize, u32, usize),
    Complete(usize, bool),
    Abort(usize),
    Reopen(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let size = prop_oneof![0..10usize, 60_000..70_000usize, Just(200_000)];
    let any = any::<bool>;
    prop_oneof![
        5 => (name.clone(), size.clone(), any()).prop_map(|(k, s, a)| Step::Put(k, s, a)),
        4 => (name.clone(), prop::option::of((0..200_000u64, 0..200_000u64)))
            .prop_map(|(k, range)| Step::Get(k, range)),
        2 => name.clone().prop_map(Step::Delete),
        3 => (name.clone(), name.clone(), any()).prop_map(|(f, t, a)| Step::Copy(f, t, a)),
        2 => (prop::sample::select(vec!["", "a", "a/", "b", "c"]), any(), 1..4usize)
            .prop_map(|(prefix, folders, limit)| Step::List(prefix.to_owned(), folders, limit)),
        1 => name.prop_map(Step::Begin),
        4 => (0..3usize, 1..4u32, size).prop_map(|(u, n, s)| Step::Part(u, n, s)),
        2 => (0..3usize, any()).prop_map(|(u, a)| Step::Complete(u, a)),
        1 => (0..3usize).prop_map(Step::Abort),
        1 => any().prop_map(Step::Reopen),
    ]
}

fn history(seed: u64) -> Vec<Step> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let history = prop::collection::vec(step(), 1..60);
    history
        .new_tree(&mut runner)
        .expect("any history will do")
        .current()
}

async fn random_histories(stand: Stand) {
    if stand.limits().part_minimum > 1 {
        // The reference takes parts of any size; the cases on parts cover this engine's minimum.
        println!("random histories: without parts");
    }
    for seed in 0..HISTORIES {
        let steps = history(seed);
        println!("seed {seed}: {} steps", steps.len());
        let mut pair = Pair {
            stand: stand.another().await,
            reference: Arc::new(MemoryBlob::new(Clock::system())),
            uploads: Vec::new(),
            parts: HashMap::new(),
        };
        for (number, step) in steps.into_iter().enumerate() {
            let what = format!("seed {seed}, step {number}: {step:?}");
            pair.run(step, seed * 1000 + number as u64, &what).await;
        }
    }
}

/// The engine beside the reference.
struct Pair {
    stand: Stand,
    reference: Arc<dyn Blob>,
    /// Ours and the reference's, newest last.
    uploads: Vec<(Upload, Upload)>,
    parts: HashMap<(String, u32), (Part, Part)>,
}

impl Pair {
    fn upload(&self, ago: usize) -> Option<(Upload, Upload)> {
        self.uploads.iter().rev().nth(ago).cloned()
    }

    async fn run(&mut self, step: Step, seed: u64, what: &str) {
        let (engine, reference) = (self.stand.blob(), self.reference.clone());
        let names = if engine.capability().any_keys {
            NAMES
        } else {
            TREE
        };
        let name = |number: usize| key(names[number]);
        match step {
            Step::Put(k, size, absent) => {
                let put = Put {
                    only_if: only_if(absent),
                    ..Put::default()
                };
                let found = engine
                    .put(&name(k), body(noise(size, seed)), put.clone())
                    .await;
                let expected = reference.put(&name(k), body(noise(size, seed)), put).await;
                same(&found, &expected, what);
            }
            Step::Get(k, range) => {
                let range = range.map(|(start, end)| Range::Between(start, end));
                let found = content(&engine, &name(k), range).await;
                let expected = content(&reference, &name(k), range).await;
                match (found, expected) {
                    (Ok(found), Ok(expected)) => assert!(found == expected, "{what}"),
                    (Err(found), Err(expected)) => {
                        assert_eq!(found.code(), expected.code(), "{what}");
                    }
                    _ => panic!("{what}: one has it, the other not"),
                }
            }
            Step::Delete(k) => {
                engine.delete(&name(k)).await.unwrap();
                reference.delete(&name(k)).await.unwrap();
            }
            Step::Copy(from, to, absent) => {
                let only_if = only_if(absent);
                let found = engine.copy(&name(from), &name(to), None, only_if).await;
                let expected = reference.copy(&name(from), &name(to), None, only_if).await;
                same(&found, &expected, what);
            }
            Step::List(prefix, folders, limit) => {
                let list = List {
                    folders,
                    limit,
                    ..List::prefix(prefix)
                };
                let found = self.stand.names(list.clone()).await;
                let whole = List {
                    limit: 1000,
                    ..list
                };
                let expected = reference.list(whole).await.unwrap().entries;
                let expected: Vec<&str> = expected.iter().map(|entry| entry.name()).collect();
                assert_eq!(found, expected, "{what}");
            }
            Step::Begin(k) if self.stand.limits().part_minimum <= 1 => {
                let ours = engine.begin(&name(k), Default::default()).await.unwrap();
                let theirs = reference.begin(&name(k), Default::default()).await.unwrap();
                self.uploads.push((ours, theirs));
            }
            Step::Begin(_) => {}
            Step::Part(ago, number, size) => {
                let Some((ours, theirs)) = self.upload(ago) else {
                    return;
                };
                let content = noise(size, seed);
                let expect = Expect::default();
                let found = engine
                    .part(&ours, number, body(content.clone()), expect)
                    .await;
                let expected = reference.part(&theirs, number, body(content), expect).await;
                assert_eq!(code(&found), code(&expected), "{what}");
                if let (Ok(found), Ok(expected)) = (found, expected) {
                    assert_eq!(found.checksum, expected.checksum, "{what}");
                    self.parts.insert((ours.id, number), (found, expected));
                }
            }
            Step::Complete(ago, absent) => {
                let Some((ours, theirs)) = self.upload(ago) else {
                    return;
                };
                let mut named = (Vec::new(), Vec::new());
                for number in 1..4 {
                    if let Some((found, expected)) = self.parts.get(&(ours.id.clone(), number)) {
                        named.0.push((number, found.tag.clone()));
                        named.1.push((number, expected.tag.clone()));
                    }
                }
                let found = engine.complete(&ours, named.0, only_if(absent)).await;
                let expected = reference.complete(&theirs, named.1, only_if(absent)).await;
                same(&found, &expected, what);
            }
            Step::Abort(ago) => {
                let Some((ours, theirs)) = self.upload(ago) else {
                    return;
                };
                engine.abort(&ours).await.unwrap();
                reference.abort(&theirs).await.unwrap();
            }
            Step::Reopen(killed) if engine.capability().durable => {
                drop(engine);
                self.stand
                    .reopen(if killed { End::Kill } else { End::Close })
                    .await;
            }
            Step::Reopen(_) => {}
        }
    }
}

fn only_if(absent: bool) -> OnlyIf {
    if absent { OnlyIf::Absent } else { OnlyIf::Any }
}

async fn content(blob: &Arc<dyn Blob>, key: &Key, range: Option<Range>) -> Result<bytes::Bytes> {
    collect(blob.get(key, range).await?.body, u64::MAX).await
}

fn code<T>(result: &Result<T>) -> &str {
    result.as_ref().map_or_else(|error| error.code(), |_| "ok")
}

fn same(found: &Result<Object>, expected: &Result<Object>, what: &str) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(found.key, expected.key, "{what}");
            assert_eq!(
                (found.size, found.checksum),
                (expected.size, expected.checksum),
                "{what}"
            );
        }
        _ => assert_eq!(code(found), code(expected), "{what}"),
    }
}
