//! Serves what is stored: takes in each new version, or keeps the last one that fits.

use std::{fmt::Write, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sinew_api::rest::model::{self, RoutesFailure, RoutesStatus};
use sinew_coordination::documents::{Document, Followed};
use sinew_core::{Clock, Result, Timestamp};
use sinew_gateway::{Gateway, Route};
use tokio::sync::watch;

use super::{
    Begun, Own,
    difference::{differences, summary},
    snapshot::Snapshot,
    start::failure,
};

/// What the gateway of this node serves, and how it came to that.
pub(super) struct Applier {
    gateway: Arc<Gateway>,
    clock: Clock,
    snapshot: Snapshot,
    /// What was written as the copy in the data folder, or that it was removed; nothing yet at the start.
    copied: Mutex<Option<Option<Arc<Document>>>>,
    state: Mutex<State>,
    /// The newest version that was taken in or found unfit.
    seen: watch::Sender<u64>,
}

struct State {
    own: Own,
    served: Option<Arc<Document>>,
    /// The newest version; `None` when the store was not reached yet.
    stored: Option<u64>,
    is_in_touch: bool,
    failure: Option<RoutesFailure>,
    /// The version that does not fit.
    unfit: Option<Arc<Document>>,
    failures: u64,
    changes: u64,
    changed: Timestamp,
}

impl Applier {
    /// An applier for a gateway that serves what the node began with.
    pub(super) fn new(begun: Begun, own: Own, gateway: Arc<Gateway>, clock: Clock) -> Self {
        let is_in_touch = begun.stored.is_some();
        let state = State {
            own,
            stored: begun.stored,
            is_in_touch,
            failures: u64::from(begun.failure.is_some()),
            failure: begun.failure,
            unfit: None,
            changes: 0,
            changed: clock.now(),
            served: begun.served,
        };
        Self {
            gateway,
            clock,
            snapshot: begun.snapshot,
            copied: Mutex::default(),
            seen: watch::Sender::new(state.stored.unwrap_or(0)),
            state: Mutex::new(state),
        }
    }

    /// Takes in whatever the store shows, until it shows nothing more.
    pub(super) async fn run(self: Arc<Self>, mut stored: watch::Receiver<Followed>) {
        while stored.changed().await.is_ok() {
            let followed = stored.borrow_and_update().clone();
            let applier = self.clone();
            // Building the table of many routes and writing the copy take their time.
            let taken = tokio::task::spawn_blocking(move || applier.take_in(&followed));
            if let Err(error) = taken.await {
                tracing::error!(%error, "a version of the stored routes could not be taken in");
            }
        }
    }

    fn take_in(&self, followed: &Followed) {
        let mut state = self.state.lock();
        state.is_in_touch = followed.is_in_touch;
        if !followed.is_known {
            return;
        }
        let version = number(followed.document.as_ref());
        state.stored = Some(version);
        let is_served = state.served.as_ref().map(|served| &served.version)
            == followed.document.as_ref().map(|document| &document.version);
        let is_refused = state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.version == version);
        if is_served {
            state.failure = None;
        } else if is_refused {
            state.unfit = followed.document.clone();
        } else {
            self.apply(&mut state, followed.document.clone());
        }
        drop(state);
        self.seen.send_replace(version);
        self.copy();
    }

    fn apply(&self, state: &mut State, document: Option<Arc<Document>>) {
        let version = number(document.as_ref());
        let before = number(state.served.as_ref());
        let set = |routing| self.gateway.set_routing(routing).map(|_| ());
        let served = match &document {
            Some(document) => state.own.hand_over(&document.content, set),
            None => set(state.own.routing.clone()),
        };
        if let Err(error) = served {
            state.failures += 1;
            state.failure = Some(failure(version, &error, &self.clock));
            state.unfit = document;
            tracing::error!(
                version,
                serving = before,
                code = error.code(),
                error = error.detail(),
                "new stored routes cannot be served by this node; it goes on with the last ones that can"
            );
            return;
        }
        log(state.served.as_deref(), document.as_deref());
        state.failure = None;
        state.served = document;
        state.changes += 1;
        state.changed = self.clock.now();
    }

    /// Brings the copy in the data folder to what is served; not under the lock of the state, which the
    /// control API waits for.
    fn copy(&self) {
        let mut copied = self.copied.lock();
        let state = self.state.lock();
        let (served, is_known) = (state.served.clone(), state.stored.is_some());
        drop(state);
        // While the store has not told what there is, the copy is all that is known of it.
        if !is_known || *copied == Some(served.clone()) {
            return;
        }
        match &served {
            Some(document) => self.snapshot.write(document),
            None => self.snapshot.remove(),
        }
        *copied = Some(served);
    }

    /// Replaces what this node has of its own; leaves all as it was when that does not go together with
    /// what is served.
    pub(super) fn set_own(&self, own: Own) -> Result<()> {
        let mut state = self.state.lock();
        let set = |routing| self.gateway.set_routing(routing).map(|_| ());
        match &state.served {
            Some(document) => own.hand_over(&document.content, set)?,
            None => set(own.routing.clone())?,
        }
        state.own = own;
        state.changed = self.clock.now();
        state.changes += 1;
        // What did not fit may fit now.
        if state.failure.take().is_some()
            && let Some(unfit) = state.unfit.take()
        {
            self.apply(&mut state, Some(unfit));
        }
        drop(state);
        self.copy();
        Ok(())
    }

    pub(super) fn own(&self) -> Own {
        self.state.lock().own.clone()
    }

    /// Waits until this version, or a later one, was taken in or found unfit.
    pub(super) async fn seen(&self, version: u64) {
        let mut seen = self.seen.subscribe();
        let _ = seen.wait_for(|seen| *seen >= version).await;
    }

    pub(super) fn version(&self) -> u64 {
        number(self.state.lock().served.as_ref())
    }

    pub(super) fn status(&self) -> RoutesStatus {
        self.state.lock().status()
    }

    /// The status, the routes that are served, and how many of them are the file's; those come first.
    pub(super) fn served(&self) -> (RoutesStatus, Vec<Arc<Route>>, usize) {
        let state = self.state.lock();
        let (_, routes) = self.gateway.routes();
        (state.status(), routes, state.own.routing.routes.len())
    }

    pub(super) fn metrics(&self, text: &mut String) {
        let state = self.state.lock();
        let status = state.status();
        let figures = [
            (
                "served_version",
                "gauge",
                "The version of the stored routes that this node serves.",
                status.version,
            ),
            (
                "stored_version",
                "gauge",
                "The newest version that this node knows of.",
                status.stored_version.unwrap_or(0),
            ),
            (
                "stale",
                "gauge",
                "Whether the store is out of reach, so that there may be a newer version.",
                u64::from(status.is_stale),
            ),
            (
                "unfit",
                "gauge",
                "Whether the newest version cannot be served by this node.",
                u64::from(status.failure.is_some()),
            ),
            (
                "failures_total",
                "counter",
                "Versions that could not be served by this node.",
                state.failures,
            ),
            (
                "changes_total",
                "counter",
                "Changes of what is served.",
                state.changes,
            ),
            (
                "changed_timestamp_seconds",
                "gauge",
                "When what is served changed last.",
                state.changed.as_secs(),
            ),
        ];
        for (name, kind, help, value) in figures {
            let _ = write!(
                text,
                "# HELP sinew_routes_{name} {help}\n# TYPE sinew_routes_{name} {kind}\n\
                 sinew_routes_{name} {value}\n"
            );
        }
    }
}

impl State {
    fn status(&self) -> RoutesStatus {
        RoutesStatus {
            version: number(self.served.as_ref()),
            stored_version: self.stored,
            is_stale: !self.is_in_touch,
            changed_ms: self.changed.as_millis(),
            failure: self.failure.clone(),
        }
    }
}

fn number(document: Option<&Arc<Document>>) -> u64 {
    document.map_or(0, |document| document.version.version)
}

/// The content as JSON; what was stored was JSON.
pub(super) fn parsed(document: Option<&Document>) -> Value {
    document
        .and_then(|document| serde_json::from_slice(&document.content).ok())
        .unwrap_or_else(|| json!({}))
}

fn log(before: Option<&Document>, after: Option<&Document>) {
    let changes: Vec<model::RouteChange> = differences(&parsed(before), &parsed(after));
    let from = before.map_or(0, |document| document.version.version);
    let changes = summary(&changes);
    match after.map(|document| &document.version) {
        Some(version) => tracing::info!(
            from,
            to = version.version,
            author = version.author,
            note = version.note,
            restores = version.restores,
            changes,
            "the routes have changed"
        ),
        None => tracing::warn!(
            from,
            changes,
            "the store has no routes any more; the gateway serves those of its file alone"
        ),
    }
}
