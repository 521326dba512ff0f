//! What the registry decides, without store, clock or tasks: [`step`] takes a command or an
//! observation and answers what is to be done.
//!
//! Commands change nothing here. They are checked against the snapshot and become a write to the
//! store; the snapshot changes when the watch brings that write back ([`Input::Observed`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sinew_core::{InstanceId, Result};
use sinew_engine::kv::{LeaseId, Revision};

use super::{Config, Edit, Instance, Listing, Registration, Service, ServiceId, error, model};

/// How many services without instances are remembered, so that watchers hear of their end.
const EMPTIED_KEPT: usize = 1024;

/// The snapshot that readers see.
#[derive(Debug, Default)]
pub(super) struct State {
    revision: Revision,
    services: BTreeMap<ServiceId, Slot>,
    instances: usize,
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
}

#[derive(Debug)]
struct Slot {
    service: Arc<Service>,
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
    },
    /// One commit, as the watch brings it.
    Observed {
        revision: Revision,
        changes: Vec<Change>,
    },
}

#[derive(Debug)]
pub(super) enum Change {
    Put(Instance),
    Gone(ServiceId, InstanceId),
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
            let lease = state.known(&service, &id)?.lease;
            // Without a lease, which only a foreign writer can have made, it stays anyway.
            Ok(lease.map(Effect::KeepAlive).into_iter().collect())
        }
        // Also when it is not known here: this node may be behind.
        Input::Deregister(service, id) => Ok(vec![Effect::Remove(
            state.known(&service, &id).ok().cloned(),
        )]),
        Input::Listed {
            revision,
            instances,
        } => Ok(state.replace(revision, instances)),
        Input::Observed { revision, changes } => Ok(state.apply(revision, changes)),
    }
}

fn register(state: &State, registration: Registration, config: &Config) -> Result<Vec<Effect>> {
    let mut instance = registration.check(config)?;
    let service = state.service(&instance.service);
    let current = service.instance(&instance.id);
    match current {
        // The limits hold for each node's view; many nodes at once may overshoot them a little.
        None if service.instances.len() >= config.instances_per_service => {
            return Err(error::service_full(
                &service.id,
                config.instances_per_service,
            ));
        }
        None if state.instances >= config.instances => return Err(error::full(config.instances)),
        None => {}
        // A lease has one TTL for ever; with another one a new lease is needed.
        Some(current) if current.ttl == instance.ttl => instance.lease = current.lease,
        Some(_) => {}
    }
    let created = current.is_none();
    if let Some(current) = current {
        instance.keep(current);
    }
    // What is there is replaced, whatever it is; but to stay on its lease is to know that it is the
    // lease of this instance still, and of no other.
    let expected = instance.lease.and(current.map(|current| current.revision));
    Ok(vec![Effect::Store {
        instance: Box::new(instance),
        expected,
        created,
    }])
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

    /// How many services have instances.
    pub(super) fn services(&self) -> usize {
        self.services.len() - self.emptied.len()
    }

    /// The list of one service, empty when it is not known.
    pub(super) fn service(&self, name: &ServiceId) -> Arc<Service> {
        match self.services.get(name) {
            Some(slot) => slot.service.clone(),
            None => Arc::new(Service::empty(name.clone(), self.revision)),
        }
    }

    /// Everything that has instances.
    pub(super) fn listing(&self) -> Listing {
        let services = self.services.values().map(|slot| &slot.service);
        let services = services
            .filter(|service| !service.instances.is_empty())
            .cloned()
            .collect();
        Listing {
            revision: self.revision,
            services,
        }
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

    fn replace(&mut self, revision: Revision, instances: Vec<Instance>) -> Vec<Effect> {
        self.revision = self.revision.max(revision);
        let mut lists: BTreeMap<ServiceId, Vec<Arc<Instance>>> = self
            .services
            .keys()
            .map(|name| (name.clone(), Vec::new()))
            .collect();
        for instance in instances {
            lists
                .entry(instance.service.clone())
                .or_default()
                .push(Arc::new(instance));
        }
        let mut effects = Vec::new();
        for (name, mut list) in lists {
            list.sort_by(|a, b| a.id.cmp(&b.id));
            effects.extend(self.set(name, list, revision));
        }
        effects
    }

    fn apply(&mut self, revision: Revision, changes: Vec<Change>) -> Vec<Effect> {
        self.revision = self.revision.max(revision);
        let mut lists: BTreeMap<ServiceId, Service> = BTreeMap::new();
        for change in changes {
            let name = match &change {
                Change::Put(instance) => &instance.service,
                Change::Gone(name, _) => name,
            };
            let list = lists.entry(name.clone()).or_insert_with(|| {
                // A copy of pointers: readers hold the old list for as long as they like.
                self.service(name).as_ref().clone()
            });
            match change {
                Change::Put(instance) => match list.position(&instance.id) {
                    Ok(at) if list.instances[at].revision >= instance.revision => {}
                    Ok(at) => list.instances[at] = Arc::new(instance),
                    Err(at) => list.instances.insert(at, Arc::new(instance)),
                },
                Change::Gone(_, id) => match list.position(&id) {
                    // A later page of the listing showed it back again.
                    Ok(at) if list.instances[at].revision > revision => {}
                    Ok(at) => drop(list.instances.remove(at)),
                    Err(_) => {}
                },
            }
        }
        lists
            .into_iter()
            .filter_map(|(name, list)| self.set(name, list.instances, revision))
            .collect()
    }

    /// Makes `instances` the list of the service, if that changes anything.
    fn set(
        &mut self,
        name: ServiceId,
        instances: Vec<Arc<Instance>>,
        revision: Revision,
    ) -> Option<Effect> {
        let before = self.services.get(&name);
        let old = before.map_or(&[][..], |slot| &slot.service.instances);
        if old == instances {
            return None;
        }
        // Pages of a listing may be newer than its revision; and a list's revision never goes back.
        let newest = instances
            .iter()
            .map(|instance| instance.revision)
            .max()
            .unwrap_or(0);
        let revision = before
            .map_or(0, |slot| slot.service.revision)
            .max(revision)
            .max(newest);
        self.instances = self.instances - old.len() + instances.len();
        let stays = |id: &InstanceId| instances.binary_search_by(|other| other.id.cmp(id)).is_ok();
        self.departures += old.iter().filter(|instance| !stays(&instance.id)).count() as u64;
        if let Some(slot) = before {
            self.changes.remove(&slot.change);
            self.emptied.remove(&slot.change);
        }
        self.last_change += 1;
        let change = self.last_change;
        self.changes.insert(change, name.clone());
        if instances.is_empty() {
            self.emptied.insert(change);
        }
        let service = Arc::new(Service {
            id: name.clone(),
            revision,
            instances,
        });
        self.services.insert(
            name,
            Slot {
                service: service.clone(),
                change,
            },
        );
        self.forget();
        Some(Effect::Publish(service))
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
        }
    }
}

#[cfg(test)]
mod tests;
