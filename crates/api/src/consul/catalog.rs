//! `/v1/catalog` and `/v1/status`: what there is, whatever its health.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    extract::{Path, State},
    response::Response,
};
use serde_json::{Value, json};
use sinew_coordination::registry::{ServiceId, Spelling, naming};
use sinew_core::{Name, Result};

use super::{
    Consul,
    answer::Scope,
    health::Wanted,
    query::Ask,
    reply::{self, Refusal},
    shape,
};

impl Consul {
    /// The namespace that is meant.
    pub(super) fn namespace(&self, ask: &Ask) -> Result<Name> {
        // Whatever the service, the namespace is the same.
        Ok(naming::service(&ask.namespace, "", "any")?.0.namespace)
    }

    /// The service that is meant. One of a group is `group@@name`.
    pub(super) fn service_id(&self, ask: &Ask, name: &str) -> Result<(ServiceId, Spelling)> {
        naming::service(&ask.namespace, "", name)
    }
}

/// `GET /v1/catalog/services`
pub(super) async fn services(State(consul): State<Consul>, ask: Ask) -> Result<Response, Refusal> {
    let wanted = Wanted::of(&ask)?;
    let namespace = consul.namespace(&ask)?;
    let key = format!("services {namespace} {}", wanted.key);
    consul
        .show(&ask, Scope::All(namespace), key, |services| {
            let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for service in services {
                for instance in &service.instances {
                    let kept = shape::kept(instance);
                    let name = shape::name_of(instance);
                    let entry = json!({ "ServiceName": name, "ServiceTags": kept.tags });
                    if wanted.holds(&entry) {
                        shown.entry(name).or_default().extend(kept.tags);
                    }
                }
            }
            serde_json::to_vec(&shown).expect("plain data serialises")
        })
        .await
}

/// `GET /v1/catalog/service/{service}`
pub(super) async fn service(
    State(consul): State<Consul>,
    Path(name): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    let wanted = Wanted::of(&ask)?;
    let (id, _) = consul.service_id(&ask, &name)?;
    let key = format!("catalog {id} {}", wanted.key);
    let shape = consul.shape();
    consul
        .show(&ask, Scope::Service(id), key, |services| {
            let entries = services.iter().flat_map(|service| {
                let instances = service.instances.iter();
                let taken = instances.filter(|instance| wanted.takes(service, instance));
                taken.map(|instance| shape.catalog_service(instance, &shape::kept(instance)))
            });
            wanted.body(entries)
        })
        .await
}

/// `GET /v1/catalog/nodes`: the addresses that instances have.
pub(super) async fn nodes(State(consul): State<Consul>, ask: Ask) -> Result<Response, Refusal> {
    let wanted = Wanted::of(&ask)?;
    let namespace = consul.namespace(&ask)?;
    let key = format!("nodes {namespace} {}", wanted.key);
    let shape = consul.shape();
    consul
        .show(&ask, Scope::All(namespace), key, |services| {
            let instances = services.iter().flat_map(|service| &service.instances);
            let addresses: BTreeSet<_> = instances.map(|instance| &*instance.address).collect();
            wanted.body(addresses.into_iter().map(|address| shape.node(address)))
        })
        .await
}

/// `GET /v1/catalog/node/{node}`: what is at an address; `null` when nothing is.
pub(super) async fn node(
    State(consul): State<Consul>,
    Path(node): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    let namespace = consul.namespace(&ask)?;
    let key = format!("node {namespace} {node:?}");
    let shape = consul.shape();
    consul
        .show(&ask, Scope::All(namespace), key, |services| {
            let instances = services.iter().flat_map(|service| &service.instances);
            let here = instances.filter(|instance| *instance.address == *node);
            let shown = here.map(|instance| {
                let service = shape.service(instance, &shape::kept(instance));
                (shape::id_of(instance).to_owned(), service)
            });
            let services: serde_json::Map<_, _> = shown.collect();
            let whole = match services.is_empty() {
                true => Value::Null,
                false => json!({ "Node": shape.node(&node), "Services": services }),
            };
            serde_json::to_vec(&whole).expect("plain data serialises")
        })
        .await
}

/// `GET /v1/catalog/datacenters`
pub(super) async fn datacenters(State(consul): State<Consul>, _ask: Ask) -> Response {
    reply::json(&json!([consul.datacenter()]))
}

/// `GET /v1/status/leader`
pub(super) async fn leader(State(consul): State<Consul>, _ask: Ask) -> Response {
    reply::json(&json!(consul.0.settings.address.to_string()))
}

/// `GET /v1/status/peers`
pub(super) async fn peers(State(consul): State<Consul>, _ask: Ask) -> Response {
    reply::json(&json!([consul.0.settings.address.to_string()]))
}
