//! How Eureka's clients see the registry, whoever registered what is there.

use std::{collections::BTreeMap, sync::Arc};

use sinew_coordination::registry::{Instance, Metadata, Service, ServiceId, Spelling};
use sinew_core::InstanceId;

use super::{
    announced::TEXTS,
    delta::{Action, List},
    kept::{attribute, attribute_of, dirty},
    status::Status,
    wire::{Form, Writer},
};

const EMPTY: &str = "java.util.Collections$EmptyMap";
const AMAZON: &str = "com.netflix.appinfo.AmazonInfo";
const OTHER: &str = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo";

/// An instance and its status, which other instances of its service have a say in.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) instance: Arc<Instance>,
    pub(super) status: Status,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.status == other.status
            && (Arc::ptr_eq(&self.instance, &other.instance) || self.instance == other.instance)
    }
}

impl Seen {
    pub(super) fn of(service: &Service, instance: &Arc<Instance>) -> Self {
        let said = instance.attributes().get(attribute!("status"));
        Self {
            status: Status::shown(service.status_of(instance), said),
            instance: instance.clone(),
        }
    }
}

impl List for Arc<Service> {
    type Id = InstanceId;
    type Item = Seen;

    fn is(&self, earlier: &Self) -> bool {
        Arc::ptr_eq(self, earlier)
    }

    fn items(&self) -> Vec<(InstanceId, Seen)> {
        let seen = |instance: &Arc<Instance>| (instance.id.clone(), Seen::of(self, instance));
        self.instances.iter().map(seen).collect()
    }
}

/// The name of a service as an application.
pub(super) fn application_name(service: &Service) -> String {
    name_of(&service.id, service.spelling())
}

/// The name of a service, written like that by one of its instances, as an application. A name in a
/// group, which Eureka does not have, is shown as it is kept.
pub(super) fn name_of(service: &ServiceId, spelling: Option<&Spelling>) -> String {
    let written = spelling.filter(|spelling| spelling.group.is_none());
    let written = written.and_then(|spelling| spelling.service.as_deref());
    written.unwrap_or(service.name.as_str()).to_uppercase()
}

/// `DOWN_1_UP_3_` and the like, over all instances, in the order of the statuses' names: what clients
/// compute from what they have, and compare.
pub(super) fn hash<'a>(services: impl IntoIterator<Item = &'a Arc<Service>>) -> String {
    let services = services.into_iter();
    counted(services.flat_map(|service| {
        let instances = service.instances.iter();
        instances.map(|instance| Seen::of(service, instance).status)
    }))
}

/// The same over some instances.
pub(super) fn hash_of<'a>(
    instances: impl IntoIterator<Item = &'a (Option<Action>, Seen)>,
) -> String {
    counted(instances.into_iter().map(|(_, seen)| seen.status))
}

fn counted(statuses: impl Iterator<Item = Status>) -> String {
    let mut counts: BTreeMap<Status, usize> = BTreeMap::new();
    statuses.for_each(|status| *counts.entry(status).or_default() += 1);
    let counts = counts.into_iter();
    counts
        .map(|(status, count)| format!("{}_{count}_", status.name()))
        .collect()
}

/// One application with some of its instances.
pub(super) struct Application {
    pub(super) name: String,
    pub(super) service: Arc<str>,
    pub(super) instances: Vec<(Option<Action>, Seen)>,
}

impl Application {
    /// All of a service.
    pub(super) fn whole(service: &Service) -> Self {
        Self::of(service, |_| true)
    }

    /// Those of a service's instances.
    pub(super) fn of(service: &Service, include: impl Fn(&Instance) -> bool) -> Self {
        let included = service
            .instances
            .iter()
            .filter(|instance| include(instance));
        Self {
            name: application_name(service),
            service: service.id.name.as_str().into(),
            instances: included
                .map(|instance| (None, Seen::of(service, instance)))
                .collect(),
        }
    }
}

/// A document of applications, whose hash is that of the whole registry.
pub(super) fn applications(form: Form, version: u64, hash: &str, all: &[Application]) -> Vec<u8> {
    Writer::document(form, "applications", |w| {
        w.text("versions__delta", &version.to_string());
        w.text("apps__hashcode", hash);
        w.list("application", all, application_body);
    })
}

/// A document of one application.
pub(super) fn application(form: Form, application: &Application) -> Vec<u8> {
    Writer::document(form, "application", |w| application_body(w, application))
}

/// A document of one instance.
pub(super) fn instance(form: Form, service: &Service, instance: &Arc<Instance>) -> Vec<u8> {
    let seen = Seen::of(service, instance);
    let name = application_name(service);
    Writer::document(form, "instance", |w| {
        instance_body(w, &name, service.id.name.as_str(), None, &seen);
    })
}

fn application_body(w: &mut Writer, application: &Application) {
    w.text("name", &application.name);
    w.list("instance", &application.instances, |w, (action, seen)| {
        instance_body(w, &application.name, &application.service, *action, seen);
    });
}

/// The port of that name, or the number that an unused one was announced with.
fn port(instance: &Instance, name: &str, attribute: &str) -> (u16, bool) {
    let named = instance.ports.iter().find(|port| &*port.name == name);
    if let Some(port) = named {
        return (port.number, true);
    }
    let said = instance
        .attributes()
        .get(attribute)
        .and_then(|text| text.parse().ok());
    (said.unwrap_or(0), false)
}

fn ports(instance: &Instance) -> [(u16, bool); 2] {
    let mut plain = port(instance, "http", attribute!("port"));
    let secure = port(instance, "https", attribute!("securePort"));
    // Who registered otherwise says only where it is, or names its ports as it likes.
    let is_secure = secure.1 && secure.0 == instance.port;
    if !plain.1 && instance.port != 0 && !is_secure {
        plain = (instance.port, true);
    }
    [plain, secure]
}

/// The attribute's value, where instances have that of a few.
fn said<'a>(attributes: &'a Metadata, attribute: &str) -> Option<&'a str> {
    attributes.get(attribute)
}

fn number(attributes: &Metadata, attribute: &str, otherwise: u64) -> u64 {
    let said = said(attributes, attribute).and_then(|text| text.parse().ok());
    said.unwrap_or(otherwise)
}

fn instance_body(w: &mut Writer, app: &str, service: &str, action: Option<Action>, seen: &Seen) {
    let instance = &*seen.instance;
    let attributes = instance.attributes();
    let said = |attribute| said(attributes, attribute);
    let number = |attribute, otherwise| number(attributes, attribute, otherwise);
    let id = instance.spelling().id.as_deref();
    w.text("instanceId", id.unwrap_or(instance.id.as_str()));
    w.text(
        "hostName",
        said(attribute!("hostName")).unwrap_or(&instance.address),
    );
    w.text("app", app);
    w.text(
        "ipAddr",
        said(attribute!("ipAddr")).unwrap_or(&instance.address),
    );
    w.text("status", seen.status.name());
    let word = instance
        .status_override
        .map(|status| Status::shown(status, None));
    w.text("overriddenstatus", word.unwrap_or(Status::Unknown).name());
    let [plain, secure] = ports(instance);
    w.port("port", plain.0, plain.1);
    w.port("securePort", secure.0, secure.1);
    w.number("countryId", number(attribute!("countryId"), 1));
    data_center(w, attributes);
    let registered = number(attribute!("registrationTimestamp"), 0);
    let updated = number(attribute!("lastUpdatedTimestamp"), 0);
    w.object("leaseInfo", |w| {
        let seconds = instance.ttl.map_or(90, |ttl| ttl.as_secs().max(1));
        w.number(
            "renewalIntervalInSecs",
            number(attribute!("renewalIntervalInSecs"), seconds.div_ceil(3)),
        );
        w.number("durationInSecs", seconds);
        w.number("registrationTimestamp", registered);
        // Heartbeats leave no trace but the lease itself.
        w.number("lastRenewalTimestamp", updated);
        w.number("evictionTimestamp", 0);
        w.number("serviceUpTimestamp", registered);
    });
    metadata(w, instance);
    for field in TEXTS {
        let virtual_address =
            field == "vipAddress" && said(attribute!("registrationTimestamp")).is_none();
        let text = attributes.get(&attribute_of(field));
        // Whoever registered otherwise is found by the service's name.
        w.some(field, text.or(virtual_address.then_some(service)));
    }
    let coordinates = said(attribute!("isCoordinatingDiscoveryServer")).is_some();
    w.text(
        "isCoordinatingDiscoveryServer",
        if coordinates { "true" } else { "false" },
    );
    w.text("lastUpdatedTimestamp", &updated.to_string());
    w.text("lastDirtyTimestamp", &dirty(instance).to_string());
    w.some("actionType", action.map(Action::name));
}

fn data_center(w: &mut Writer, attributes: &Metadata) {
    let name = said(attributes, attribute!("dataCenter")).unwrap_or("MyOwn");
    let amazon = name == "Amazon";
    w.classed("dataCenterInfo", if amazon { AMAZON } else { OTHER }, |w| {
        w.text("name", name);
        let metadata = said(attributes, attribute!("dataCenterMetadata"));
        let metadata: BTreeMap<String, String> = metadata
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        // Java's clients need it there for Amazon, even empty.
        if amazon || !metadata.is_empty() {
            w.object("metadata", |w| {
                metadata.iter().for_each(|(key, value)| w.pair(key, value))
            });
        }
    });
}

/// The metadata, with what other dialects say elsewhere where Eureka's clients look for it.
fn metadata(w: &mut Writer, instance: &Instance) {
    let weight = (!instance.weight.is_default()).then(|| instance.weight.to_string());
    let more = [
        ("version", instance.version.as_deref()),
        ("weight", weight.as_deref()),
        ("zone", instance.zone.as_deref()),
    ];
    let absent = |(key, value): (&'static str, Option<&str>)| {
        value
            .filter(|_| instance.metadata.get(key).is_none())
            .is_some()
    };
    if instance.metadata.is_empty() && !more.into_iter().any(absent) {
        return w.classed("metadata", EMPTY, |_| {});
    }
    w.object("metadata", |w| {
        instance
            .metadata
            .iter()
            .for_each(|(key, value)| w.pair(key, value));
        for (key, value) in more.into_iter().filter(|pair| absent(*pair)) {
            w.pair(key, value.unwrap_or_default());
        }
    });
}

/// Whether the instance answers at the virtual address `wanted`: one of a list, in any letter case.
pub(super) fn is_at(service: &Service, instance: &Instance, secure: bool, wanted: &str) -> bool {
    let attributes = instance.attributes();
    let kept = match secure {
        true => attributes.get(attribute!("secureVipAddress")),
        false => attributes.get(attribute!("vipAddress")),
    };
    let foreign = attributes
        .get(attribute!("registrationTimestamp"))
        .is_none();
    let named = (!secure && foreign).then_some(service.id.name.as_str());
    let listed = kept.or(named).unwrap_or_default();
    listed
        .split(',')
        .any(|address| address.trim().eq_ignore_ascii_case(wanted))
}
