//! `/v1/health`: instances with their checks.

use axum::{
    extract::{Path, State},
    response::Response,
};
use serde_json::Value;
use sinew_coordination::registry::{Instance, Service};
use sinew_core::Result;

use super::{
    Consul,
    answer::Scope,
    filter::Filter,
    query::Ask,
    reply::{self, Refusal},
    shape,
};

/// What is wanted of the instances of a service.
pub(super) struct Wanted {
    tags: Vec<String>,
    filter: Option<Filter>,
    passing: bool,
    /// All of this as text.
    pub(super) key: String,
}

impl Wanted {
    /// Reads it from a query. `near` is passed over: addresses say nothing of distances.
    pub(super) fn of(ask: &Ask) -> Result<Self> {
        let query = &ask.query;
        if query.get("node-meta").is_some() {
            return Err(reply::unsupported(
                "nodes have no metadata here; leave out node-meta",
            ));
        }
        let tags: Vec<_> = query.all("tag").map(str::to_owned).collect();
        let filter = query.get("filter").filter(|text| !text.is_empty());
        let passing = query.is("passing");
        Ok(Self {
            key: format!("{passing} {tags:?} {filter:?}"),
            filter: filter.map(Filter::parse).transpose()?,
            tags,
            passing,
        })
    }

    /// Whether an instance belongs, before it is made into an answer.
    pub(super) fn takes(&self, service: &Service, instance: &Instance) -> bool {
        if self.passing && !shape::is_passing(service, instance) {
            return false;
        }
        self.tags.is_empty() || {
            let kept = shape::kept(instance);
            self.tags.iter().all(|tag| kept.tags.contains(tag))
        }
    }

    /// Whether an entry belongs.
    pub(super) fn holds(&self, entry: &Value) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.holds(entry))
    }

    /// The entries that belong, as a body.
    pub(super) fn body(&self, entries: impl Iterator<Item = Value>) -> Vec<u8> {
        let entries: Vec<_> = entries.filter(|entry| self.holds(entry)).collect();
        serde_json::to_vec(&entries).expect("plain data serialises")
    }
}

/// `GET /v1/health/service/{service}`
pub(super) async fn service(
    State(consul): State<Consul>,
    Path(name): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    let wanted = Wanted::of(&ask)?;
    let (id, _) = consul.service_id(&ask, &name)?;
    let key = format!("health {id} {}", wanted.key);
    let shape = consul.shape();
    consul
        .show(&ask, Scope::Service(id), key, |services| {
            let entries = services.iter().flat_map(|service| {
                let instances = service.instances.iter();
                let taken = instances.filter(|instance| wanted.takes(service, instance));
                taken.map(|instance| shape.health(service, instance))
            });
            wanted.body(entries)
        })
        .await
}

/// `GET /v1/health/checks/{service}`
pub(super) async fn checks(
    State(consul): State<Consul>,
    Path(name): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    let wanted = Wanted::of(&ask)?;
    let (id, _) = consul.service_id(&ask, &name)?;
    let key = format!("checks {id} {}", wanted.key);
    let scope = Scope::Service(id);
    consul
        .show_checks(&ask, scope, key, &wanted, |_| true)
        .await
}

/// `GET /v1/health/state/{state}`
pub(super) async fn state(
    State(consul): State<Consul>,
    Path(state): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    if !["any", "passing", "warning", "critical"].contains(&&*state) {
        return Err(reply::invalid("use the state any, passing, warning or critical").into());
    }
    let wanted = Wanted::of(&ask)?;
    let namespace = consul.namespace(&ask)?;
    let key = format!("state {namespace} {state} {}", wanted.key);
    let scope = Scope::All(namespace);
    let is = |check: &Value| state == "any" || check["Status"] == *state;
    consul.show_checks(&ask, scope, key, &wanted, is).await
}

/// `GET /v1/health/node/{node}`
pub(super) async fn node(
    State(consul): State<Consul>,
    Path(node): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    let wanted = Wanted::of(&ask)?;
    let namespace = consul.namespace(&ask)?;
    let key = format!("node checks {namespace} {node:?} {}", wanted.key);
    let scope = Scope::All(namespace);
    let is = |check: &Value| check["Node"] == *node;
    consul.show_checks(&ask, scope, key, &wanted, is).await
}

impl Consul {
    async fn show_checks(
        &self,
        ask: &Ask,
        scope: Scope,
        key: String,
        wanted: &Wanted,
        is: impl Fn(&Value) -> bool,
    ) -> Result<Response, Refusal> {
        let shape = self.shape();
        self.show(ask, scope, key, |services| {
            let checks = services.iter().flat_map(|service| {
                let instances = service.instances.iter();
                instances.flat_map(|instance| {
                    let kept = shape::kept(instance);
                    shape.checks(service, instance, &kept)
                })
            });
            wanted.body(checks.filter(&is))
        })
        .await
    }
}
