//! What the parts of the shell share, and what they show to readers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sinew_core::{Clock, InstanceId, Result};
use sinew_engine::kv::{Condition, Entry, Kv, Outcome, Revision};
use tokio::sync::watch;

use super::{
    Config, Instance, Service, ServiceId, error, keys,
    machine::{Effect, Input, State, step},
    model,
    spares::Spares,
};

pub(super) struct Inner {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) clock: Clock,
    pub(super) counters: Counters,
    pub(super) config: Config,
    pub(super) shared: Mutex<Shared>,
    /// The revision that readers see; sent after its lists are.
    pub(super) applied: watch::Sender<Revision>,
    pub(super) spares: Spares,
    /// A revision of the store up to which the registry is known not to have changed since what
    /// readers see.
    checked: AtomicU64,
    /// When readers were last known to see the newest, in milliseconds of the monotonic clock.
    confirmed: AtomicU64,
    /// What many instances say, said once.
    pub(super) texts: Mutex<model::Texts>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) registrations: AtomicU64,
    pub(super) heartbeats: AtomicU64,
    pub(super) reaped: AtomicU64,
    pub(super) relists: AtomicU64,
}

/// What the store says of an instance that is not as expected.
pub(super) enum Found {
    /// It is not registered, or its heartbeats ceased and it goes with them.
    Nothing,
    /// Readers see it as it is.
    Seen,
    /// Its heartbeats ceased, but it stays registered.
    Silent(Box<Instance>),
}

/// Answers whether it wants to be called again.
pub(super) type Observer = Box<dyn FnMut(&Arc<Service>) -> bool + Send>;

// One lock, so that lists are published in the order in which they were made.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) state: State,
    channels: HashMap<ServiceId, watch::Sender<Arc<Service>>>,
    pub(super) observers: HashMap<ServiceId, Vec<Observer>>,
    /// When so many channels exist, those without receivers are dropped.
    prune_at: usize,
}

impl Inner {
    pub(super) fn new(kv: Arc<dyn Kv>, clock: Clock, config: Config) -> Self {
        Self {
            confirmed: AtomicU64::new(millis(clock.monotonic())),
            kv,
            clock,
            counters: Counters::default(),
            shared: Mutex::default(),
            applied: watch::Sender::new(0),
            checked: AtomicU64::new(0),
            spares: Spares::new(config.default_ttl, config.spare_leases),
            texts: Mutex::default(),
            config,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
    pub(super) fn step(&self, input: Input) -> Result<Vec<Effect>> {
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
        drop(shared);
        self.confirm();
    }

    fn confirm(&self) {
        self.confirmed
            .store(millis(self.clock.monotonic()), Relaxed);
    }

    /// How long ago readers were last known to see the newest.
    pub(super) fn age(&self) -> Duration {
        let confirmed = Duration::from_millis(self.confirmed.load(Relaxed));
        self.clock.monotonic().saturating_sub(confirmed)
    }

    /// Waits until readers see everything that had happened when this was called.
    pub(super) async fn newest(&self) -> Result<Revision> {
        let mut applied = self.applied.subscribe();
        let wanted = self.within("revision", self.kv.revision()).await?;
        let late = self.clock.sleep(self.config.visible_within);
        tokio::pin!(late);
        loop {
            let seen = *applied.borrow_and_update();
            if seen >= wanted {
                self.confirm();
                return Ok(seen);
            }
            // The store's newest revision may be somebody else's.
            let from = seen.max(self.checked.load(Relaxed));
            let unchanged = Condition::Unchanged(keys::all(), from);
            let check = self.kv.commit(vec![unchanged], Vec::new());
            match self.within("check", check).await? {
                Outcome::Committed(revision) => {
                    self.checked.fetch_max(revision.max(wanted), Relaxed);
                    self.confirm();
                    return Ok(seen);
                }
                Outcome::Conflict(_) => tokio::select! {
                    changed = applied.changed() => changed.map_err(|_| error::stopped())?,
                    () = &mut late => return Err(error::behind()),
                },
            }
        }
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

    /// What changed after a cursor, if nothing of that is forgotten; the cursor and the revision of now.
    pub(super) fn changed_since(&self, cursor: u64) -> (Option<Vec<Arc<Service>>>, u64, Revision) {
        let state = &self.shared.lock().state;
        let changed = state.changed_since(cursor);
        (changed, state.cursor(), state.revision())
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

    /// Waits until this node's readers see what was written; not for ever, for the write has happened.
    pub(super) async fn visible(&self, revision: Revision) -> bool {
        let seen = self.reaches(revision).await;
        if !seen {
            tracing::warn!(
                revision,
                "a write is not visible yet; the registry's watch is behind"
            );
        }
        seen
    }

    /// Waits a little for this node's readers to see `revision`.
    pub(super) async fn reaches(&self, revision: Revision) -> bool {
        let mut applied = self.applied.subscribe();
        tokio::select! {
            biased;
            seen = applied.wait_for(|applied| *applied >= revision) => seen.is_ok(),
            () = self.clock.sleep(self.config.visible_within) => false,
        }
    }

    /// Reads the instance from the store and waits until readers see that state of it.
    pub(super) async fn catch_up(&self, service: &ServiceId, id: &InstanceId) -> Result<Found> {
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
}
