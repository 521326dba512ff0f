//! Where things are that Consul knows by their ids alone.

use std::sync::Arc;

use sinew_coordination::registry::{Check, Instance, ServiceId, naming};
use sinew_core::{InstanceId, Result};

use super::super::{Consul, query::Ask, reply, shape};

/// Of how many ids it is remembered where they were.
const REMEMBERED: usize = 200_000;

impl Consul {
    pub(super) fn remember(&self, service: ServiceId, id: InstanceId) {
        let mut services = self.0.services.lock();
        if services.len() >= REMEMBERED {
            services.clear();
        }
        services.insert(id, service);
    }

    /// The instance of this id: one that was registered through this API, or else the only one.
    ///
    /// NotFound `consul.unknown_id`.
    pub(super) fn find(&self, ask: &Ask, id: &str) -> Result<Arc<Instance>> {
        let namespace = self.namespace(ask)?;
        let (instance, _) = naming::instance(id)?;
        let registry = &self.0.registry;
        let remembered = self.0.services.lock().get(&instance).cloned();
        if let Some(service) = remembered.filter(|service| service.namespace == namespace)
            && let Some(found) = registry.service(&service).instance(&instance)
            && shape::is_own(found)
        {
            return Ok(found.clone());
        }
        let mut found = registry.find(&namespace, &instance);
        let own = found.iter().position(|instance| shape::is_own(instance));
        let found = match own {
            Some(at) => found.swap_remove(at),
            None if found.len() == 1 => found.remove(0),
            None => return Err(reply::unknown("service", id)),
        };
        self.remember(found.service.clone(), instance);
        Ok(found)
    }

    /// The check of this id, and whose it is.
    ///
    /// NotFound `consul.unknown_id`.
    pub(super) fn find_check(&self, ask: &Ask, id: &str) -> Result<(Arc<Instance>, Check)> {
        let check_of = |instance: Arc<Instance>| {
            let check = instance.checks().iter().find(|check| *check.id == *id);
            check.cloned().map(|check| (instance, check))
        };
        // Most are named after their service: `service:<id>`, or `service:<id>:<number>`.
        if let Some(rest) = id.strip_prefix("service:") {
            let numbered = rest.rsplit_once(':').map(|(service, _)| service);
            for service in [Some(rest), numbered].into_iter().flatten() {
                let found = self.find(ask, service).ok();
                if let Some(found) = found.and_then(check_of) {
                    return Ok(found);
                }
            }
        }
        let namespace = self.namespace(ask)?;
        let registry = &self.0.registry;
        let remembered = self.0.checks.lock().get(id).cloned();
        if let Some((service, instance)) = remembered
            && service.namespace == namespace
            && let Some(found) = registry.service(&service).instance(&instance)
            && let Some(found) = check_of(found.clone())
        {
            return Ok(found);
        }
        let services = registry.list_in(&namespace).services;
        let mut instances = services.iter().flat_map(|service| &service.instances);
        let own = instances.find_map(|instance| {
            let instance = shape::is_own(instance).then(|| instance.clone())?;
            check_of(instance)
        });
        let (found, check) = own.ok_or_else(|| reply::unknown("check", id))?;
        let mut checks = self.0.checks.lock();
        if checks.len() >= REMEMBERED {
            checks.clear();
        }
        checks.insert(id.to_owned(), (found.service.clone(), found.id.clone()));
        Ok((found, check))
    }
}
