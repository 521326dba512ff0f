//! The shell around the machine: performs its effects on the store, and hands its lists out.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use sinew_core::{Clock, InstanceId, Kind, Result};
use sinew_engine::kv::{Condition, Entry, Kv, LeaseId, Outcome, Revision, Write};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Config, Edit, Instance, Listing, Registered, Registration, Service, ServiceId, Stats, Status,
    Watcher, error, follow, keys,
    machine::{Effect, Input, State, step},
    model,
    spares::Spares,
};

/// How often a write is decided anew because somebody else changed the instance in between.
const ATTEMPTS: usize = 5;
/// How often the dead are looked after.
const TICK: Duration = Duration::from_secs(1);
const REAPS_AT_ONCE: usize = 32;
const LEASE_UNKNOWN: &str = "kv.lease_unknown";

/// The registry of one node. Cheap to clone; it stops when told so, or when the last clone is
/// dropped.
#[derive(Clone)]
pub struct Registry(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    tasks: [AbortOnDropHandle<()>; 3],
}

pub(super) struct Inner {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) clock: Clock,
    pub(super) counters: Counters,
    config: Config,
    shared: Mutex<Shared>,
    /// The revision that readers see; sent after its lists are.
    applied: watch::Sender<Revision>,
    spares: Spares,
    /// What many instances say, said once.
    texts: Mutex<model::Texts>,
}

#[derive(Default)]
pub(super) struct Counters {
    registrations: AtomicU64,
    heartbeats: AtomicU64,
    reaped: AtomicU64,
    pub(super) relists: AtomicU64,
}

/// What the store says of an instance that is not as expected.
enum Found {
    /// It is not registered, or its heartbeats ceased and it goes with them.
    Nothing,
    /// Readers see it as it is.
    Seen,
    /// Its heartbeats ceased, but it stays registered.
    Silent(Box<Instance>),
}

/// Answers whether it wants to be called again.
type Observer = Box<dyn FnMut(&Arc<Service>) -> bool + Send>;

// One lock, so that lists are published in the order in which they were made.
#[derive(Default)]
struct Shared {
    state: State,
    channels: HashMap<ServiceId, watch::Sender<Arc<Service>>>,
    observers: HashMap<ServiceId, Vec<Observer>>,
    /// When so many channels exist, those without receivers are dropped.
    prune_at: usize,
}

impl Registry {
    /// Reads what is registered and begins to follow the store. Must be called within a tokio
    /// runtime, which then runs its three tasks. A store that is away is waited for in the background: until it
    /// answers, lists are empty and writes fail with what it answers.
    pub async fn start(kv: Arc<dyn Kv>, clock: Clock, config: Config) -> Result<Self> {
        let inner = Arc::new(Inner {
            kv,
            clock,
            counters: Counters::default(),
            shared: Mutex::default(),
            applied: watch::Sender::new(0),
            spares: Spares::new(config.default_ttl, config.spare_leases),
            texts: Mutex::default(),
            config,
        });
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
        let reaper = tokio::spawn({
            let inner = inner.clone();
            async move { inner.reap().await }
        });
        let tasks = [follower, keeper, reaper].map(AbortOnDropHandle::new);
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
            // Its lease ended just now, or somebody else changed it: as good as a new instance.
            _ => {
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
        self.0.inner.shared.lock().state.listing()
    }

    /// The list of one service, empty when it is not known.
    pub fn service(&self, name: &ServiceId) -> Arc<Service> {
        self.0.inner.shared.lock().state.service(name)
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
        Watcher::all(&self.0.inner)
    }

    /// Follows these services. The present lists, empty ones too, come with it.
    pub fn watch_some(&self, names: Vec<ServiceId>) -> (Watcher, Vec<Arc<Service>>) {
        Watcher::some(&self.0.inner, names)
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

impl Shared {
    fn publish(&mut self, service: Arc<Service>) {
        if let Some(observers) = self.observers.get_mut(&service.id) {
            observers.retain_mut(|observer| observer(&service));
            if observers.is_empty() {
                self.observers.remove(&service.id);
            }
        }
        if let Some(channel) = self.channels.get(&service.id) {
            channel.send_replace(service);
        }
    }
}

impl Inner {
    fn step(&self, input: Input) -> Result<Vec<Effect>> {
        step(&mut self.shared.lock().state, input, &self.config)
    }

    /// Takes in what the store shows, and publishes it.
    pub(super) fn observe(&self, input: Input) {
        let mut shared = self.shared.lock();
        let effects = step(&mut shared.state, input, &self.config).unwrap_or_default();
        for effect in effects {
            if let Effect::Publish(service) = effect {
                shared.publish(service);
            }
        }
        self.applied.send_replace(shared.state.revision());
    }

    /// What the entry says, if this version can read it.
    pub(super) fn read(&self, entry: &Entry) -> Option<Instance> {
        let (_, service, id) = keys::parse(&entry.key)?;
        let instance = model::decode((service, id), &entry.value, entry.revision, entry.lease)?;
        Some(instance.shared(&mut self.texts.lock()))
    }

    pub(super) fn applied(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    pub(super) fn listing_with_cursor(&self) -> (Listing, u64) {
        let shared = self.shared.lock();
        (shared.state.listing(), shared.state.cursor())
    }

    pub(super) fn changed_since(&self, cursor: u64) -> Option<(Vec<Arc<Service>>, u64)> {
        let shared = self.shared.lock();
        Some((shared.state.changed_since(cursor)?, shared.state.cursor()))
    }

    pub(super) fn watch(&self, name: &ServiceId) -> watch::Receiver<Arc<Service>> {
        let mut shared = self.shared.lock();
        if let Some(channel) = shared.channels.get(name) {
            return channel.subscribe();
        }
        if shared.channels.len() >= shared.prune_at {
            shared
                .channels
                .retain(|_, channel| channel.receiver_count() > 0);
            shared.prune_at = 64.max(2 * shared.channels.len());
        }
        let channel = watch::Sender::new(shared.state.service(name));
        let receiver = channel.subscribe();
        shared.channels.insert(name.clone(), channel);
        receiver
    }

    /// Waits until this node's readers see `revision`; not for ever, for the write has happened.
    async fn visible(&self, revision: Revision) -> bool {
        let mut applied = self.applied.subscribe();
        tokio::select! {
            biased;
            seen = applied.wait_for(|applied| *applied >= revision) => seen.is_ok(),
            () = self.clock.sleep(self.config.visible_within) => {
                tracing::warn!(revision, "a write is not visible yet; the registry's watch is behind");
                false
            }
        }
    }

    /// Reads the instance from the store and waits until readers see that state of it.
    async fn catch_up(&self, service: &ServiceId, id: &InstanceId) -> Result<Found> {
        let (instance, beat) = (keys::instance(service, id), keys::beat(service, id));
        let (instance, beat) = tokio::try_join!(
            self.within("get", self.kv.get(&instance)),
            self.within("get", self.kv.get(&beat)),
        )?;
        let Some(entry) = instance else {
            return Ok(Found::Nothing);
        };
        let Some(instance) = self.read(&entry) else {
            return Ok(Found::Nothing);
        };
        let owes = instance.ttl.is_some() && !instance.attached;
        match beat {
            None if owes && !instance.persistent => Ok(Found::Nothing),
            None if owes => {
                self.visible(entry.revision).await;
                Ok(Found::Silent(Box::new(instance)))
            }
            beat => {
                let beat = beat.map_or(0, |beat| beat.revision);
                match self.visible(entry.revision.max(beat)).await {
                    true => Ok(Found::Seen),
                    false => Err(error::behind()),
                }
            }
        }
    }

    /// Lets the heartbeats of a persistent instance begin again. `None` when it changed meanwhile.
    async fn awaken(&self, mut instance: Box<Instance>) -> Result<Option<Duration>> {
        instance.lease = self.grant_for(&instance).await?;
        let (Some(lease), Some(ttl)) = (instance.lease, instance.ttl) else {
            return Ok(None);
        };
        let beat = keys::beat(&instance.service, &instance.id);
        let conditions = vec![
            Condition::KeyAt(
                keys::instance(&instance.service, &instance.id),
                instance.revision,
            ),
            Condition::Absent(beat.clone()),
        ];
        let write = Write::Put {
            key: beat,
            value: Bytes::new(),
            lease: Some(lease),
        };
        let commit = self.kv.commit(conditions, vec![write]);
        match self.within("heartbeat", commit).await? {
            Outcome::Committed(revision) => {
                self.visible(revision).await;
                Ok(Some(ttl))
            }
            Outcome::Conflict(_) => Ok(None),
        }
    }

    /// Deregisters those that have been dead for too long, for ever.
    async fn reap(&self) {
        loop {
            // Not all nodes at the same moment: whoever is first does it for all.
            let spread = rand::random_range(0.8..1.2);
            self.clock.sleep(TICK.mul_f64(spread)).await;
            let effects = self
                .step(Input::Tick(self.clock.monotonic()))
                .unwrap_or_default();
            let reaped = effects.into_iter().filter_map(|effect| match effect {
                Effect::Reap(instance) => Some(self.reap_one(instance)),
                _ => None,
            });
            let mut reaped = futures_util::stream::iter(reaped).buffer_unordered(REAPS_AT_ONCE);
            while let Some(outcome) = reaped.next().await {
                match outcome {
                    Ok(true) => {
                        self.counters.reaped.fetch_add(1, Relaxed);
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(error = error.detail(), "a dead instance stays for now");
                    }
                }
            }
        }
    }

    async fn reap_one(&self, instance: Arc<Instance>) -> Result<bool> {
        let Instance { service, id, .. } = instance.as_ref();
        let mut conditions = vec![Condition::KeyAt(
            keys::instance(service, id),
            instance.revision,
        )];
        if !instance.alive {
            conditions.push(Condition::Absent(keys::beat(service, id)));
        }
        let reaped = self.remove(&instance, conditions).await?;
        if reaped {
            tracing::info!(%service, instance = %id, "deregistered, for it has been dead for long");
        }
        Ok(reaped)
    }

    async fn keep_alive(&self, service: &ServiceId, id: &InstanceId) -> Result<Duration> {
        match self
            .step(Input::Heartbeat(service.clone(), id.clone()))?
            .pop()
        {
            Some(Effect::KeepAlive(lease)) => {
                self.within("keep-alive", self.kv.keep_alive(lease)).await
            }
            _ => Ok(self.config.default_ttl),
        }
    }

    async fn grant_for(&self, instance: &Instance) -> Result<Option<LeaseId>> {
        match instance.ttl {
            Some(ttl) => self.within("grant", self.kv.grant(ttl)).await.map(Some),
            None => Ok(None),
        }
    }

    /// Stores the instance under a lease, its own or another, that has its full TTL.
    async fn store_alive(
        &self,
        instance: &mut Instance,
        expected: Option<Revision>,
    ) -> Result<Outcome> {
        let key = keys::instance(&instance.service, &instance.id);
        let conditions = expected
            .map(|at| Condition::KeyAt(key, at))
            .into_iter()
            .collect();
        let held = instance
            .lease
            .or_else(|| instance.ttl.and_then(|ttl| self.spares.take(ttl)));
        let Some(lease) = held else {
            instance.lease = self.grant_for(instance).await?;
            return self.store(instance, conditions, true).await;
        };
        instance.lease = Some(lease);
        // Side by side: with a remote store this too is one round trip.
        let (outcome, renewed) = tokio::join!(
            self.store(instance, conditions, true),
            self.within("keep-alive", self.kv.keep_alive(lease)),
        );
        renewed?;
        outcome
    }

    /// Deletes it if the conditions hold, and waits until readers no longer see it.
    async fn remove(&self, known: &Instance, conditions: Vec<Condition>) -> Result<bool> {
        self.remove_keys(&known.service, &known.id, conditions)
            .await
    }

    async fn remove_keys(
        &self,
        service: &ServiceId,
        id: &InstanceId,
        conditions: Vec<Condition>,
    ) -> Result<bool> {
        let keys = [keys::instance(service, id), keys::beat(service, id)];
        let deletes = keys.map(|key| Write::Delete { key });
        let commit = self.kv.commit(conditions, deletes.into());
        match self.within("deregister", commit).await? {
            Outcome::Committed(revision) => {
                self.visible(revision).await;
                Ok(true)
            }
            Outcome::Conflict(_) => Ok(false),
        }
    }

    /// Writes the instance; with its heartbeats, when it is registered and not just changed.
    async fn store(
        &self,
        instance: &Instance,
        conditions: Vec<Condition>,
        registers: bool,
    ) -> Result<Outcome> {
        let Instance { service, id, .. } = instance;
        let mut writes = vec![Write::Put {
            key: keys::instance(service, id),
            value: model::encode(instance),
            lease: instance.lease.filter(|_| instance.attached),
        }];
        let beat = keys::beat(service, id);
        match instance.lease {
            _ if !registers => {}
            None => writes.push(Write::Delete { key: beat }),
            lease => writes.push(Write::Put {
                key: beat,
                value: Bytes::new(),
                lease,
            }),
        }
        self.within("store", self.kv.commit(conditions, writes))
            .await
    }

    /// Bounds the time that the store may take.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            outcome = request => outcome,
            () = self.clock.sleep(self.config.store_timeout) => {
                Err(error::timeout(what, self.config.store_timeout))
            }
        }
    }
}

fn committed(outcome: Outcome) -> Result<Revision> {
    match outcome {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(_) => unreachable!("without conditions there is no conflict"),
    }
}
