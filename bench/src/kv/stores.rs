//! What is measured, behind one trait.

use std::{path::Path, sync::Arc};

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
use sinew_testbed::Server;

/// What an answer means.
pub(crate) const SYNCED: &str = "synced before the answer";

/// Keys that are there (`true`) or not, and what is put if that holds.
pub(crate) struct Transaction {
    pub(crate) checks: Vec<(Vec<u8>, bool)>,
    pub(crate) puts: Vec<(Vec<u8>, Vec<u8>)>,
}

#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn durability(&self) -> &'static str;

    /// The process that leads its server.
    fn server(&self) -> Option<u32> {
        None
    }

    /// Durable when it answers; an error when a check fails.
    async fn commit(&self, transaction: Transaction) -> Result<()>;

    fn has_gets(&self) -> bool {
        true
    }

    /// Whether the key is there; its value is read.
    async fn get(&self, key: &[u8]) -> Result<bool>;
}

/// A `Kv` of Sinew's.
pub(crate) struct OverKv {
    pub(crate) name: &'static str,
    pub(crate) durability: &'static str,
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) server: Option<Server>,
}

impl OverKv {
    pub(crate) fn embedded(folder: &Path) -> Result<Self> {
        let kv = EmbeddedKv::open(folder, Clock::system(), Options::default());
        let kv = kv.map_err(|error| anyhow::anyhow!(error.detail()))?;
        Ok(Self {
            name: "sinew",
            durability: SYNCED,
            kv: Arc::new(kv),
            server: None,
        })
    }

    pub(crate) async fn watch(&self) -> Result<Box<dyn Watch>> {
        Ok(self.kv.watch(Span::prefix("watched/"), 0).await?)
    }
}

#[async_trait]
impl Store for OverKv {
    fn name(&self) -> &'static str {
        self.name
    }

    fn durability(&self) -> &'static str {
        self.durability
    }

    fn server(&self) -> Option<u32> {
        self.server.as_ref().and_then(Server::pid)
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
        let committed = self.kv.commit(conditions.collect(), writes.collect());
        let outcome = committed
            .await
            .map_err(|error| anyhow::anyhow!(error.detail()))?;
        ensure!(matches!(outcome, Outcome::Committed(_)), "a conflict");
        Ok(())
    }

    async fn get(&self, key: &[u8]) -> Result<bool> {
        let entry = self.kv.get(key).await?;
        Ok(entry.is_some_and(|entry| !entry.value.is_empty()))
    }
}

/// The log that Sinew's store lies on, and nothing else: no conditions, no index.
pub(crate) struct LogOnly(Log);

impl LogOnly {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let storage = Arc::new(RealStorage);
        Ok(Self(Log::open(storage, folder, &log::Options::default())?))
    }
}

#[async_trait]
impl Store for LogOnly {
    fn name(&self) -> &'static str {
        "log alone"
    }

    fn durability(&self) -> &'static str {
        SYNCED
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
