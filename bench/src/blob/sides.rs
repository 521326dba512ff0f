//! What is measured, behind one trait.

use std::{ops::Range, path::Path, sync::Arc};

use anyhow::{Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use sinew_core::Clock;
use sinew_engine::{
    Health,
    blob::{self, Blob, Expect, Key, Put},
};
use sinew_engine_embedded::{
    blob::{EmbeddedBlob, Options},
    storage::RealStorage,
};
use sinew_engine_external::s3::S3Blob;
use sinew_testbed::{S3, Server};

/// What is promised of plain files too.
pub(crate) const SYNCED: &str = "file and folder synced before the answer";
pub(crate) const VERSITYGW: &str = "what versitygw does";

#[async_trait]
pub(crate) trait Kept: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn durability(&self) -> &'static str;

    /// The process that leads its server.
    fn server(&self) -> Option<u32> {
        None
    }

    async fn put(&self, name: String, content: Bytes) -> Result<()>;

    /// Reads it all, or the range; the number of bytes.
    async fn get(&self, name: String, range: Option<Range<u64>>) -> Result<u64>;
}

/// One of Sinew's.
pub(crate) struct OverBlob {
    name: &'static str,
    durability: &'static str,
    blob: Arc<dyn Blob>,
    server: Option<Arc<Server>>,
}

pub(crate) fn embedded(folder: &Path) -> Result<OverBlob> {
    let storage = Arc::new(RealStorage);
    let blob = EmbeddedBlob::open(storage, folder, Clock::system(), Options::default())?;
    Ok(OverBlob {
        name: "sinew",
        durability: SYNCED,
        blob: Arc::new(blob),
        server: None,
    })
}

pub(crate) async fn start_s3() -> Result<Arc<Server>> {
    let server = tokio::task::spawn_blocking(|| Server::start(S3)).await??;
    Ok(Arc::new(server))
}

pub(crate) async fn over_s3(server: &Arc<Server>) -> Result<OverBlob> {
    let secret = server.folder().join("secret");
    std::fs::write(&secret, S3::SECRET)?;
    let url = format!(
        "s3://{}@{}/sinew?endpoint=http://{}&password_file={}&keys=tree&timeout=30s",
        S3::ACCESS_KEY,
        S3::BUCKET,
        server.address(),
        secret.display()
    );
    let blob = S3Blob::open(&S3Blob::address(&url)?, Clock::system())?;
    blob.health().wait_for(Health::is_up).await?;
    Ok(OverBlob {
        name: "S3Blob",
        durability: VERSITYGW,
        blob: Arc::new(blob),
        server: Some(Arc::clone(server)),
    })
}

#[async_trait]
impl Kept for OverBlob {
    fn name(&self) -> &'static str {
        self.name
    }

    fn durability(&self) -> &'static str {
        self.durability
    }

    fn server(&self) -> Option<u32> {
        self.server.as_ref().and_then(|server| server.pid())
    }

    async fn put(&self, name: String, content: Bytes) -> Result<()> {
        let expect = Expect {
            size: Some(content.len() as u64),
            checksum: None,
        };
        let put = Put {
            expect,
            ..Put::default()
        };
        self.blob
            .put(&Key::new(&name)?, blob::body(content), put)
            .await?;
        Ok(())
    }

    async fn get(&self, name: String, range: Option<Range<u64>>) -> Result<u64> {
        let range = range.map(|range| blob::Range::Between(range.start, range.end));
        let mut body = self.blob.get(&Key::new(&name)?, range).await?.body;
        let mut read = 0;
        while let Some(piece) = body.try_next().await? {
            read += piece.len() as u64;
        }
        if read == 0 {
            bail!("an empty body");
        }
        Ok(read)
    }
}
