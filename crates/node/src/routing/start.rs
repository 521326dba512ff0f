//! With which stored routes a node begins.

use std::{path::Path, sync::Arc, time::Duration};

use sinew_api::rest::model::RoutesFailure;
use sinew_coordination::documents::{Document, Documents};
use sinew_core::{Clock, Error, Kind, Result};
use sinew_gateway::Routing;
use tokio::time::timeout;

use super::{Own, document_name, snapshot::Snapshot};

/// How long the start waits for the store: the gateway is not to be down for as long as the store is.
const WITHIN: Duration = Duration::from_secs(5);
/// How long it looks for an earlier version that fits.
const SEARCH_WITHIN: Duration = Duration::from_secs(10);

/// What a node begins with.
pub(crate) struct Begun {
    /// What its gateway shall serve.
    pub(crate) routing: Routing,
    /// The stored version in it.
    pub(super) served: Option<Arc<Document>>,
    /// The newest stored version; `None` when the store did not tell.
    pub(super) stored: Option<u64>,
    pub(super) failure: Option<RoutesFailure>,
    pub(super) snapshot: Snapshot,
}

/// Reads the stored routes, or their copy in the data folder when the store is away. Always answers
/// something that the gateway can serve, as long as the file's own routes are good.
pub(crate) async fn begin(documents: &Documents, own: &Own, data: &Path, clock: &Clock) -> Begun {
    let snapshot = Snapshot::in_folder(data);
    let mut begun = Begun {
        routing: own.routing.clone(),
        served: None,
        stored: None,
        failure: None,
        snapshot,
    };
    match timeout(WITHIN, documents.current(&document_name())).await {
        Ok(Ok(None)) => begun.stored = Some(0),
        Ok(Ok(Some(document))) => begun.with_stored(documents, own, document, clock).await,
        Ok(Err(error)) if error.kind() == Kind::DataLoss => {
            begun.with_damaged(documents, own, &error, clock).await;
        }
        Ok(Err(error)) => begun.without_store(own, error.detail()),
        Err(_) => begun.without_store(own, "it did not answer in time"),
    }
    begun
}

impl Begun {
    async fn with_stored(
        &mut self,
        documents: &Documents,
        own: &Own,
        document: Document,
        clock: &Clock,
    ) {
        let newest = document.version.version;
        self.stored = Some(newest);
        if let Err(error) = self.serve(own, document) {
            self.go_back(documents, own, newest, &error, clock).await;
        }
    }

    async fn with_damaged(
        &mut self,
        documents: &Documents,
        own: &Own,
        error: &Error,
        clock: &Clock,
    ) {
        let versions = timeout(WITHIN, documents.versions(&document_name())).await;
        let versions = versions.ok().and_then(Result::ok).unwrap_or_default();
        let newest = versions.first().map_or(1, |version| version.version);
        self.stored = Some(newest);
        self.go_back(documents, own, newest, error, clock).await;
    }

    /// Takes the last version that can be served, since `newest` cannot.
    async fn go_back(
        &mut self,
        documents: &Documents,
        own: &Own,
        newest: u64,
        error: &Error,
        clock: &Clock,
    ) {
        self.failure = Some(failure(newest, error, clock));
        let search = self.search(documents, own, newest);
        if timeout(SEARCH_WITHIN, search).await.is_err() {
            tracing::error!("the history of the stored routes cannot be read in time");
        }
        tracing::error!(
            version = newest,
            serving = self.version(),
            code = error.code(),
            error = error.detail(),
            "the newest stored routes cannot be served by this node; it begins with the last ones that can"
        );
    }

    /// Takes the newest version before `newest` that fits.
    async fn search(&mut self, documents: &Documents, own: &Own, newest: u64) {
        let name = document_name();
        let versions = documents.versions(&name).await.unwrap_or_default();
        for version in versions.iter().map(|known| known.version) {
            if version < newest
                && let Ok(document) = documents.version(&name, version).await
                && self.serve(own, document).is_ok()
            {
                return;
            }
        }
        if let Some(document) = self.snapshot.read() {
            let _ = self.serve(own, document);
        }
    }

    fn without_store(&mut self, own: &Own, why: impl std::fmt::Display) {
        let Some(document) = self.snapshot.read() else {
            tracing::warn!(%why, "the store is away; the gateway begins with the routes of its file");
            return;
        };
        let version = document.version.version;
        match self.serve(own, document) {
            Ok(()) => tracing::warn!(
                %why,
                version,
                "the store is away; the gateway begins with the copy of the stored routes in the data folder, which may be old"
            ),
            Err(error) => tracing::error!(
                %why,
                version,
                error = error.detail(),
                "the store is away, and the copy of the stored routes does not fit; the gateway begins with the routes of its file"
            ),
        }
    }

    fn serve(&mut self, own: &Own, document: Document) -> Result<()> {
        self.routing = own.with(&document.content)?;
        self.served = Some(Arc::new(document));
        Ok(())
    }

    fn version(&self) -> u64 {
        let served = self.served.as_ref();
        served.map_or(0, |document| document.version.version)
    }
}

pub(super) fn failure(version: u64, error: &Error, clock: &Clock) -> RoutesFailure {
    RoutesFailure {
        version,
        code: error.code().to_owned(),
        reason: error.message().to_owned(),
        since_ms: clock.now().as_millis(),
    }
}
