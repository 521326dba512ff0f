//! `/v1/agent`: services register themselves and say how they are.

mod place;

use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
};
use serde_json::{Map, Value, json};
use sinew_coordination::registry::{
    Check, Edit, Health, Instance, Probe, Registration, Status, Weight, naming,
};
use sinew_core::Result;

use super::{
    Consul,
    checks::{self, Checks},
    filter::Filter,
    json::{self, CheckBody, ServiceBody, UpdateBody},
    query::Ask,
    reply::{self, Refusal},
    shape::{self, ATTRIBUTE, Kept},
};

/// The longest body.
const BODY_BYTES: usize = 256 * 1024;

/// `GET /v1/agent/self`
pub(super) async fn itself(State(consul): State<Consul>, _ask: Ask) -> Response {
    let settings = &consul.0.settings;
    let version = env!("CARGO_PKG_VERSION");
    reply::json(&json!({
        "Config": {
            "Datacenter": settings.datacenter,
            "PrimaryDatacenter": settings.datacenter,
            "NodeName": settings.node,
            "NodeID": "",
            "Server": true,
            "Revision": "sinew",
            "Version": version,
        },
        "Coord": Value::Null,
        "Member": consul.member(),
        "Stats": { "agent": { "version": version } },
        "Meta": {},
    }))
}

/// `GET /v1/agent/members`
pub(super) async fn members(State(consul): State<Consul>, _ask: Ask) -> Response {
    reply::json(&json!([consul.member()]))
}

/// `GET /v1/agent/services`: what was registered through this API.
pub(super) async fn services(State(consul): State<Consul>, ask: Ask) -> Result<Response, Refusal> {
    let filter = filter(&ask)?;
    let namespace = consul.namespace(&ask)?;
    let mut shown = Map::new();
    for service in consul.0.registry.list_in(&namespace).services {
        for instance in service.instances.iter().filter(|i| shape::is_own(i)) {
            let entry = consul.shape().service(instance, &shape::kept(instance));
            if filter.as_ref().is_none_or(|filter| filter.holds(&entry)) {
                shown.insert(shape::id_of(instance).to_owned(), entry);
            }
        }
    }
    Ok(reply::json(&Value::Object(shown)))
}

/// `GET /v1/agent/service/{id}`
pub(super) async fn service(
    State(consul): State<Consul>,
    Path(id): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    let instance = consul.find(&ask, &id)?;
    let mut shown = consul.shape().service(&instance, &shape::kept(&instance));
    shown["ContentHash"] = format!("{:016x}", instance.revision).into();
    Ok(reply::json(&shown))
}

/// `GET /v1/agent/checks`: those of what was registered through this API.
pub(super) async fn checks(State(consul): State<Consul>, ask: Ask) -> Result<Response, Refusal> {
    let filter = filter(&ask)?;
    let namespace = consul.namespace(&ask)?;
    let mut shown = Map::new();
    for service in consul.0.registry.list_in(&namespace).services {
        for instance in service.instances.iter().filter(|i| shape::is_own(i)) {
            let kept = shape::kept(instance);
            for check in shape::checks(&service, instance, &kept) {
                let entry = consul.shape().check(instance, &kept, &check);
                if filter.as_ref().is_none_or(|filter| filter.holds(&entry)) {
                    shown.insert(check.id, entry);
                }
            }
        }
    }
    Ok(reply::json(&Value::Object(shown)))
}

/// `PUT /v1/agent/service/register`
pub(super) async fn register(
    State(consul): State<Consul>,
    ask: Ask,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let body = reply::read(request.into_body(), BODY_BYTES).await?;
    let body: ServiceBody = json::read(&body)?;
    let registration = consul.registration(&ask, body)?;
    let (service, id) = (registration.service.clone(), registration.id.clone());
    consul.0.registry.register(registration).await?;
    // In Consul an id is of one service: under another name it is the same, renamed.
    for other in consul.0.registry.find(&service.namespace, &id) {
        if other.service != service && shape::is_own(&other) {
            consul.0.registry.deregister(&other.service, &id).await?;
        }
    }
    consul.remember(service, id);
    Ok(StatusCode::OK)
}

/// `PUT /v1/agent/service/deregister/{id}`
pub(super) async fn deregister(
    State(consul): State<Consul>,
    Path(id): Path<String>,
    ask: Ask,
) -> Result<StatusCode, Refusal> {
    let found = consul.find(&ask, &id)?;
    consul
        .0
        .registry
        .deregister(&found.service, &found.id)
        .await?;
    Ok(StatusCode::OK)
}

/// `PUT /v1/agent/service/maintenance/{id}?enable=`
pub(super) async fn maintenance(
    State(consul): State<Consul>,
    Path(id): Path<String>,
    ask: Ask,
) -> Result<StatusCode, Refusal> {
    if ask.query.get("enable").is_none_or(str::is_empty) {
        return Err(reply::invalid("Missing value for enable").into());
    }
    let found = consul.find(&ask, &id)?;
    let word = ask.query.is("enable").then_some(Status::OutOfService);
    let edit = Edit::Override(word);
    consul
        .0
        .registry
        .edit(&found.service, &found.id, edit)
        .await?;
    Ok(StatusCode::OK)
}

/// `PUT /v1/agent/check/register`: of a service that is registered.
pub(super) async fn register_check(
    State(consul): State<Consul>,
    ask: Ask,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let body = reply::read(request.into_body(), BODY_BYTES).await?;
    let body: CheckBody = json::read(&body)?;
    if body.name.is_empty() {
        return Err(reply::invalid("Missing check name").into());
    }
    if body.serviceid.is_empty() {
        return Err(reply::unsupported(
            "checks of nodes are not there: give the ServiceID of a registered service",
        )
        .into());
    }
    let found = consul.find(&ask, &body.serviceid)?;
    let mut added = Checks::default();
    let name = shape::name_of(&found);
    // Consul calls a check after its name if it has no id.
    let body = CheckBody {
        id: if body.id.is_empty() {
            body.name.clone()
        } else {
            body.id
        },
        ..body
    };
    added.add(&body, (&body.serviceid, &name), 0)?;
    let id = added.kept[0].id.clone();
    let mut kept = shape::kept(&found);
    let mut registration = again(&found);
    registration.checks.retain(|check| *check.id != *id);
    kept.checks.retain(|check| check.id != id);
    let has_ttl = kept.checks.iter().any(|check| check.ttl.is_some());
    if added.ttl.is_some() && has_ttl {
        return Err(
            reply::unsupported("a service can have one TTL check here: its heartbeat").into(),
        );
    }
    registration.checks.append(&mut added.checks);
    registration.ttl = added.ttl.or(registration.ttl);
    registration.deregister_after = added.deregister_after.or(registration.deregister_after);
    kept.checks.extend(added.kept.into_iter().map(|mut check| {
        check.separate = true;
        check
    }));
    keep(&mut registration, &kept);
    consul.0.registry.register(registration).await?;
    Ok(StatusCode::OK)
}

/// `PUT /v1/agent/check/deregister/{id}`
pub(super) async fn deregister_check(
    State(consul): State<Consul>,
    Path(id): Path<String>,
    ask: Ask,
) -> Result<StatusCode, Refusal> {
    let (found, check) = consul.find_check(&ask, &id)?;
    let mut kept = shape::kept(&found);
    let mut registration = again(&found);
    registration.checks.retain(|other| other.id != check.id);
    kept.checks.retain(|other| *other.id != *check.id);
    if matches!(check.probe, Probe::Reported) {
        registration.ttl = None;
    }
    keep(&mut registration, &kept);
    consul.0.registry.register(registration).await?;
    Ok(StatusCode::OK)
}

/// `PUT /v1/agent/check/{pass,warn,fail,update}/{id}`: a heartbeat, which writes nothing as long as
/// it says the same as the one before.
pub(super) async fn report(
    State(consul): State<Consul>,
    Path((verb, id)): Path<(String, String)>,
    ask: Ask,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let note = || ask.query.get("note").unwrap_or_default().to_owned();
    let (health, output) = match &*verb {
        "pass" => (Health::Passing, note()),
        "warn" => (Health::Warning, note()),
        "fail" => (Health::Critical, note()),
        "update" => {
            let body = reply::read(request.into_body(), BODY_BYTES).await?;
            let body: UpdateBody = json::read(&body)?;
            (checks::health(&body.status)?, body.output)
        }
        _ => return Err(super::not_found(request.uri().clone()).await),
    };
    let (found, check) = consul.find_check(&ask, &id)?;
    let registry = &consul.0.registry;
    if !matches!(check.probe, Probe::Reported) {
        let why = format!("CheckID {id:?} does not have associated TTL");
        return Err(reply::invalid(why).into());
    }
    if check.health != health {
        let edit = Edit::Report(check.id.clone(), health, output);
        registry.edit(&found.service, &found.id, edit).await?;
    }
    registry.heartbeat(&found.service, &found.id).await?;
    Ok(StatusCode::OK)
}

impl Consul {
    fn member(&self) -> Value {
        let settings = &self.0.settings;
        json!({
            "Name": settings.node,
            "Addr": settings.address.ip().to_string(),
            "Port": settings.address.port(),
            "Tags": { "role": "consul", "dc": settings.datacenter, "build": env!("CARGO_PKG_VERSION") },
            "Status": 1,
            "ProtocolMin": 1,
            "ProtocolMax": 5,
            "ProtocolCur": 2,
            "DelegateMin": 2,
            "DelegateMax": 5,
            "DelegateCur": 4,
        })
    }

    fn registration(&self, ask: &Ask, body: ServiceBody) -> Result<Registration> {
        if body.name.is_empty() {
            return Err(reply::invalid("Missing service name"));
        }
        let is_set = |value: &Option<Value>| {
            let fields = value.as_ref().and_then(Value::as_object);
            fields.is_some_and(|fields| !fields.is_empty())
        };
        if !body.kind.is_empty() || is_set(&body.proxy) || is_set(&body.connect) {
            return Err(reply::unsupported(
                "the service mesh (Kind, Proxy, Connect) is not there",
            ));
        }
        if !body.socketpath.is_empty() {
            return Err(reply::unsupported(
                "services on Unix sockets are not there; register an address",
            ));
        }
        let id = if body.id.is_empty() {
            &body.name
        } else {
            &body.id
        };
        let (service, mut spelling) = self.service_id(ask, &body.name)?;
        let (instance, written) = naming::instance(id)?;
        spelling.id = written;
        let mut checks = Checks::default();
        let all = body.check.iter().chain(&body.checks);
        for (number, check) in all.enumerate() {
            checks.add(check, (id, &body.name), number)?;
        }
        let earlier = self
            .0
            .registry
            .service(&service)
            .instance(&instance)
            .cloned();
        if let Some(earlier) = earlier.filter(|_| !ask.query.is("replace-existing-checks")) {
            checks.keep_separate(&earlier);
        }
        // An agent would say its own address, and it would be on the service's machine.
        let address = match &*body.address {
            "" => ask.peer.to_string(),
            address => address.to_owned(),
        };
        let weights = body.weights.unwrap_or_default();
        let mut registration = Registration::new(service, instance, address, body.port);
        registration.spelling = spelling;
        registration.metadata = body.meta;
        registration.zone = body.locality.map(|locality| locality.zone);
        registration.weight = Weight::new(f64::from(weights.passing)).unwrap_or_default();
        // It stays until it is deregistered, as in Consul.
        registration.persistent = true;
        registration.ttl = checks.ttl;
        registration.deregister_after = checks.deregister_after;
        registration.checks = checks.checks;
        let kept = Kept {
            tags: body.tags,
            tagged: body.taggedaddresses,
            warning_weight: Some(weights.warning).filter(|weight| *weight != 1),
            tag_override: body.enabletagoverride,
            checks: checks.kept,
        };
        keep(&mut registration, &kept);
        Ok(registration)
    }
}

impl Checks {
    /// Keeps what was registered apart from the service.
    fn keep_separate(&mut self, earlier: &Instance) {
        for known in shape::kept(earlier).checks {
            let is_new = self.kept.iter().all(|check| check.id != known.id);
            let check = earlier.checks().iter().find(|check| *check.id == *known.id);
            let fits = known.ttl.is_none() || self.ttl.is_none();
            if let Some(check) = check.filter(|_| known.separate && is_new && fits) {
                if known.ttl.is_some() {
                    self.ttl = earlier.ttl;
                }
                self.checks.push(check.clone());
                self.kept.push(known);
            }
        }
    }
}

/// A registration that says what the instance says already.
fn again(instance: &Instance) -> Registration {
    let mut registration = Registration::new(
        instance.service.clone(),
        instance.id.clone(),
        &*instance.address,
        instance.port,
    );
    registration.ports = instance.ports.to_vec();
    registration.status = instance.status;
    registration.weight = instance.weight;
    registration.zone = instance.zone.as_deref().map(str::to_owned);
    registration.version = instance.version.as_deref().map(str::to_owned);
    registration.metadata = instance.metadata.to_map();
    registration.ttl = instance.ttl;
    registration.persistent = instance.persistent;
    registration.deregister_after = instance.deregister_after();
    registration.checks = instance.checks().iter().map(Check::clone).collect();
    registration.spelling = instance.spelling().clone();
    registration.attributes = instance.attributes().to_map();
    registration
}

fn keep(registration: &mut Registration, kept: &Kept) {
    let kept = serde_json::to_string(kept).expect("plain data serialises");
    registration.attributes.insert(ATTRIBUTE.to_owned(), kept);
}

fn filter(ask: &Ask) -> Result<Option<Filter>> {
    let text = ask.query.get("filter").filter(|text| !text.is_empty());
    text.map(Filter::parse).transpose()
}
