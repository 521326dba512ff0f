//! What the registry decides, without store, clock or tasks: [`step`] takes a command or an
//! observation and answers what is to be done.
//!
//! Commands change nothing here. They are checked against the snapshot and become a write to the
//! store; the snapshot changes when the watch brings that write back ([`Input::Observed`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use sinew_core::{InstanceId, Name, Result};
use sinew_engine::kv::{LeaseId, Revision};

use super::{
    Config, Edit, Health, Instance, Listing, Registration, Service, ServiceId, error, model,
};

/// How many services without instances are remembered, so that watchers hear of their end.
const EMPTIED_KEPT: usize = 1024;
/// The snapshot that readers see.
#[derive(Debug, Default)]
pub(super) struct State {
    revision: Revision,
    services: BTreeMap<ServiceId, Slot>,
    /// How many services list instances.
    listed: usize,
    instances: usize,
    critical: usize,
    panics: usize,
    /// The dead that shall be reaped one day, and since when they are known to be dead.
    dead: BTreeMap<ServiceId, BTreeMap<InstanceId, Option<Duration>>>,
    departures: u64,
    /// Numbers the changes of this state, one for each changed list.
    last_change: u64,
    /// The newest change of each service, the oldest first: what a watcher has not seen yet is the
    /// part after its cursor.
    changes: BTreeMap<u64, ServiceId>,
    /// Those changes that left a service without instances.
    emptied: BTreeSet<u64>,
    /// The newest change that was forgotten.
    forgotten: u64,
    /// Nothing that happened after this revision is forgotten. Services that are not known are
    /// listed as of it, so that their lists change only when they do.
    floor: Revision,
}

#[derive(Debug)]
struct Slot {
    service: Arc<Service>,
    /// Those whose heartbeats have ceased and that are not listed any more, until they are reaped. Were
    /// they forgotten at once, nobody could tell that most of a service went.
    hidden: Vec<Arc<Instance>>,
    change: u64,
}

/// What happens to the registry.
#[derive(Debug)]
pub(super) enum Input {
    Register(Box<Registration>),
    Edit(ServiceId, InstanceId, Edit),
    Heartbeat(ServiceId, InstanceId),
    Deregister(ServiceId, InstanceId),
    /// All there is. The pages of a listing may be of different revisions, the oldest is `revision`;
    /// the watch from there on repeats what later pages showed, which is recognised and ignored.
    Listed {
        revision: Revision,
        instances: Vec<Instance>,
        beats: HashMap<(ServiceId, InstanceId), LeaseId>,
    },
    /// One commit, as the watch brings it.
    Observed {
        revision: Revision,
        changes: Vec<Change>,
    },
    /// So late it is, on a clock that only goes forward.
    Tick(Duration),
}

#[derive(Debug)]
pub(super) enum Change {
    /// An instance is this.
    Put(Box<Instance>),
    /// An instance was deregistered.
    Gone(ServiceId, InstanceId),
    /// Its heartbeats keep this lease alive.
    Beats(ServiceId, InstanceId, LeaseId),
    /// Its heartbeats have ceased.
    Silent(ServiceId, InstanceId),
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Write the instance under the lease that it has, or under a new one; only if it still stands
    /// at revision `expected`, when that is given.
    Store {
        instance: Box<Instance>,
        expected: Option<Revision>,
        created: bool,
    },
    /// Delete the key, if it is there. As it stands here, so that its lease is known to be free then.
    Remove(Option<Arc<Instance>>),
    /// Delete it, if it is still as it stands here: it has been dead for too long.
    Reap(Arc<Instance>),
    /// Keep the lease alive.
    KeepAlive(LeaseId),
    /// It is as it was asked to be.
    Nothing(Arc<Instance>),
    /// The list of a service changed.
    Publish(Arc<Service>),
}

/// Takes one input. Refused commands change nothing.
pub(super) fn step(state: &mut State, input: Input, config: &Config) -> Result<Vec<Effect>> {
    match input {
        Input::Register(registration) => register(state, *registration, config),
        Input::Edit(service, id, edit) => {
            let current = state.known(&service, &id)?;
            let instance = model::edited(current, edit)?;
            if instance == **current {
                return Ok(vec![Effect::Nothing(current.clone())]);
            }
            let expected = Some(current.revision);
            Ok(vec![Effect::Store {
                instance: Box::new(instance),
                expected,
                created: false,
            }])
        }
        Input::Heartbeat(service, id) => {
            let instance = state.known(&service, &id)?;
            match instance.lease {
                Some(lease) => Ok(vec![Effect::KeepAlive(lease)]),
                None if instance.alive => Ok(vec![Effect::Nothing(instance.clone())]),
                // Only the store can tell whether it may come back.
                None => Err(error::instance_unknown(&service, &id)),
            }
        }
        // Also when it is not known here: this node may be behind.
        Input::Deregister(service, id) => Ok(vec![Effect::Remove(
            state.known(&service, &id).ok().cloned(),
        )]),
        Input::Listed {
            revision,
            instances,
            beats,
        } => Ok(state.replace(revision, instances, &beats, config)),
        Input::Observed { revision, changes } => Ok(state.apply(revision, changes, config)),
        Input::Tick(now) => Ok(state.reap(now, config)),
    }
}

fn register(state: &State, registration: Registration, config: &Config) -> Result<Vec<Effect>> {
    let mut instance = registration.check(config)?;
    let slot = state.services.get(&instance.service);
    let listed = slot.map_or(0, |slot| slot.service.instances.len());
    let current = slot.and_then(|slot| slot.any(&instance.id));
    // Those that are dead and hidden are as good as gone.
    let known = current.filter(|current| current.alive || current.persistent);
    match known {
        // The limits hold for each node's view; many nodes at once may overshoot them a little.
        None if listed >= config.instances_per_service => {
            return Err(error::service_full(
                &instance.service,
                config.instances_per_service,
            ));
        }
        None if state.instances >= config.instances => return Err(error::full(config.instances)),
        None => {}
        // A lease has one TTL for ever; with another one a new lease is needed.
        Some(current) if current.ttl == instance.ttl => instance.lease = current.lease,
        Some(_) => {}
    }
    let created = known.is_none();
    if let Some(current) = current {
        instance.keep(current);
    }
    // What is there is replaced, whatever it is; but to stay on its lease is to know that it is the
    // lease of this instance still, and of no other.
    let expected = instance.lease.and(known.map(|current| current.revision));
    Ok(vec![Effect::Store {
        instance: Box::new(instance),
        expected,
        created,
    }])
}

impl Slot {
    /// An instance, listed or not.
    fn any(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        let hidden = || self.hidden.iter().find(|instance| instance.id == *id);
        self.service.instance(id).or_else(hidden)
    }
}

impl State {
    /// The newest revision that this state shows.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// How many instances there are.
    pub(super) fn instances(&self) -> usize {
        self.instances
    }

    /// How many instances have left.
    pub(super) fn departures(&self) -> u64 {
        self.departures
    }

    /// How many listed instances are critical.
    pub(super) fn critical(&self) -> usize {
        self.critical
    }

    /// How many services are in panic.
    pub(super) fn panics(&self) -> usize {
        self.panics
    }

    /// How many services have instances.
    pub(super) fn services(&self) -> usize {
        self.listed
    }

    /// The list of one service, empty when it is not known.
    pub(super) fn service(&self, name: &ServiceId) -> Arc<Service> {
        match self.services.get(name) {
            Some(slot) => slot.service.clone(),
            None => Arc::new(Service::empty(name.clone(), self.floor)),
        }
    }

    /// Nothing that happened after this revision is forgotten.
    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    /// Everything, or all of one namespace, that has instances.
    pub(super) fn listing(&self, namespace: Option<&Name>) -> Listing {
        let all = self.services.values().map(|slot| &slot.service);
        let wanted = |service: &&Arc<Service>| {
            let here = namespace.is_none_or(|namespace| service.id.namespace == *namespace);
            here && !service.instances.is_empty()
        };
        Listing {
            revision: self.revision,
            services: all.filter(wanted).cloned().collect(),
        }
    }

    /// What changed after a revision, the ends of services too.
    pub(super) fn since(&self, namespace: Option<&Name>, revision: Revision) -> Vec<Arc<Service>> {
        let all = self.services.values().map(|slot| &slot.service);
        let wanted = |service: &&Arc<Service>| {
            let here = namespace.is_none_or(|namespace| service.id.namespace == *namespace);
            here && service.revision > revision
        };
        all.filter(wanted).cloned().collect()
    }

    /// Where a watcher that has just read the listing begins.
    pub(super) fn cursor(&self) -> u64 {
        self.last_change
    }

    /// The services that changed after `cursor`, each once; `None` when some of those were forgotten.
    pub(super) fn changed_since(&self, cursor: u64) -> Option<Vec<Arc<Service>>> {
        if cursor < self.forgotten {
            return None;
        }
        let names = self.changes.range(cursor + 1..).map(|(_, name)| name);
        Some(
            names
                .map(|name| self.services[name].service.clone())
                .collect(),
        )
    }

    fn known(&self, service: &ServiceId, id: &InstanceId) -> Result<&Arc<Instance>> {
        self.services
            .get(service)
            .and_then(|slot| slot.service.instance(id))
            .ok_or_else(|| error::instance_unknown(service, id))
    }

    fn replace(
        &mut self,
        revision: Revision,
        instances: Vec<Instance>,
        beats: &HashMap<(ServiceId, InstanceId), LeaseId>,
        config: &Config,
    ) -> Vec<Effect> {
        if self.revision == 0 {
            self.floor = revision;
        }
        self.revision = self.revision.max(revision);
        let mut lists: BTreeMap<ServiceId, Vec<Arc<Instance>>> = self
            .services
            .keys()
            .map(|name| (name.clone(), Vec::new()))
            .collect();
        for mut instance in instances {
            let beat = beats.get(&(instance.service.clone(), instance.id.clone()));
            instance.beats(beat.copied());
            lists
                .entry(instance.service.clone())
                .or_default()
                .push(Arc::new(instance));
        }
        let mut effects = Vec::new();
        for (name, mut list) in lists {
            list.sort_by(|a, b| a.id.cmp(&b.id));
            effects.extend(self.set(name, list, revision, config));
        }
        effects
    }

    fn apply(&mut self, revision: Revision, changes: Vec<Change>, config: &Config) -> Vec<Effect> {
        self.revision = self.revision.max(revision);
        let mut lists: BTreeMap<ServiceId, Vec<Arc<Instance>>> = BTreeMap::new();
        // What an instance is comes before whether it beats, in whichever order a commit has them.
        let (beats, instances): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| matches!(change, Change::Beats(..) | Change::Silent(..)));
        for change in instances.into_iter().chain(beats) {
            let name = match &change {
                Change::Put(instance) => &instance.service,
                Change::Gone(name, _) | Change::Beats(name, ..) | Change::Silent(name, _) => name,
            };
            // A copy of pointers: readers hold the old list for as long as they like.
            let list = lists
                .entry(name.clone())
                .or_insert_with(|| self.everything(name));
            let position = |id: &InstanceId| list.binary_search_by(|other| other.id.cmp(id));
            match change {
                Change::Put(mut instance) => match position(&instance.id) {
                    Ok(at) if list[at].revision >= instance.revision => {}
                    Ok(at) => {
                        instance.beats(list[at].lease.filter(|_| !list[at].attached));
                        list[at] = Arc::from(instance);
                    }
                    Err(at) => list.insert(at, Arc::from(instance)),
                },
                Change::Gone(_, id) => match position(&id) {
                    // A later page of the listing showed it back again.
                    Ok(at) if list[at].revision > revision => {}
                    Ok(at) => drop(list.remove(at)),
                    Err(_) => {}
                },
                Change::Beats(_, id, lease) => {
                    if let Ok(at) = position(&id) {
                        Arc::make_mut(&mut list[at]).beats(Some(lease));
                    }
                }
                Change::Silent(_, id) => {
                    if let Ok(at) = position(&id) {
                        Arc::make_mut(&mut list[at]).beats(None);
                    }
                }
            }
        }
        lists
            .into_iter()
            .filter_map(|(name, list)| self.set(name, list, revision, config))
            .collect()
    }

    /// All instances of a service, listed or not, in the order of their ids.
    fn everything(&self, name: &ServiceId) -> Vec<Arc<Instance>> {
        let Some(slot) = self.services.get(name) else {
            return Vec::new();
        };
        let mut all = slot.service.instances.clone();
        if !slot.hidden.is_empty() {
            all.extend(slot.hidden.iter().cloned());
            all.sort_by(|a, b| a.id.cmp(&b.id));
        }
        all
    }

    /// Makes `instances` those of the service. Answers its list if that changes.
    fn set(
        &mut self,
        name: ServiceId,
        instances: Vec<Arc<Instance>>,
        revision: Revision,
        config: &Config,
    ) -> Option<Effect> {
        self.note_dead(&name, &instances);
        let panic = dead::in_panic(&instances, config);
        let (instances, hidden): (Vec<_>, Vec<_>) = instances
            .into_iter()
            .partition(|instance| instance.alive || instance.persistent || panic);
        let before = self.services.get_mut(&name);
        let old = before
            .as_ref()
            .map(|slot| slot.service.clone())
            .unwrap_or_else(|| Arc::new(Service::empty(name.clone(), 0)));
        if old.instances == instances && old.panic == panic {
            if let Some(slot) = before {
                slot.hidden = hidden;
                if instances.is_empty() && slot.hidden.is_empty() {
                    self.emptied.insert(slot.change);
                    self.forget();
                }
                return None;
            }
            if hidden.is_empty() {
                return None;
            }
        }
        // Pages of a listing may be newer than its revision; and a list's revision never goes back.
        let newest = instances
            .iter()
            .map(|instance| instance.revision)
            .max()
            .unwrap_or(0);
        let revision = old.revision.max(revision).max(newest);
        if let Some(slot) = before {
            self.changes.remove(&slot.change);
            self.emptied.remove(&slot.change);
        }
        self.last_change += 1;
        let change = self.last_change;
        self.changes.insert(change, name.clone());
        if instances.is_empty() && hidden.is_empty() {
            self.emptied.insert(change);
        }
        let service = Arc::new(Service {
            id: name.clone(),
            revision,
            instances,
            panic,
        });
        self.count(&old, &service);
        let slot = Slot {
            service: service.clone(),
            hidden,
            change,
        };
        self.services.insert(name, slot);
        self.forget();
        Some(Effect::Publish(service))
    }

    fn count(&mut self, old: &Service, new: &Service) {
        let critical = |service: &Service| {
            let health = service.instances.iter().map(|instance| instance.health());
            health.filter(|health| *health == Health::Critical).count()
        };
        self.instances = self.instances - old.instances.len() + new.instances.len();
        self.critical = self.critical - critical(old) + critical(new);
        self.panics = self.panics - usize::from(old.panic) + usize::from(new.panic);
        let lists = |service: &Service| usize::from(!service.instances.is_empty());
        self.listed = self.listed - lists(old) + lists(new);
        let gone = |instance: &&Arc<Instance>| new.instance(&instance.id).is_none();
        self.departures += old.instances.iter().filter(gone).count() as u64;
    }

    /// Keeps the memory of emptied services within its bound.
    fn forget(&mut self) {
        while self.emptied.len() > EMPTIED_KEPT
            && let Some(change) = self.emptied.pop_first()
        {
            if let Some(name) = self.changes.remove(&change) {
                self.services.remove(&name);
            }
            self.forgotten = change;
            self.floor = self.revision;
        }
    }
}

mod dead;
#[cfg(test)]
mod tests;
