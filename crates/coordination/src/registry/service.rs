//! The shell around the machine: performs its effects on the store, and hands its lists out.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use sinew_core::{Clock, InstanceId, Kind, Name, Result};
use sinew_engine::kv::{Condition, Kv, Outcome, Revision};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Config, Edit, Instance, Listing, Registered, Registration, Service, ServiceId, Stats, Status,
    Watcher, error, follow,
    inner::{Found, Inner},
    keys,
    machine::{Effect, Input},
    writes::committed,
};

/// Reads that were in step with the store so long ago are not said to be stale.
const IN_STEP: Duration = Duration::from_secs(4);
/// How often a write is decided anew because somebody else changed the instance in between.
const ATTEMPTS: usize = 5;
const LEASE_UNKNOWN: &str = "kv.lease_unknown";

/// The registry of one node. Cheap to clone; it stops when told so, or when the last clone is
/// dropped.
#[derive(Clone)]
pub struct Registry(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    tasks: [AbortOnDropHandle<()>; 3],
}

impl Registry {
    /// Reads what is registered and begins to follow the store. Must be called within a tokio
    /// runtime, which then runs its three tasks. A store that is away is waited for in the background: until it
    /// answers, lists are empty and writes fail with what it answers.
    pub async fn start(kv: Arc<dyn Kv>, clock: Clock, config: Config) -> Result<Self> {
        let inner = Arc::new(Inner::new(kv, clock, config));
        let from = match follow::list(&inner).await {
            Ok(from) => Some(from),
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded) => {
                tracing::warn!(
                    error = error.detail(),
                    "the store is away; the registry begins when it answers"
                );
                None
            }
            Err(error) => return Err(error),
        };
        let follower = tokio::spawn(follow::follow(inner.clone(), from));
        let keeper = tokio::spawn({
            let inner = inner.clone();
            async move { inner.spares.keep(&inner.kv, &inner.clock).await }
        });
        let looking = tokio::spawn({
            let inner = inner.clone();
            async move { inner.look_after().await }
        });
        let tasks = [follower, keeper, looking].map(AbortOnDropHandle::new);
        Ok(Self(Arc::new(Handle { inner, tasks })))
    }

    /// Registers an instance, or replaces what it said before, and gives it its full TTL.
    /// On return this node's readers see it.
    ///
    /// InvalidArgument `registry.address_invalid`, `registry.ttl_invalid`, `registry.metadata_invalid`;
    /// ResourceExhausted `registry.service_full`, `registry.full`; `registry.timeout`; the store's.
    pub async fn register(&self, registration: Registration) -> Result<Registered> {
        let inner = &self.0.inner;
        inner.counters.registrations.fetch_add(1, Relaxed);
        let mut effects = inner.step(Input::Register(Box::new(registration)))?;
        let Some(Effect::Store {
            mut instance,
            expected,
            created,
        }) = effects.pop()
        else {
            unreachable!("a registration is a store or an error")
        };
        let revision = match inner.store_alive(&mut instance, expected).await {
            Ok(Outcome::Committed(revision)) => revision,
            Err(error) if error.code() != LEASE_UNKNOWN => return Err(error),
            // Its lease ended just now, or somebody else changed it: as good as a new instance, but
            // for what others said of it.
            _ => {
                let key = keys::instance(&instance.service, &instance.id);
                let current = inner.within("get", inner.kv.get(&key)).await?;
                if let Some(current) = current.and_then(|entry| inner.read(&entry)) {
                    instance.keep(&current);
                }
                instance.lease = inner.grant_for(&instance).await?;
                committed(inner.store_alive(&mut instance, None).await?)?
            }
        };
        instance.revision = revision;
        inner.visible(revision).await;
        Ok(Registered {
            instance: Arc::from(instance),
            created,
        })
    }

    /// Gives the instance its full TTL again and answers it. Writes nothing durable.
    ///
    /// NotFound `registry.instance_unknown`: register again.
    pub async fn heartbeat(&self, service: &ServiceId, id: &InstanceId) -> Result<Duration> {
        let inner = &self.0.inner;
        inner.counters.heartbeats.fetch_add(1, Relaxed);
        for _ in 0..2 {
            match inner.keep_alive(service, id).await {
                // It may have been registered, or given another lease, through another node.
                Err(e) if e.code() == LEASE_UNKNOWN || e.code() == "registry.instance_unknown" => {}
                other => return other,
            }
            match inner.catch_up(service, id).await? {
                Found::Nothing => break,
                Found::Seen => {}
                Found::Silent(instance) => {
                    if let Some(ttl) = inner.awaken(instance).await? {
                        return Ok(ttl);
                    }
                }
            }
        }
        Err(error::instance_unknown(service, id))
    }

    /// Sets what the instance says of whether it takes requests. On return this node's readers see it.
    ///
    /// NotFound `registry.instance_unknown`; Aborted `registry.contended`.
    pub async fn set_status(
        &self,
        service: &ServiceId,
        id: &InstanceId,
        status: Status,
    ) -> Result<Arc<Instance>> {
        self.edit(service, id, Edit::Status(status)).await
    }

    /// Changes the instance. On return this node's readers see it.
    ///
    /// NotFound `registry.instance_unknown`; Aborted `registry.contended`; InvalidArgument
    /// `registry.metadata_invalid`.
    pub async fn edit(
        &self,
        service: &ServiceId,
        id: &InstanceId,
        edit: Edit,
    ) -> Result<Arc<Instance>> {
        let inner = &self.0.inner;
        for _ in 0..ATTEMPTS {
            let input = Input::Edit(service.clone(), id.clone(), edit.clone());
            match inner.step(input).map(|mut effects| effects.pop()) {
                Ok(Some(Effect::Store {
                    mut instance,
                    expected,
                    ..
                })) => {
                    let key = keys::instance(service, id);
                    let conditions = expected
                        .map(|at| Condition::KeyAt(key, at))
                        .into_iter()
                        .collect();
                    match inner.store(&instance, conditions, false).await {
                        Ok(Outcome::Committed(revision)) => {
                            instance.revision = revision;
                            inner.visible(revision).await;
                            return Ok(Arc::from(instance));
                        }
                        Ok(Outcome::Conflict(_)) => {}
                        Err(error) if error.code() == LEASE_UNKNOWN => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(Some(Effect::Nothing(instance))) => return Ok(instance),
                Ok(_) => unreachable!("a change is stored, or is as asked"),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
            if let Found::Nothing = inner.catch_up(service, id).await? {
                return Err(error::instance_unknown(service, id));
            }
        }
        Err(error::contended(service, id))
    }

    /// Takes the instance out. On return this node's readers no longer see it. Answers whether it
    /// was there.
    pub async fn deregister(&self, service: &ServiceId, id: &InstanceId) -> Result<bool> {
        let inner = &self.0.inner;
        let effect = inner
            .step(Input::Deregister(service.clone(), id.clone()))?
            .pop();
        let key = keys::instance(service, id);
        if let Some(Effect::Remove(Some(known))) = effect
            && inner
                .remove(&known, vec![Condition::KeyAt(key.clone(), known.revision)])
                .await?
        {
            // Nothing hangs on its lease now, and nothing can any more: every write that stays on a
            // lease expects the key at its revision.
            inner.spares.give_back(known.lease, known.ttl);
            return Ok(true);
        }
        // Without a condition an unknown key would be "removed" at a revision that the watch never
        // brings.
        inner
            .remove_keys(service, id, vec![Condition::Present(key)])
            .await
    }

    /// All services that have instances.
    pub fn list(&self) -> Listing {
        self.0.inner.shared.lock().state.listing(None)
    }

    /// The services of one namespace that have instances.
    pub fn list_in(&self, namespace: &Name) -> Listing {
        self.0.inner.shared.lock().state.listing(Some(namespace))
    }

    /// The list of one service, empty when it is not known.
    pub fn service(&self, name: &ServiceId) -> Arc<Service> {
        self.0.inner.shared.lock().state.service(name)
    }

    /// The instances of this id in all services of a namespace: some dialects name no service. It
    /// looks into every service.
    pub fn find(&self, namespace: &Name, id: &InstanceId) -> Vec<Arc<Instance>> {
        let services = self.list_in(namespace).services;
        let found = services.iter().filter_map(|service| service.instance(id));
        found.cloned().collect()
    }

    /// Waits until reads see everything that had happened when this was called. The answer is the
    /// revision that they then show at least.
    ///
    /// Unavailable `registry.behind` when the watch does not keep up; the store's.
    pub async fn newest(&self) -> Result<Revision> {
        self.0.inner.newest().await
    }

    /// For how long reads may not have seen what happened, because the store is away or the watch of it
    /// stands still. `None` while they are in step with the store, which is looked at every second.
    pub fn stale(&self) -> Option<Duration> {
        Some(self.0.inner.age()).filter(|age| *age > IN_STEP)
    }

    /// The list of one service as soon as it is of a later revision than `after`, or after `wait` as it
    /// is then.
    pub async fn changed(&self, name: &ServiceId, after: Revision, wait: Duration) -> Arc<Service> {
        let mut list = self.watch(name);
        let newer = list.wait_for(|service| service.revision > after);
        let newer = tokio::time::timeout(wait, newer).await;
        if let Ok(Ok(service)) = newer {
            return service.clone();
        }
        self.service(name)
    }

    /// Waits until [`list`](Self::list) is of a later revision than `after`, or until `wait` is over.
    pub async fn any_changed(&self, after: Revision, wait: Duration) {
        let mut applied = self.0.inner.applied();
        let newer = applied.wait_for(|revision| *revision > after);
        let _ = tokio::time::timeout(wait, newer).await;
    }

    /// The list of one service, now and whenever it changes. A reader that is slow sees the newest.
    pub fn watch(&self, name: &ServiceId) -> watch::Receiver<Arc<Service>> {
        self.0.inner.watch(name)
    }

    /// Calls `observer` with the list of one service, now and at every change, before the write that
    /// made the change returns: what it keeps is as fresh as the registry itself. It must be quick
    /// and must not call the registry, whose lock is held. It is dropped when it answers `false`.
    pub fn observe(
        &self,
        name: &ServiceId,
        mut observer: impl FnMut(&Arc<Service>) -> bool + Send + 'static,
    ) {
        let mut shared = self.0.inner.shared.lock();
        if observer(&shared.state.service(name)) {
            shared
                .observers
                .entry(name.clone())
                .or_default()
                .push(Box::new(observer));
        }
    }

    /// Follows all services. The present lists come with it.
    pub fn watch_all(&self) -> (Watcher, Vec<Arc<Service>>) {
        Watcher::all(&self.0.inner, None, None)
    }

    /// Follows the services of one namespace. The present lists come with it.
    pub fn watch_in(&self, namespace: Name) -> (Watcher, Vec<Arc<Service>>) {
        Watcher::all(&self.0.inner, Some(namespace), None)
    }

    /// Follows these services. The present lists, empty ones too, come with it.
    pub fn watch_some(&self, names: Vec<ServiceId>) -> (Watcher, Vec<Arc<Service>>) {
        Watcher::some(&self.0.inner, names)
    }

    /// Follows all services, or those of one namespace, for somebody who has everything up to `since`.
    /// What changed after that comes with it, the ends of services too. `None` when not all of that is
    /// remembered, or this node does not come that far in a little while.
    pub async fn watch_since(
        &self,
        namespace: Option<Name>,
        since: Revision,
    ) -> Option<(Watcher, Vec<Arc<Service>>)> {
        let inner = &self.0.inner;
        let there = inner.reaches(since).await;
        let watch = Watcher::all(inner, namespace, Some(since));
        (there && since >= inner.shared.lock().state.floor()).then_some(watch)
    }

    /// Stops following the store, before the store is closed. Readers keep the last lists.
    pub fn stop(&self) {
        self.0.tasks.iter().for_each(|task| task.abort());
    }

    /// What it holds and has done.
    pub fn stats(&self) -> Stats {
        let inner = &self.0.inner;
        let shared = inner.shared.lock();
        Stats {
            services: shared.state.services(),
            instances: shared.state.instances(),
            registrations: inner.counters.registrations.load(Relaxed),
            heartbeats: inner.counters.heartbeats.load(Relaxed),
            departures: shared.state.departures(),
            relists: inner.counters.relists.load(Relaxed),
            critical: shared.state.critical(),
            panics: shared.state.panics(),
            reaped: inner.counters.reaped.load(Relaxed),
        }
    }
}
