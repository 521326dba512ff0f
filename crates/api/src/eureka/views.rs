//! The two documents that every client asks for again and again, the whole registry and what changed
//! lately, made from the live lists.
//!
//! A document is kept as long as the lists that it was made from are the newest, so nothing is ever
//! stale. One is made at a time: requests that arrive meanwhile share the next, however many they are,
//! which bounds what a changing registry with thousands of clients can cost.

use std::{
    collections::HashMap,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use sinew_coordination::registry::{Registry, Service, ServiceId};
use sinew_core::{Clock, Error, Kind, Name, Result};
use tokio::sync::Mutex;

use super::{
    delta::Log,
    shown::{self, Application},
    wire::Form,
};

/// What all kept documents together may hold, bytes.
const KEPT_BYTES: usize = 64 << 20;
/// Shorter documents gain nothing from being compressed.
const WORTH_COMPRESSING: usize = 512;

/// Which document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) namespace: Name,
    /// What changed lately, not all.
    pub(super) delta: bool,
    pub(super) form: Form,
    pub(super) gzip: bool,
}

/// A document, and whether it is compressed.
#[derive(Clone)]
pub(super) struct Document {
    pub(super) bytes: Bytes,
    pub(super) gzip: bool,
}

struct Kept {
    document: Document,
    /// Of the lists that it was made from.
    generation: u64,
    /// The turn in which it was made.
    turn: u64,
    /// When it is no longer true though nothing happens.
    until: Option<Duration>,
}

#[derive(Default)]
struct State {
    /// The lists of the newest generation.
    services: Vec<Arc<Service>>,
    generation: u64,
    log: Log<ServiceId, Arc<Service>>,
    kept: HashMap<Wanted, Kept>,
}

/// The documents of one registry.
pub(super) struct Views {
    registry: Registry,
    clock: Clock,
    state: Mutex<State>,
    /// How many documents were begun.
    turns: AtomicU64,
}

impl Views {
    pub(super) fn new(registry: Registry, clock: Clock) -> Self {
        Self {
            registry,
            clock,
            state: Mutex::default(),
            turns: AtomicU64::new(0),
        }
    }

    /// The document, at least as new as this call.
    pub(super) async fn get(&self, wanted: Wanted) -> Result<Document> {
        let arrived = self.turns.load(SeqCst);
        let mut state = self.state.lock().await;
        let now = self.clock.monotonic();
        if let Some(kept) = state.kept.get(&wanted)
            && kept.turn > arrived
        {
            return Ok(kept.document.clone());
        }
        let turn = self.turns.fetch_add(1, SeqCst) + 1;
        let listing = self.registry.list();
        if !same(&state.services, &listing.services) {
            state.generation += 1;
            state.services = listing.services;
        }
        if let Some(kept) = state.kept.get(&wanted)
            && kept.generation == state.generation
            && kept.until.is_none_or(|until| until > now)
        {
            return Ok(kept.document.clone());
        }
        let services = &state.services;
        let of_namespace = services
            .iter()
            .filter(|service| service.id.namespace == wanted.namespace);
        let of_namespace: Vec<_> = of_namespace.cloned().collect();
        let (applications, until) = if wanted.delta {
            let lists = services
                .iter()
                .map(|service| (service.id.clone(), service.clone()));
            let lists: Vec<_> = lists.collect();
            state.log.observe(now, lists);
            (Some(state.changed(&wanted.namespace)), state.log.until())
        } else {
            (None, None)
        };
        let (form, gzip) = (wanted.form, wanted.gzip);
        // A large registry takes a while, in which the others of this thread shall not wait.
        let made = tokio::task::spawn_blocking(move || {
            let hash = shown::hash(&of_namespace);
            let applications = applications.unwrap_or_else(|| {
                of_namespace
                    .iter()
                    .map(|service| Application::whole(service))
                    .collect()
            });
            compressed(
                shown::applications(form, listing.revision, &hash, &applications),
                gzip,
            )
        });
        let document = made.await.map_err(|error| {
            Error::new(
                Kind::Internal,
                "node.defect",
                "the registry could not be shown",
            )
            .with_context(error.to_string())
        })?;
        let generation = state.generation;
        state.keep(
            wanted,
            Kept {
                document: document.clone(),
                generation,
                turn,
                until,
            },
        );
        Ok(document)
    }
}

impl State {
    /// What changed lately in a namespace, as applications.
    fn changed(&self, namespace: &Name) -> Vec<Application> {
        let mut applications = Vec::new();
        for (id, changes) in self
            .log
            .changes()
            .filter(|(id, _)| id.namespace == *namespace)
        {
            let instances: Vec<_> = changes
                .map(|(action, seen)| (Some(action), seen.clone()))
                .collect();
            let service = self.services.binary_search_by(|service| service.id.cmp(id));
            let name = match (service, instances.first()) {
                (Ok(at), _) => shown::application_name(&self.services[at]),
                (Err(_), Some((_, last))) => shown::name_of(id, Some(last.instance.spelling())),
                (Err(_), None) => continue,
            };
            applications.push(Application {
                name,
                service: id.name.as_str().into(),
                instances,
            });
        }
        applications
    }

    fn keep(&mut self, wanted: Wanted, kept: Kept) {
        let generation = self.generation;
        self.kept.retain(|_, kept| kept.generation == generation);
        let bytes: usize = self
            .kept
            .values()
            .map(|kept| kept.document.bytes.len())
            .sum();
        if bytes + kept.document.bytes.len() > KEPT_BYTES {
            self.kept.clear();
        }
        if kept.document.bytes.len() <= KEPT_BYTES {
            self.kept.insert(wanted, kept);
        }
    }
}

fn same(a: &[Arc<Service>], b: &[Arc<Service>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// The document, compressed if the client takes that and it is worth it.
pub(super) fn compressed(bytes: Vec<u8>, gzip: bool) -> Document {
    if !gzip || bytes.len() < WORTH_COMPRESSING {
        return Document {
            bytes: bytes.into(),
            gzip: false,
        };
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    let written = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    Document {
        bytes: written
            .expect("a vector takes all that is written to it")
            .into(),
        gzip: true,
    }
}
