//! What can be had at best: the log that Sinew's store lies on and an ordered map in memory. One
//! thread checks the conditions in the map, appends a record a group, applies it and answers.
//!
//! It has no files but the log, no revisions, history, snapshots or leases, and bounds neither its memory nor its
//! queue's bytes; what the log holds beyond the last records is let go, so that it could not be opened again.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use async_trait::async_trait;
use sinew_engine_embedded::{
    log::{Options, OwnedLog, Releaser},
    storage::RealStorage,
};

use super::{
    peers::{Queue, ask, writer},
    stores::{SYNCED, Store, Transaction},
};

pub(crate) struct Bound(Queue);

impl Bound {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut log = OwnedLog::open(Arc::new(RealStorage), folder, &Options::default())?;
        let newest = Arc::new(AtomicU64::new(0));
        release(log.releaser(), Arc::clone(&newest));
        let mut map = BTreeMap::new();
        Ok(Self(writer(move |group| {
            let mut record = Vec::new();
            let mut answers = Vec::new();
            for (one, _) in &mut *group {
                let mut checks = one.checks.iter();
                let holds = checks.all(|(key, there)| map.contains_key(key) == *there);
                if holds {
                    for (key, value) in one.puts.drain(..) {
                        for bytes in [&key, &value] {
                            record.extend_from_slice(&u32::try_from(bytes.len())?.to_le_bytes());
                            record.extend_from_slice(bytes);
                        }
                        map.insert(key, value);
                    }
                }
                answers.push(holds);
            }
            newest.store(log.append(&record, false)?, Ordering::Relaxed);
            Ok(answers)
        })))
    }
}

/// Lets go of what is old, beside the writer.
fn release(releaser: Releaser, newest: Arc<AtomicU64>) {
    thread::spawn(move || {
        // Until the writer has ended.
        while Arc::strong_count(&newest) > 1 {
            thread::sleep(Duration::from_millis(100));
            if let Err(error) = releaser.release(newest.load(Ordering::Relaxed)) {
                eprintln!("error: {}", error.detail());
            }
        }
    });
}

#[async_trait]
impl Store for Bound {
    fn name(&self) -> &'static str {
        "own log + map"
    }

    fn durability(&self) -> &'static str {
        SYNCED
    }

    async fn commit(&self, transaction: Transaction) -> Result<()> {
        ask(&self.0, transaction).await
    }

    fn has_gets(&self) -> bool {
        false
    }

    async fn get(&self, _key: &[u8]) -> Result<bool> {
        Ok(false)
    }
}
