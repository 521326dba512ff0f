//! Opens engines by URL. The only place that names a concrete one.

use std::{path::Path, sync::Arc};

use sinew_core::{Clock, Error, Kind, Result};
use sinew_engine::kv::Kv;
use sinew_engine_embedded::{EmbeddedKv, Options};

/// The opened key-value engine.
pub(crate) enum KvEngine {
    Embedded(Arc<EmbeddedKv>),
}

impl KvEngine {
    /// Opens what `url` names; `embedded:` without a folder is `kv` in the data folder.
    pub(crate) async fn open(url: &str, data: &Path, clock: Clock) -> Result<Self> {
        let Some(folder) = url.strip_prefix("embedded:") else {
            return Err(Error::new(
                Kind::InvalidArgument,
                "config.engine_unsupported",
                format!("{url:?} is not the URL of an engine that this version has"),
            ));
        };
        let folder = match folder {
            "" => data.join("kv"),
            folder => folder.into(),
        };
        let opened = tokio::task::spawn_blocking(move || {
            EmbeddedKv::open(folder, clock, Options::default())
        });
        let kv = opened.await.map_err(|error| {
            Error::new(
                Kind::Internal,
                "node.defect",
                "the store could not be opened",
            )
            .with_source(error)
        })??;
        Ok(Self::Embedded(Arc::new(kv)))
    }

    pub(crate) fn kv(&self) -> Arc<dyn Kv> {
        match self {
            Self::Embedded(kv) => kv.clone(),
        }
    }

    /// Writes what is left and lets others open it.
    pub(crate) async fn close(&self) -> Result<()> {
        match self {
            Self::Embedded(kv) => kv.close().await,
        }
    }
}
