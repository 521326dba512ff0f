//! The routes as the control API reads and changes them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use sinew_api::rest::{By, RoutesControl, model};
use sinew_coordination::documents::{Change, Document, Documents, Version, Written, hash};
use sinew_core::{Clock, Error, Kind, Name, Result};
use sinew_gateway::{Auth, Gateway, Routing};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Begun, Own,
    apply::{Applier, parsed},
    difference::{differences, summary},
    document_name, edit,
};
use crate::view;

/// How often a change of one route is made anew because somebody else changed the routes.
const ATTEMPTS: usize = 20;
/// How long a change waits to be served by this node.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

/// The routes of this node. Cheap to clone; it stops when told so, or when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Control {
    documents: Documents,
    applier: Arc<Applier>,
    task: Arc<AbortOnDropHandle<()>>,
}

impl Control {
    /// Begins to follow the stored routes. Must be called within the runtime that shall do so.
    pub(crate) fn start(
        documents: Documents,
        begun: Begun,
        own: Own,
        gateway: Arc<Gateway>,
        clock: Clock,
    ) -> Self {
        let applier = Arc::new(Applier::new(begun, own, gateway, clock));
        let stored = documents.follow(&document_name());
        let task = tokio::spawn(applier.clone().run(stored));
        Self {
            documents,
            applier,
            task: Arc::new(AbortOnDropHandle::new(task)),
        }
    }

    /// Stops following the store, before the store is closed. The gateway goes on with what it serves.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Replaces the routes of the file; leaves all as it was when they do not go together with the
    /// stored ones that are served. Answers in few words what changed.
    pub(crate) fn set_file_routes(&self, routing: Routing) -> Result<String> {
        let own = self.applier.own();
        let asks_for_token = |route: &sinew_gateway::Route| route.auth.contains(&Auth::Jwt);
        if !own.has_jwt && routing.routes.iter().any(asks_for_token) {
            return Err(Error::new(
                Kind::FailedPrecondition,
                "config.needs_restart",
                "a route asks for auth = [\"jwt\"], and the node was started without [auth.jwt]: start it again",
            ));
        }
        let as_json = |routing: &Routing| serde_json::to_value(routing).unwrap_or_default();
        let changes = differences(&as_json(&own.routing), &as_json(&routing));
        self.applier.set_own(Own { routing, ..own })?;
        Ok(summary(&changes))
    }

    /// The routes of the file, as they are now.
    pub(crate) fn file_routes(&self) -> Routing {
        self.applier.own().routing
    }

    pub(crate) fn status(&self) -> model::RoutesStatus {
        self.applier.status()
    }

    pub(crate) fn metrics(&self, text: &mut String) {
        self.applier.metrics(text);
    }

    async fn current(&self) -> Result<Option<Document>> {
        self.documents.current(&document_name()).await
    }

    /// The newest document to compare with; none when it is damaged, which must not keep it from being
    /// replaced.
    async fn comparable(&self) -> Result<Option<Document>> {
        match self.current().await {
            Err(error) if error.kind() == Kind::DataLoss => Ok(None),
            other => other,
        }
    }

    /// Stores a document that this node could serve, and waits until it does.
    async fn store(
        &self,
        before: Option<&Document>,
        document: &Value,
        restores: Option<u64>,
        by: By,
    ) -> Result<model::RoutesWritten> {
        self.applier.own().check(document)?;
        let change = Change {
            content: encode(document),
            author: by.author,
            note: by.note,
            expected: by.expected,
            restores,
        };
        let Written { version, is_new } = self.documents.write(&document_name(), &change).await?;
        let seen = self.applier.seen(version.version);
        let _ = tokio::time::timeout(SERVED_WITHIN, seen).await;
        let changes = match is_new {
            true => differences(&parsed(before), document),
            false => Vec::new(),
        };
        Ok(model::RoutesWritten {
            is_new,
            is_served: self.applier.version() >= version.version,
            version: described(version),
            changes,
        })
    }

    /// Changes the newest document; anew when somebody else was quicker, unless a version is expected.
    async fn edit(
        &self,
        by: By,
        edit: impl Fn(&mut Value) -> Result<()> + Sync,
    ) -> Result<model::RoutesWritten> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let current = self.current().await?;
            let mut document = parsed(current.as_ref());
            edit(&mut document)?;
            let by_now = By {
                expected: by.expected.or(Some(number(current.as_ref()))),
                ..by.clone()
            };
            match self.store(current.as_ref(), &document, None, by_now).await {
                Err(error)
                    if error.code() == "documents.changed_meanwhile"
                        && by.expected.is_none()
                        && attempts < ATTEMPTS => {}
                other => return other,
            }
        }
    }

    /// Refuses to change a route that stands in this node's file.
    fn check_not_in_file(&self, name: &Name) -> Result<()> {
        let own = self.applier.own();
        let is_named = |route: &sinew_gateway::Route| route.name.as_ref() == Some(name);
        if !own.routing.routes.iter().any(is_named) {
            return Ok(());
        }
        Err(Error::new(
            Kind::AlreadyExists,
            "routes.from_file",
            format!(
                "route {name} stands in the sinew.toml of this node; change it there, or take it out there \
                 first to have it among the stored routes"
            ),
        ))
    }

    async fn document(&self, version: u64) -> Result<Option<Document>> {
        match version {
            0 => Ok(None),
            _ => self
                .documents
                .version(&document_name(), version)
                .await
                .map(Some),
        }
    }
}

#[async_trait]
impl RoutesControl for Control {
    fn served(&self) -> model::Routes {
        let (status, routes, own) = self.applier.served();
        model::Routes {
            status,
            routes: view::listed(&routes, own),
        }
    }

    async fn check(&self, document: Value) -> Result<model::RoutesCheck> {
        edit::check_shape(&document)?;
        let current = self.current().await?;
        let fault = self.applier.own().check(&document).err();
        Ok(model::RoutesCheck {
            version: number(current.as_ref()),
            fits: fault.is_none(),
            code: fault.as_ref().map(|fault| fault.code().to_owned()),
            fault: fault.map(|fault| fault.message().to_owned()),
            changes: differences(&parsed(current.as_ref()), &document),
        })
    }

    async fn replace(&self, document: Value, by: By) -> Result<model::RoutesWritten> {
        edit::check_shape(&document)?;
        // What it is compared with is for people; the condition on the version is checked by the write.
        let current = self.comparable().await?;
        self.store(current.as_ref(), &document, None, by).await
    }

    async fn set(&self, name: Name, route: Value, by: By) -> Result<model::RoutesWritten> {
        self.check_not_in_file(&name)?;
        self.edit(by, |document| edit::set(document, &name, route.clone()))
            .await
    }

    async fn delete(&self, name: Name, by: By) -> Result<model::RoutesWritten> {
        self.check_not_in_file(&name)?;
        self.edit(by, |document| edit::delete(document, &name))
            .await
    }

    async fn roll_back(&self, version: u64, by: By) -> Result<model::RoutesWritten> {
        let old = self.document(version).await?;
        let current = self.comparable().await?;
        let content = parsed(old.as_ref());
        self.store(current.as_ref(), &content, Some(version), by)
            .await
    }

    async fn versions(&self) -> Result<model::RoutesVersions> {
        let versions = self.documents.versions(&document_name()).await?;
        Ok(model::RoutesVersions {
            versions: versions.into_iter().map(described).collect(),
        })
    }

    async fn version(&self, version: Option<u64>) -> Result<model::RoutesDocument> {
        let document = match version {
            None => self.current().await?,
            Some(version) => self.document(version).await?,
        };
        let content = parsed(document.as_ref());
        let version = document.map_or_else(
            || model::RoutesVersion {
                version: 0,
                time_ms: 0,
                author: String::new(),
                note: String::new(),
                restores: None,
                bytes: encode(&content).len() as u64,
                hash: hash(&encode(&content)),
            },
            |document| described(document.version),
        );
        Ok(model::RoutesDocument {
            version,
            document: content,
        })
    }
}

fn number(document: Option<&Document>) -> u64 {
    document.map_or(0, |document| document.version.version)
}

/// Without blanks and with sorted fields: what says the same has the same hash.
fn encode(document: &Value) -> bytes::Bytes {
    let text = serde_json::to_vec(document).expect("JSON serialises");
    text.into()
}

fn described(version: Version) -> model::RoutesVersion {
    model::RoutesVersion {
        version: version.version,
        time_ms: version.time.as_millis(),
        author: version.author,
        note: version.note,
        restores: version.restores,
        bytes: version.bytes as u64,
        hash: version.hash,
    }
}
