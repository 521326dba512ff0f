//! An instance of the registry as Consul shows it: a service on a node. Sinew has no agents, so an
//! instance's node is the address that it has.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sinew_coordination::registry::{Health, Instance, Probe, Service, Status};

use super::json::{TaggedAddress, Weights};

/// The attribute that holds what the registry has nothing for. Whoever has it was registered so.
pub(super) const ATTRIBUTE: &str = concat!("consul.", "service");

/// What is kept there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tagged: BTreeMap<String, TaggedAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning_weight: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) tag_override: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) checks: Vec<KeptCheck>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KeptCheck {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) notes: String,
    /// Milliseconds, if it is one that lives by being passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ttl: Option<u64>,
    /// Whether it was registered apart from its service, and so outlives a new registration of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) separate: bool,
}

/// A check as it is shown.
pub(super) struct Shown {
    pub(super) id: String,
    name: String,
    notes: String,
    kind: &'static str,
    pub(super) status: &'static str,
    output: String,
}

/// How a status is called.
pub(super) fn status_of(health: Health) -> &'static str {
    match health {
        // Taken as working, by the gateway as well.
        Health::Passing | Health::Unknown => "passing",
        Health::Warning => "warning",
        Health::Critical => "critical",
    }
}

/// Whether it was registered through Consul's API.
pub(super) fn is_own(instance: &Instance) -> bool {
    instance.attributes().get(ATTRIBUTE).is_some()
}

/// What was kept of its registration.
pub(super) fn kept(instance: &Instance) -> Kept {
    let text = instance.attributes().get(ATTRIBUTE).unwrap_or("{}");
    serde_json::from_str(text).unwrap_or_default()
}

/// Its id, as it was written.
pub(super) fn id_of(instance: &Instance) -> &str {
    let written = instance.spelling().id.as_deref();
    written.unwrap_or(instance.id.as_str())
}

/// The name of its service, as it was written.
pub(super) fn name_of(instance: &Instance) -> String {
    let spelling = instance.spelling();
    let name = spelling.service.as_deref();
    let name = name.unwrap_or(instance.service.name.as_str());
    match &spelling.group {
        Some(group) => format!("{group}@@{name}"),
        None => name.to_owned(),
    }
}

/// The checks of an instance, made up where it has none of Consul's.
pub(super) fn checks(service: &Service, instance: &Instance, kept: &Kept) -> Vec<Shown> {
    let id = id_of(instance);
    let mut shown = Vec::new();
    for check in instance.checks() {
        let known = kept.checks.iter().find(|known| *known.id == *check.id);
        let ttl = known.is_some_and(|known| known.ttl.is_some());
        let (status, output) = if ttl && !instance.alive {
            ("critical", "TTL expired".to_owned())
        } else {
            (status_of(check.health), check.output.to_string())
        };
        shown.push(Shown {
            id: match known {
                Some(_) => check.id.to_string(),
                None => format!("service:{id}:{}", check.id),
            },
            name: known.map_or_else(|| check.id.to_string(), |known| known.name.clone()),
            notes: known.map(|known| known.notes.clone()).unwrap_or_default(),
            kind: match check.probe {
                Probe::Reported => "ttl",
                Probe::Http { .. } => "http",
                Probe::Tcp { .. } => "tcp",
                Probe::Grpc { .. } => "grpc",
            },
            status,
            output,
        });
    }
    let has_ttl = kept.checks.iter().any(|check| check.ttl.is_some());
    if instance.ttl.is_some() && !has_ttl {
        shown.push(Shown {
            id: format!("service:{id}"),
            name: "Heartbeats".to_owned(),
            notes: String::new(),
            kind: "ttl",
            status: if instance.alive {
                "passing"
            } else {
                "critical"
            },
            output: if instance.alive { "" } else { "they ceased" }.to_owned(),
        });
    }
    if service.status_of(instance) == Status::Up && service.panic {
        // Most of the service would be gone at once, which looks like a fault of the network.
        for check in shown.iter_mut().filter(|check| check.status == "critical") {
            check.status = "passing";
            check.output = format!("not believed, as most are critical: {}", check.output);
        }
    }
    let said = instance.status_override.unwrap_or(instance.status);
    if said != Status::Up {
        let (id, output) = match said {
            Status::Down => (format!("service:{id}:status"), "it says that it is down"),
            Status::Draining => (
                format!("_service_maintenance:{id}"),
                "Maintenance mode is enabled: it takes no new requests",
            ),
            _ => (
                format!("_service_maintenance:{id}"),
                "Maintenance mode is enabled for this service",
            ),
        };
        shown.push(Shown {
            id,
            name: "Service Maintenance Mode".to_owned(),
            notes: String::new(),
            kind: "maintenance",
            status: "critical",
            output: output.to_owned(),
        });
    }
    shown
}

/// Whether an instance passes: it takes requests, and no check warns.
pub(super) fn is_passing(service: &Service, instance: &Instance) -> bool {
    let up = service.status_of(instance) == Status::Up;
    up && (service.panic || instance.health() != Health::Warning)
}

/// What the shapes need to know besides the instance.
pub(super) struct Shape<'a> {
    pub(super) datacenter: &'a str,
}

impl Shape<'_> {
    /// The node at an address.
    pub(super) fn node(&self, address: &str) -> Value {
        json!({
            "ID": "",
            "Node": address,
            "Address": address,
            "Datacenter": self.datacenter,
            "TaggedAddresses": { "lan": address, "wan": address },
            "Meta": {},
            "CreateIndex": 1,
            "ModifyIndex": 1,
        })
    }

    /// The instance as the agent and the health endpoints show it.
    pub(super) fn service(&self, instance: &Instance, kept: &Kept) -> Value {
        let mut shown = json!({
            "ID": id_of(instance),
            "Service": name_of(instance),
            "Tags": kept.tags,
            "Address": &*instance.address,
            "TaggedAddresses": tagged(kept),
            "Meta": meta(instance),
            "Port": instance.port,
            "Weights": weights(instance, kept),
            "EnableTagOverride": kept.tag_override,
            "Datacenter": self.datacenter,
            "CreateIndex": instance.revision,
            "ModifyIndex": instance.revision,
        });
        add_namespace(&mut shown, instance);
        shown
    }

    /// The instance as the catalog shows it, flat.
    pub(super) fn catalog_service(&self, instance: &Instance, kept: &Kept) -> Value {
        let mut shown = json!({
            "ID": "",
            "Node": &*instance.address,
            "Address": &*instance.address,
            "Datacenter": self.datacenter,
            "TaggedAddresses": { "lan": &*instance.address, "wan": &*instance.address },
            "NodeMeta": {},
            "ServiceKind": "",
            "ServiceID": id_of(instance),
            "ServiceName": name_of(instance),
            "ServiceTags": kept.tags,
            "ServiceAddress": &*instance.address,
            "ServiceTaggedAddresses": tagged(kept),
            "ServiceMeta": meta(instance),
            "ServicePort": instance.port,
            "ServiceWeights": weights(instance, kept),
            "ServiceEnableTagOverride": kept.tag_override,
            "CreateIndex": instance.revision,
            "ModifyIndex": instance.revision,
        });
        add_namespace(&mut shown, instance);
        shown
    }

    /// A check of an instance.
    pub(super) fn check(&self, instance: &Instance, kept: &Kept, check: &Shown) -> Value {
        json!({
            "Node": &*instance.address,
            "CheckID": check.id,
            "Name": check.name,
            "Status": check.status,
            "Notes": check.notes,
            "Output": check.output,
            "ServiceID": id_of(instance),
            "ServiceName": name_of(instance),
            "ServiceTags": kept.tags,
            "Type": check.kind,
            "ExposedPort": 0,
            "Definition": {},
            "CreateIndex": instance.revision,
            "ModifyIndex": instance.revision,
        })
    }

    /// All checks of an instance.
    pub(super) fn checks(&self, service: &Service, instance: &Instance, kept: &Kept) -> Vec<Value> {
        let checks = checks(service, instance, kept);
        let shown = checks.iter().map(|check| self.check(instance, kept, check));
        shown.collect()
    }

    /// An entry of a health endpoint.
    pub(super) fn health(&self, service: &Service, instance: &Arc<Instance>) -> Value {
        let kept = kept(instance);
        json!({
            "Node": self.node(&instance.address),
            "Service": self.service(instance, &kept),
            "Checks": self.checks(service, instance, &kept),
        })
    }
}

fn tagged(kept: &Kept) -> Value {
    let one = |address: &TaggedAddress| json!({ "Address": address.address, "Port": address.port });
    let all = kept.tagged.iter();
    Value::Object(
        all.map(|(tag, address)| (tag.clone(), one(address)))
            .collect(),
    )
}

fn meta(instance: &Instance) -> Value {
    let pairs = instance.metadata.iter();
    let pairs = pairs.map(|(key, value)| (key.to_owned(), Value::from(value)));
    let mut meta: Map<_, _> = pairs.collect();
    // What other dialects have a place for.
    let more = [("zone", &instance.zone), ("version", &instance.version)];
    for (key, value) in more {
        if let Some(value) = value {
            meta.entry(key).or_insert_with(|| Value::from(&**value));
        }
    }
    Value::Object(meta)
}

fn weights(instance: &Instance, kept: &Kept) -> Value {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a weight is from 0 to 10000"
    )]
    let passing = instance.weight().as_f64().round() as u32;
    let warning = kept.warning_weight.unwrap_or(Weights::default().warning);
    json!({ "Passing": passing, "Warning": warning })
}

fn add_namespace(shown: &mut Value, instance: &Instance) {
    if instance.service.is_default() {
        return;
    }
    let written = instance.spelling().namespace.as_deref();
    let namespace = written.unwrap_or(instance.service.namespace.as_str());
    shown["Namespace"] = namespace.into();
}
