//! Random operations on the engine and on the reference, step by step: same answers, same watches.

use std::{future::Future, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use sinew_core::{Kind, ManualClock, Timestamp};
use tokio::runtime::Handle;

use super::{
    Case, case,
    stand::{Stand, shown, soon},
};
use crate::kv::{Condition, Key, Kv, LeaseId, MemoryKv, Page, Revision, Span, Watch, Write};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(
        it_answers_as_the_reference_does,
        Nothing,
        "The whole contract."
    )]
}

/// Few keys, so that operations meet; awkward ones, so that encodings are tried.
const KEYS: [&[u8]; 10] = [
    b"\0",
    b"a",
    b"a\0",
    b"a\0\0",
    b"a\xff",
    b"ab",
    b"b",
    b"b\xff\xff",
    b"\xff",
    b"\xff\xff",
];

#[derive(Clone, Debug)]
enum Operation {
    Commit {
        conditions: Vec<(u8, usize, Since)>,
        writes: Vec<RawWrite>,
    },
    Get(usize),
    Range {
        span: RawSpan,
        limit: usize,
        at: Option<Since>,
    },
    Watch {
        span: RawSpan,
        after: Since,
    },
    Grant(u64),
    KeepAlive(usize),
    Revoke(usize),
    Pass(u64),
    Compact(Since),
    Reopen,
}

/// How the ends of a span are meant, and the keys at its ends.
type RawSpan = (u8, usize, usize);

/// The key, and for a put the value's byte and the lease.
type RawWrite = (usize, Option<(u8, Option<usize>)>);

/// A revision, counted back from the newest; below zero means from the future.
type Since = i8;

fn operations(time: bool, durable: bool) -> impl Strategy<Value = Vec<Operation>> {
    let key = || 0..KEYS.len();
    let lease = || 0..4usize;
    let span = || (0..4u8, key(), key());
    let since = || prop_oneof![12 => 0..6i8, 3 => 0..60i8, 1 => -2..0i8];
    let condition = (0..4u8, key(), since());
    let value = prop::option::weighted(0.75, (any::<u8>(), prop::option::weighted(0.3, lease())));
    let commit = (
        prop::collection::vec(condition, 0..3),
        prop::collection::vec((key(), value), 0..5),
    )
        .prop_map(|(conditions, writes)| Operation::Commit { conditions, writes });
    let range = (span(), 0..6usize, prop::option::weighted(0.5, since()))
        .prop_map(|(span, limit, at)| Operation::Range { span, limit, at });
    let watch = (span(), since()).prop_map(|(span, after)| Operation::Watch { span, after });
    let operation = prop_oneof![
        24 => commit,
        4 => key().prop_map(Operation::Get),
        8 => range,
        3 => watch,
        4 => (1..6u64).prop_map(Operation::Grant),
        2 => lease().prop_map(Operation::KeepAlive),
        1 => lease().prop_map(Operation::Revoke),
        if time { 3 } else { 0 } => (1..8u64).prop_map(Operation::Pass),
        1 => since().prop_map(Operation::Compact),
        if durable { 2 } else { 0 } => Just(Operation::Reopen),
    ];
    prop::collection::vec(operation, 1..60)
}

async fn it_answers_as_the_reference_does(stand: Stand) {
    let (time, durable) = (stand.time_is_manual(), stand.kv().capability().durable);
    let runtime = Handle::current();
    let result = tokio::task::spawn_blocking(move || {
        // `PROPTEST_CASES` in the environment asks for more.
        let mut config = Config {
            failure_persistence: None,
            ..Config::default()
        };
        if std::env::var_os("PROPTEST_CASES").is_none() {
            config.cases = 64;
        }
        TestRunner::new(config).run(&operations(time, durable), |operations| {
            runtime.block_on(async {
                let mut pair = Pair::new(stand.another(None).await);
                for operation in operations {
                    pair.step(operation).await?;
                }
                pair.end_watches().await.map(drop)
            })
        })
    })
    .await
    .unwrap();
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// The engine under test and the reference, after the same operations.
struct Pair {
    stand: Stand,
    clock: ManualClock,
    reference: MemoryKv,
    /// Leases in the order in which they were granted: (in the engine, in the reference).
    leases: Vec<(LeaseId, LeaseId)>,
    watches: Vec<Watching>,
}

struct Watching {
    span: Span,
    tested: Box<dyn Watch>,
    reference: Box<dyn Watch>,
}

type Check = Result<(), TestCaseError>;

impl Pair {
    fn new(stand: Stand) -> Self {
        let clock = ManualClock::new(Timestamp(0));
        let reference = MemoryKv::new(clock.clock());
        Self {
            stand,
            clock,
            reference,
            leases: Vec::new(),
            watches: Vec::new(),
        }
    }

    async fn step(&mut self, operation: Operation) -> Check {
        let tested = self.stand.kv();
        let newest = self.reference.revision().await.unwrap();
        let revision = |since: Since| newest.saturating_add_signed(-i64::from(since));
        match operation {
            Operation::Commit { conditions, writes } => {
                let conditions: Vec<Condition> = conditions
                    .into_iter()
                    .map(|raw| self.condition(raw, newest))
                    .collect();
                let (mine, theirs) = self.writes(writes);
                let tested = tested.commit(conditions.clone(), mine).await;
                same(tested, self.reference.commit(conditions, theirs).await)?;
            }
            Operation::Get(index) => {
                let entry = tested.get(KEYS[index]).await.unwrap();
                let expected = self.reference.get(KEYS[index]).await.unwrap();
                let lease = |lease| self.lease_index(lease);
                prop_assert_eq!(
                    entry.map(|e| (e.value, e.revision, e.lease.map(|l| lease((Some(l), None))))),
                    expected.map(|e| (
                        e.value,
                        e.revision,
                        e.lease.map(|l| lease((None, Some(l))))
                    )),
                );
            }
            Operation::Range { span, limit, at } => {
                let (span, at) = (raw_span(span), at.map(revision));
                let tested = tested.range(span.clone(), limit, at).await.map(page);
                same(
                    tested,
                    self.reference.range(span, limit, at).await.map(page),
                )?;
            }
            Operation::Watch { span, after } => {
                let (span, after) = (raw_span(span), revision(after));
                let tested = tested.watch(span.clone(), after).await;
                let reference = self.reference.watch(span.clone(), after).await;
                match (tested, reference) {
                    (Ok(tested), Ok(reference)) => {
                        self.watches.push(Watching {
                            span,
                            tested,
                            reference,
                        });
                    }
                    (tested, reference) => same(tested.map(|_| ()), reference.map(|_| ()))?,
                }
            }
            Operation::Grant(units) => {
                let ttl = self.units(units);
                let tested = tested.grant(ttl).await.unwrap();
                self.leases
                    .push((tested, self.reference.grant(ttl).await.unwrap()));
            }
            Operation::KeepAlive(index) => {
                if let Some((mine, theirs)) = self.lease(index) {
                    let tested = tested.keep_alive(mine).await;
                    same(tested, self.reference.keep_alive(theirs).await)?;
                }
            }
            Operation::Revoke(index) => {
                if let Some((mine, theirs)) = self.lease(index) {
                    let tested = tested.revoke(mine).await;
                    same(tested, self.reference.revoke(theirs).await)?;
                }
            }
            Operation::Pass(units) => {
                let time = self.units(units);
                self.clock.advance(time);
                self.stand.pass(time).await;
                // Expiry is a commit of the engine's own, soon after the time has come.
                let expected = self.reference.revision().await.unwrap();
                soon(async {
                    while tested.revision().await.unwrap() < expected {
                        tokio::time::sleep(Duration::from_micros(200)).await;
                    }
                })
                .await;
            }
            Operation::Compact(since) => {
                // A watcher that lags behind may or may not see what is forgotten now, so none lags.
                let watched = self.end_watches().await?;
                self.begin_watches(watched).await;
                let tested = tested.compact(revision(since)).await;
                same(tested, self.reference.compact(revision(since)).await)?;
            }
            Operation::Reopen => {
                let watched = self.end_watches().await?;
                drop(tested);
                self.stand.reopen().await;
                // The reference forgets everything when it is closed, so it stays open.
                for (_, theirs) in &self.leases {
                    let _ = self.reference.keep_alive(*theirs).await;
                }
                self.begin_watches(watched).await;
            }
        }
        let expected = self.reference.revision().await.unwrap();
        prop_assert_eq!(self.stand.revision().await, expected);
        Ok(())
    }

    /// Reads all watches to their end, side by side; answers what they watched.
    async fn end_watches(&mut self) -> Result<Vec<Span>, TestCaseError> {
        let mut watched = Vec::new();
        for mut watch in self.watches.drain(..) {
            while let Some(expected) = at_once(watch.reference.next()).await {
                let batch = soon(watch.tested.next()).await.unwrap();
                prop_assert_eq!(shown(&batch), shown(&expected.unwrap()));
            }
            // Nothing more than the reference, now that everything has been written.
            if let Some(more) = at_once(watch.tested.next()).await {
                prop_assert!(false, "only the engine under test says {:?}", more);
            }
            watched.push(watch.span);
        }
        Ok(watched)
    }

    /// Goes on watching from here.
    async fn begin_watches(&mut self, spans: Vec<Span>) {
        let newest = self.reference.revision().await.unwrap();
        for span in spans {
            let tested = self.stand.watch(span.clone(), newest).await;
            let reference = self.reference.watch(span.clone(), newest).await.unwrap();
            self.watches.push(Watching {
                span,
                tested,
                reference,
            });
        }
    }

    fn units(&self, units: u64) -> Duration {
        self.stand.kv().capability().limits.lease_minimum * units as u32
    }

    fn lease(&self, index: usize) -> Option<(LeaseId, LeaseId)> {
        // The latest leases, since the old ones have mostly ended.
        self.leases.iter().rev().nth(index).copied()
    }

    fn lease_index(&self, (mine, theirs): (Option<LeaseId>, Option<LeaseId>)) -> Option<usize> {
        self.leases
            .iter()
            .position(|pair| mine == Some(pair.0) || theirs == Some(pair.1))
    }

    fn condition(&self, (kind, index, since): (u8, usize, Since), newest: Revision) -> Condition {
        let key = Key::from_static(KEYS[index]);
        let revision = newest.saturating_add_signed(-i64::from(since));
        match kind {
            0 => Condition::KeyAt(key, revision),
            1 => Condition::Absent(key),
            2 => Condition::Present(key),
            _ => Condition::Unchanged(raw_span((since as u8 % 4, index, 6)), revision),
        }
    }

    /// The same writes with the leases of the engine, and of the reference.
    fn writes(&self, raw: Vec<RawWrite>) -> (Vec<Write>, Vec<Write>) {
        let write = |index: usize, put: Option<(u8, Option<LeaseId>)>| {
            let key = Key::from_static(KEYS[index]);
            match put {
                Some((value, lease)) => Write::Put {
                    key,
                    value: vec![value; usize::from(value % 7)].into(),
                    lease,
                },
                None => Write::Delete { key },
            }
        };
        raw.into_iter()
            .map(|(index, put)| {
                let lease = put.and_then(|(_, lease)| self.lease(lease?));
                let mine = put.map(|(value, _)| (value, lease.map(|lease| lease.0)));
                let theirs = put.map(|(value, _)| (value, lease.map(|lease| lease.1)));
                (write(index, mine), write(index, theirs))
            })
            .unzip()
    }
}

fn raw_span((kind, a, b): RawSpan) -> Span {
    let (a, b) = (KEYS[a], KEYS[b]);
    match kind {
        0 => Span::all(),
        1 => Span::key(a),
        2 => Span::prefix(a),
        _ => Span::between(a, b),
    }
}

/// A page without its leases, which have other names in the reference.
fn page(mut page: Page) -> Page {
    for entry in &mut page.entries {
        entry.lease = None;
    }
    page
}

/// Same value, or same kind and code of error.
fn same<T: PartialEq + std::fmt::Debug>(
    tested: sinew_core::Result<T>,
    reference: sinew_core::Result<T>,
) -> Check {
    let comparable = |result: sinew_core::Result<T>| -> Result<T, (Kind, String)> {
        result.map_err(|error| (error.kind(), error.code().to_owned()))
    };
    prop_assert_eq!(comparable(tested), comparable(reference));
    Ok(())
}

/// What the future answers without waiting.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        answer = future => Some(answer),
        () = std::future::ready(()) => None,
    }
}
