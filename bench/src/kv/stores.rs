//! What is measured, behind one trait.

use std::path::Path;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::Clock;
use sinew_engine::kv::{Condition, Kv, Outcome, Span, Watch, Write};
use sinew_engine_embedded::{
    EmbeddedKv, Options,
    log::{self, Log},
    storage::RealStorage,
};

/// Keys that are there (`true`) or not, and what is put if that holds.
pub(crate) struct Transaction {
    pub(crate) checks: Vec<(Vec<u8>, bool)>,
    pub(crate) puts: Vec<(Vec<u8>, Vec<u8>)>,
}

#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Durable when it answers; an error when a check fails.
    async fn commit(&self, transaction: Transaction) -> Result<()>;

    fn has_gets(&self) -> bool {
        true
    }

    /// Whether the key is there; its value is read.
    async fn get(&self, key: &[u8]) -> Result<bool>;
}

pub(crate) struct Sinew(EmbeddedKv);

impl Sinew {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let kv = EmbeddedKv::open(folder, Clock::system(), Options::default());
        Ok(Self(kv.map_err(|error| anyhow::anyhow!(error.detail()))?))
    }

    pub(crate) async fn watch(&self) -> Result<Box<dyn Watch>> {
        Ok(self.0.watch(Span::prefix("watched/"), 0).await?)
    }
}

#[async_trait]
impl Store for Sinew {
    fn name(&self) -> &'static str {
        "sinew"
    }

    async fn commit(&self, transaction: Transaction) -> Result<()> {
        let conditions = transaction
            .checks
            .into_iter()
            .map(|(key, there)| match there {
                true => Condition::Present(key.into()),
                false => Condition::Absent(key.into()),
            });
        let writes = transaction.puts.into_iter().map(|(key, value)| Write::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        });
        let outcome = self
            .0
            .commit(conditions.collect(), writes.collect())
            .await?;
        ensure!(matches!(outcome, Outcome::Committed(_)), "a conflict");
        Ok(())
    }

    async fn get(&self, key: &[u8]) -> Result<bool> {
        Ok(self
            .0
            .get(key)
            .await?
            .is_some_and(|entry| !entry.value.is_empty()))
    }
}

/// The bound: the log that Sinew's store lies on, and nothing else.
pub(crate) struct LogOnly(Log);

impl LogOnly {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let storage = std::sync::Arc::new(RealStorage);
        Ok(Self(Log::open(storage, folder, &log::Options::default())?))
    }
}

#[async_trait]
impl Store for LogOnly {
    fn name(&self) -> &'static str {
        "log alone"
    }

    async fn commit(&self, transaction: Transaction) -> Result<()> {
        let bytes: usize = transaction
            .puts
            .iter()
            .map(|(key, value)| key.len() + value.len() + 17)
            .sum();
        let appended = self.0.append(Bytes::from(vec![7; bytes + 13])).await?;
        if appended.sequence.is_multiple_of(100_000) {
            self.0.release(appended.sequence)?;
        }
        Ok(())
    }

    fn has_gets(&self) -> bool {
        false
    }

    async fn get(&self, _key: &[u8]) -> Result<bool> {
        Ok(false)
    }
}
