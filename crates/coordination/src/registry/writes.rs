//! What is written to the store.

use std::time::Duration;

use bytes::Bytes;
use sinew_core::{InstanceId, Result};
use sinew_engine::kv::{Condition, LeaseId, Outcome, Revision, Write};

use super::{
    Instance, ServiceId, error,
    inner::Inner,
    keys,
    machine::{Effect, Input},
    model,
};

impl Inner {
    pub(super) async fn keep_alive(
        &self,
        service: &ServiceId,
        id: &InstanceId,
    ) -> Result<Duration> {
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

    pub(super) async fn grant_for(&self, instance: &Instance) -> Result<Option<LeaseId>> {
        match instance.ttl {
            Some(ttl) => self.within("grant", self.kv.grant(ttl)).await.map(Some),
            None => Ok(None),
        }
    }

    /// Stores the instance under a lease, its own or another, that has its full TTL.
    pub(super) async fn store_alive(
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
    pub(super) async fn remove(
        &self,
        known: &Instance,
        conditions: Vec<Condition>,
    ) -> Result<bool> {
        self.remove_keys(&known.service, &known.id, conditions)
            .await
    }

    pub(super) async fn remove_keys(
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
    pub(super) async fn store(
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

    /// Lets the heartbeats of a persistent instance begin again. `None` when it changed meanwhile.
    pub(super) async fn awaken(&self, mut instance: Box<Instance>) -> Result<Option<Duration>> {
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

pub(super) fn committed(outcome: Outcome) -> Result<Revision> {
    match outcome {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(_) => unreachable!("without conditions there is no conflict"),
    }
}
