//! Power is lost under the whole store: log, index and the files beside them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;

use sinew_core::{ManualClock, Timestamp};
use sinew_engine::kv::Retention;

use super::*;
use crate::{
    log,
    storage::{Fault, Seeded, SimulatedStorage},
};

pub(super) fn options(disk: &SimulatedStorage) -> Options {
    Options {
        // Small, so that checkpoints, merges and segments come and go.
        cache_bytes: 100,
        layer_bytes: 2000,
        retention: Retention {
            commits: 20,
            bytes: 1 << 20,
        },
        reserve_bytes: 0,
        sync_failure: SyncFailure::call(|_| {}),
        log: log::Options {
            segment_bytes: 16 << 10,
            record_bytes: 8000,
            reserve_bytes: 1024,
            full_retry: Duration::from_millis(1),
            ..log::Options::default()
        },
        storage: Arc::new(disk.clone()),
        ..Options::default()
    }
}

type State = BTreeMap<String, (String, Revision)>;

async fn state(kv: &EmbeddedKv) -> Result<(Revision, State)> {
    let page = kv.range(Span::all(), 1024, None).await?;
    assert_eq!(page.next, None);
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let entries = page.entries.into_iter();
    Ok((
        page.revision,
        entries
            .map(|e| (text(&e.key), (text(&e.value), e.revision)))
            .collect(),
    ))
}

/// Random writes until power is lost; then the store must be as it was after some commit, the last
/// acknowledged one or the one after it.
async fn run(seed: u64) -> u64 {
    let mut random = Seeded::new(seed);
    let mut disk = SimulatedStorage::new(seed);
    let mut expected = State::new();
    let mut acknowledged = 0;
    for _ in 0..4 {
        let clock = ManualClock::new(Timestamp(0));
        disk.fail_at(disk.operations() + 1 + random.below(250), Fault::PowerLoss);
        let mut in_doubt = None;
        if let Ok(kv) = EmbeddedKv::open(Path::new("/kv"), clock.clock(), options(&disk)) {
            for _ in 0..400 {
                let (mut next, mut writes) = (expected.clone(), Vec::new());
                let keys = 1 + random.below(4);
                for nth in 0..keys {
                    let key = format!("{nth}/{}", random.below(12));
                    if random.below(4) == 0 {
                        next.remove(&key);
                        writes.push(Write::Delete { key: key.into() });
                    } else {
                        let value = random.next().to_string().repeat(1 + random.index(20));
                        next.insert(key.clone(), (value.clone(), 0));
                        writes.push(Write::Put {
                            key: key.into(),
                            value: value.into(),
                            lease: None,
                        });
                    }
                }
                match kv.commit(vec![], writes).await {
                    Ok(Outcome::Committed(revision)) => {
                        for (_, made) in next.values_mut().filter(|(_, made)| *made == 0) {
                            *made = revision;
                        }
                        expected = next;
                        acknowledged = revision;
                    }
                    Ok(Outcome::Conflict(_)) => unreachable!("there were no conditions"),
                    Err(_) => {
                        in_doubt = Some(next);
                        break;
                    }
                }
            }
            let _ = kv.close().await;
        }
        disk = disk.crash();
        // Also twice in a row, and in the middle of opening.
        let (kv, revision, found) = loop {
            if random.below(2) == 0 {
                disk.fail_at(disk.operations() + 1 + random.below(30), Fault::PowerLoss);
            }
            let error = match EmbeddedKv::open(Path::new("/kv"), clock.clock(), options(&disk)) {
                Ok(kv) => match state(&kv).await {
                    Ok((revision, found)) => break (kv, revision, found),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            assert_eq!(error.kind(), Kind::Unavailable, "seed {seed}: {error:?}");
            disk = disk.crash();
        };
        assert!(
            revision >= acknowledged,
            "seed {seed}: {revision} of {acknowledged}"
        );
        let strip = |state: &State| -> Vec<(String, String)> {
            state
                .iter()
                .map(|(key, (value, _))| (key.clone(), value.clone()))
                .collect()
        };
        if revision == acknowledged {
            assert_eq!(found, expected, "seed {seed}");
        } else {
            assert_eq!(revision, acknowledged + 1, "seed {seed}");
            let in_doubt = in_doubt.expect("a commit nobody made");
            assert_eq!(strip(&found), strip(&in_doubt), "seed {seed}");
        }
        (expected, acknowledged) = (found, revision);
        let _ = kv.close().await;
        drop(kv);
        disk = disk.crash();
    }
    acknowledged
}

#[test]
fn power_lost_at_any_call_leaves_what_was_acknowledged() {
    let rounds = std::env::var("SINEW_KV_POWER_LOSSES").map_or(100, |text| text.parse().unwrap());
    let first = std::env::var("SINEW_SEED").map_or(1, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut commits = 0;
    for seed in first..first + rounds {
        commits += runtime.block_on(run(seed));
    }
    assert!(
        commits > 10 * rounds,
        "hardly anything was written: {commits}"
    );
}
