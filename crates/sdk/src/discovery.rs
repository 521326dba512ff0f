//! Where the instances of other services are: one event stream from the node for all services that
//! were ever called, and the last known lists when the node is away.

mod events;
mod instance;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use sinew_core::{Backoff, InstanceId, Name};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::node::{Node, ServiceList};
use events::Event;
pub(crate) use events::Events;
pub(crate) use instance::{Busy, Instance};

/// The node sends a sign of life every 5 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(12);
/// After a reconnection, so long an empty first list is not believed: a node that lost its data
/// hears from the instances again within that time, while they serve all along.
const EMPTY_GRACE: Duration = Duration::from_secs(5);
/// More services than that are not called by one process; names made up by clients might be.
const MAX_SERVICES: usize = 256;

pub(crate) type Instances = Arc<[Arc<Instance>]>;

/// Hands out the instances of services. Ends its watch when it is dropped.
pub(crate) struct Discovery {
    shared: Arc<Shared>,
    node: Option<Arc<Node>>,
    watch: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

struct Shared {
    services: Mutex<BTreeMap<Name, watch::Sender<Option<Instances>>>>,
    /// A service was added, so the stream must be opened anew.
    added: Notify,
    /// Our own entry, and whom to tell when it is in doubt.
    own: Mutex<Option<(Name, InstanceId)>>,
    doubt: Arc<Notify>,
}

impl Discovery {
    pub(crate) fn new(node: Option<Arc<Node>>) -> Self {
        let shared = Shared {
            services: Mutex::default(),
            added: Notify::new(),
            own: Mutex::default(),
            doubt: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
            node,
            watch: Mutex::default(),
        }
    }

    /// Fires when there is reason to think that the node forgot our own instance: the stream broke,
    /// or the list shows us not.
    pub(crate) fn doubt(&self) -> Arc<Notify> {
        self.shared.doubt.clone()
    }

    /// Watches our own entry too.
    pub(crate) fn watch_own(&self, service: &Name, instance: &InstanceId) {
        *self.shared.own.lock() = Some((service.clone(), instance.clone()));
        let _ = self.subscribe(service);
    }

    /// Instances that are known without any node.
    pub(crate) fn set_fixed(&self, service: &Name, instances: Vec<Instance>) {
        let list = instances.into_iter().map(Arc::new).collect();
        self.shared
            .services
            .lock()
            .entry(service.clone())
            .or_insert_with(|| watch::Sender::new(None))
            .send_replace(Some(list));
    }

    /// The instances of `service` that take new requests. For a service asked for the first time,
    /// waits up to `patience` for the first list; `None` when there was none.
    pub(crate) async fn instances(&self, service: &Name, patience: Duration) -> Option<Instances> {
        let mut list = self.subscribe(service)?;
        if let Some(known) = &*list.borrow() {
            return Some(known.clone());
        }
        self.node.as_ref()?;
        let first = list.wait_for(Option::is_some);
        tokio::time::timeout(patience, first)
            .await
            .ok()?
            .ok()?
            .clone()
    }

    fn subscribe(&self, service: &Name) -> Option<watch::Receiver<Option<Instances>>> {
        let mut services = self.shared.services.lock();
        if let Some(sender) = services.get(service) {
            return Some(sender.subscribe());
        }
        if services.len() >= MAX_SERVICES {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        services.insert(service.clone(), sender);
        drop(services);
        self.shared.added.notify_one();
        if let Some(node) = &self.node {
            let mut watch = self.watch.lock();
            if watch
                .as_ref()
                .is_none_or(tokio::task::JoinHandle::is_finished)
            {
                *watch = Some(tokio::spawn(watch_for_ever(
                    self.shared.clone(),
                    node.clone(),
                )));
            }
        }
        Some(receiver)
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        if let Some(watch) = &*self.watch.lock() {
            watch.abort();
        }
    }
}

/// Why a stream ended.
enum End {
    Broken,
    ServiceAdded,
}

async fn watch_for_ever(shared: Arc<Shared>, node: Arc<Node>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    loop {
        let names: BTreeSet<Name> = shared.services.lock().keys().cloned().collect();
        match node.watch(names.iter()).await {
            Ok(body) => {
                if backoff.attempts() > 0 {
                    tracing::info!("watching the registry again");
                }
                backoff.reset();
                match (Stream {
                    shared: &shared,
                    names,
                })
                .follow(body)
                .await
                {
                    End::ServiceAdded => continue,
                    End::Broken => {
                        tracing::warn!("the watch of the registry broke off, using the last lists");
                        shared.doubt.notify_one();
                    }
                }
            }
            Err(error) => {
                let error = error.detail();
                match backoff.attempts() {
                    0 => tracing::warn!(error, "cannot watch the registry, trying again"),
                    _ => tracing::debug!(error, "cannot watch the registry, trying again"),
                }
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

struct Stream<'a> {
    shared: &'a Shared,
    /// What this stream was opened for.
    names: BTreeSet<Name>,
}

/// What one stream has told so far.
#[derive(Default)]
struct Lists {
    seen: BTreeSet<Name>,
    /// Those that were listed with instances; from then on an empty list is believed.
    filled: BTreeSet<Name>,
    /// Those that were empty from the start although instances are known.
    doubtful: BTreeSet<Name>,
}

impl Stream<'_> {
    async fn follow(&self, mut body: Incoming) -> End {
        let mut events = Events::default();
        let mut lists = Lists::default();
        let settled = tokio::time::sleep(EMPTY_GRACE);
        tokio::pin!(settled);
        loop {
            let silent = Instant::now() + SILENCE_LIMIT;
            tokio::select! {
                frame = tokio::time::timeout_at(silent, body.frame()) => {
                    let Ok(Some(Ok(frame))) = frame else { return End::Broken };
                    let Ok(data) = frame.into_data() else { continue };
                    if events.push(&data).is_err() {
                        tracing::warn!("the registry's stream cannot be read");
                        return End::Broken;
                    }
                    while let Some(event) = events.next() {
                        self.apply(event, &mut lists);
                    }
                }
                () = self.shared.added.notified() => {
                    let services = self.shared.services.lock();
                    if services.keys().any(|name| !self.names.contains(name)) {
                        return End::ServiceAdded;
                    }
                }
                () = &mut settled, if !lists.doubtful.is_empty() => {
                    for name in std::mem::take(&mut lists.doubtful) {
                        self.store(&name, Vec::new());
                    }
                }
            }
        }
    }

    fn apply(&self, event: Event, lists: &mut Lists) {
        match event.name.as_str() {
            "service" => match serde_json::from_str::<ServiceList>(&event.data) {
                Ok(list) => {
                    self.check_own(&list);
                    let instances = list.instances.iter().filter_map(Instance::listed).collect();
                    self.take(list.name, instances, lists);
                }
                Err(error) => {
                    tracing::warn!(%error, "an event of the registry's stream cannot be read");
                }
            },
            "synced" => {
                // What was not listed has no instances.
                for name in self.names.difference(&lists.seen.clone()) {
                    self.take(name.clone(), Vec::new(), lists);
                }
            }
            _ => {}
        }
    }

    fn take(&self, service: Name, instances: Vec<Instance>, lists: &mut Lists) {
        lists.seen.insert(service.clone());
        if !instances.is_empty() {
            lists.doubtful.remove(&service);
            lists.filled.insert(service.clone());
        } else if self.known(&service) && !lists.filled.contains(&service) {
            lists.doubtful.insert(service);
            return;
        }
        self.store(&service, instances);
    }

    fn check_own(&self, list: &ServiceList) {
        if let Some((service, instance)) = &*self.shared.own.lock()
            && *service == list.name
            && !list.instances.iter().any(|listed| listed.id == *instance)
        {
            self.shared.doubt.notify_one();
        }
    }

    /// Whether some instance of the service is known.
    fn known(&self, service: &Name) -> bool {
        let services = self.shared.services.lock();
        services.get(service).is_some_and(|sender| {
            sender
                .borrow()
                .as_ref()
                .is_some_and(|instances| !instances.is_empty())
        })
    }

    fn store(&self, service: &Name, listed: Vec<Instance>) {
        let services = self.shared.services.lock();
        let Some(sender) = services.get(service) else {
            return;
        };
        let before = sender.borrow().clone().unwrap_or_default();
        // An instance that stays keeps what is known of its load and its failures.
        let list = listed
            .into_iter()
            .map(|new| {
                let same = before.iter().find(|old| old.is_same(&new));
                same.cloned().unwrap_or_else(|| Arc::new(new))
            })
            .collect();
        sender.send_replace(Some(list));
    }
}
