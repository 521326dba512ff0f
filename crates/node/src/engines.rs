//! Opens engines by URL. The only place that names a concrete one.

use std::{path::Path, sync::Arc};

use sinew_core::{Clock, Error, Kind, Result};
use sinew_engine::{Health, blob::Blob, kv::Kv};
use sinew_engine_embedded::{EmbeddedKv, Options};
use tokio::sync::watch;

/// The opened key-value engine.
pub(crate) struct KvEngine {
    kv: Arc<dyn Kv>,
    health: watch::Receiver<Health>,
    /// The one engine that must be closed before another process may open its files.
    embedded: Option<Arc<EmbeddedKv>>,
}

/// What a URL of a key-value engine names.
#[derive(Clone, Debug)]
pub(crate) enum KvUrl {
    /// `embedded:` or `embedded:FOLDER`.
    Embedded(Option<String>),
    #[cfg(feature = "postgres")]
    Postgres(sinew_engine_external::Address),
    #[cfg(feature = "etcd")]
    Etcd(sinew_engine_external::Address),
}

impl KvUrl {
    /// Reads a URL; says what is wrong with it.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        match url.split_once(':') {
            Some(("embedded", folder)) => Ok(Self::Embedded(
                Some(folder.to_owned()).filter(|f| !f.is_empty()),
            )),
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => {
                sinew_engine_external::postgres::PostgresKv::address(url)
                    .map(Self::Postgres)
                    .map_err(|why| why.to_string())
            }
            #[cfg(feature = "etcd")]
            Some(("etcd", _)) => sinew_engine_external::etcd::EtcdKv::address(url)
                .map(Self::Etcd)
                .map_err(|why| why.to_string()),
            #[cfg_attr(
                all(feature = "postgres", feature = "etcd"),
                expect(unreachable_patterns, reason = "a build may have all engines")
            )]
            Some((scheme @ ("postgres" | "postgresql" | "etcd"), _)) => Err(format!(
                "this build has no {scheme} engine; build with `--features {feature}`, or use \"embedded:\"",
                feature = scheme.trim_end_matches("ql"),
            )),
            _ => Err(format!(
                "{url:?} is not the URL of a key-value engine; use \"embedded:\", \"embedded:FOLDER\", \
                 \"postgres://HOST/DATABASE\" or \"etcd://HOST\""
            )),
        }
    }
}

impl KvEngine {
    /// Opens what `url` names; `embedded:` without a folder is `kv` in the data folder. An engine behind the
    /// network that is away is no error: its health tells.
    pub(crate) async fn open(url: &str, data: &Path, memory: u64, clock: Clock) -> Result<Self> {
        let url = KvUrl::parse(url)
            .map_err(|why| Error::new(Kind::InvalidArgument, "config.engine_unsupported", why))?;
        match url {
            KvUrl::Embedded(folder) => {
                let folder = folder.map_or_else(|| data.join("kv"), Into::into);
                Self::open_embedded(folder, memory, clock).await
            }
            #[cfg(feature = "postgres")]
            KvUrl::Postgres(address) => {
                let kv = sinew_engine_external::postgres::PostgresKv::open(address, clock)?;
                Ok(Self::external(kv.health(), kv))
            }
            #[cfg(feature = "etcd")]
            KvUrl::Etcd(address) => {
                let kv = sinew_engine_external::etcd::EtcdKv::open(address, clock)?;
                Ok(Self::external(kv.health(), kv))
            }
        }
    }

    /// One that is open already. Its owner closes it.
    pub(crate) fn opened(kv: Arc<dyn Kv>) -> Self {
        // Its end is never read as a change: the last value stays.
        let (_, health) = watch::channel(Health::Up);
        Self {
            kv,
            health,
            embedded: None,
        }
    }

    #[cfg(any(feature = "postgres", feature = "etcd"))]
    fn external(health: watch::Receiver<Health>, kv: impl Kv) -> Self {
        Self {
            kv: Arc::new(kv),
            health,
            embedded: None,
        }
    }

    async fn open_embedded(folder: std::path::PathBuf, memory: u64, clock: Clock) -> Result<Self> {
        // The keys are all that is embedded today, so the whole budget is theirs.
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let options = Options::default().with_memory(memory);
        let opened = tokio::task::spawn_blocking(move || EmbeddedKv::open(folder, clock, options));
        let kv = opened.await.map_err(|error| {
            Error::new(
                Kind::Internal,
                "node.defect",
                "the store could not be opened",
            )
            .with_source(error)
        })??;
        let kv = Arc::new(kv);
        // Its end is never read as a change: the last value stays.
        let (_, health) = watch::channel(Health::Up);
        Ok(Self {
            kv: kv.clone(),
            health,
            embedded: Some(kv),
        })
    }

    pub(crate) fn kv(&self) -> Arc<dyn Kv> {
        self.kv.clone()
    }

    /// What it holds in memory, when it is in this process.
    pub(crate) fn embedded(&self) -> Option<Arc<EmbeddedKv>> {
        self.embedded.clone()
    }

    /// Whether it answers.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Writes what is left and lets others open it.
    pub(crate) async fn close(&self) -> Result<()> {
        match &self.embedded {
            Some(kv) => kv.close().await,
            None => Ok(()),
        }
    }
}

/// Opens the object store that a URL names. Wants a tokio runtime.
pub(crate) fn open_blob(url: &str, clock: Clock) -> Result<Arc<dyn Blob>> {
    #[cfg(feature = "s3")]
    if url.starts_with("s3://") {
        use sinew_engine_external::s3::S3Blob;
        return Ok(Arc::new(S3Blob::open(&S3Blob::address(url)?, clock)?));
    }
    let _ = clock;
    let why = match url.split_once("://").map_or("", |(scheme, _)| scheme) {
        "s3" => "this build has no s3 engine; build with `--features s3`".to_owned(),
        scheme => format!("{scheme}:// is not the URL of an object store; use s3://"),
    };
    Err(Error::new(
        Kind::InvalidArgument,
        "config.engine_unsupported",
        why,
    ))
}
