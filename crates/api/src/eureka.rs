//! The dialect of Eureka v2: its clients register, renew and discover here as they do with the
//! original, over this node's registry.
//!
//! `/eureka/apps…` and `/eureka/v2/apps…` are the default namespace, `/ns/<namespace>/eureka/…` is
//! another; JSON and XML, in and out. Reads are of the live lists: there is no cache that is allowed to
//! be stale, and what is registered through REST, the framework or another dialect is here at once, as
//! what is registered here is there.
//!
//! Where the original's ways are not kept:
//! - Ending an override lets the instance's own word count again at once, not after its next heartbeat.
//! - A data centre that no Java client knows is refused, for it would break all of them.
//! - `overriddenstatus` of a registration is for replication between the original's servers, and ignored.

mod access;
mod announced;
mod answer;
mod delta;
mod kept;
mod path;
mod request;
mod shown;
mod status;
mod tree;
mod views;
mod wire;

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use sinew_coordination::registry::{Edit, Registry, Service, ServiceId, Spelling, naming};
use sinew_core::{Clock, Error, InstanceId, Kind, Name, Result};

use crate::rest::Tokens;
use announced::Announced;
use answer::{Refusal, Reply};
use path::{NAMES, Operation};
use request::{dirty_in, query, read, takes_gzip, value_in};
use shown::Application;
use status::Status;
use views::{Views, Wanted};
use wire::Form;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How requests ended, in the metrics.
const OUTCOMES: [&str; 4] = ["ok", "not_found", "refused", "failed"];

/// The dialect over one registry. Cheap to clone.
#[derive(Clone)]
pub struct Eureka(Arc<Inner>);

struct Inner {
    registry: Registry,
    clock: Clock,
    tokens: Tokens,
    views: Views,
    /// By operation, those that are none last, and outcome.
    requests: [[AtomicU64; 4]; NAMES.len() + 1],
}

impl Eureka {
    /// The dialect over this registry, for those with these tokens.
    pub fn new(registry: Registry, clock: Clock, tokens: Tokens) -> Self {
        let views = Views::new(registry.clone(), clock.clone());
        Self(Arc::new(Inner {
            registry,
            clock,
            tokens,
            views,
            requests: Default::default(),
        }))
    }

    /// Its paths, to be merged with others.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/eureka/{*path}", any(of_default))
            .route("/ns/{namespace}/eureka/{*path}", any(of_namespace))
            .with_state(self.clone())
    }

    /// Its paths and nothing else, for a listener of its own.
    pub fn alone(&self) -> Router {
        self.router().fallback(async |uri: Uri| {
            let path: String = uri.path().chars().take(128).collect();
            let message = format!("there is no {path:?} here; Eureka's paths begin with /eureka/");
            Refusal(Error::new(Kind::NotFound, "api.path_unknown", message))
        })
    }

    /// Appends its metrics in Prometheus' text format.
    pub fn metrics(&self, text: &mut String) {
        text.push_str(
            "# HELP sinew_registry_eureka_requests_total Requests of Eureka clients by operation and outcome.\n\
             # TYPE sinew_registry_eureka_requests_total counter\n",
        );
        let names = NAMES.into_iter().chain(["none"]);
        for (name, outcomes) in names.zip(&self.0.requests) {
            for (outcome, count) in OUTCOMES.iter().zip(outcomes) {
                let count = count.load(Relaxed);
                let _ = writeln!(
                    text,
                    "sinew_registry_eureka_requests_total{{operation=\"{name}\",outcome=\"{outcome}\"}} {count}"
                );
            }
        }
    }

    async fn serve(&self, namespace: &str, path: &str, request: Request) -> Response {
        let operation = Operation::read(request.method(), path);
        let index = operation.as_ref().map_or(NAMES.len(), Operation::index);
        let answer = async {
            access::check(&self.0.tokens, request.headers())?;
            self.perform(namespace, operation?, request).await
        };
        let response = match tokio::time::timeout(TIMEOUT, answer).await {
            Ok(Ok(reply)) => reply.into_response(),
            Ok(Err(error)) => Refusal(error).into_response(),
            Err(_) => {
                let message = format!(
                    "no answer within {} s; it may have happened",
                    TIMEOUT.as_secs()
                );
                Refusal(Error::new(Kind::DeadlineExceeded, "api.timeout", message)).into_response()
            }
        };
        let outcome = match response.status().as_u16() {
            ..=399 => 0,
            404 => 1,
            400..=499 => 2,
            _ => 3,
        };
        self.0.requests[index][outcome].fetch_add(1, Relaxed);
        response
    }

    async fn perform(
        &self,
        namespace: &str,
        operation: Operation,
        request: Request,
    ) -> Result<Reply> {
        let registry = &self.0.registry;
        let place = |app: &str, id: &str| -> Result<(ServiceId, InstanceId)> {
            Ok((
                naming::service(namespace, "", app)?.0,
                naming::instance(id)?.0,
            ))
        };
        let (parts, body) = request.into_parts();
        match operation {
            Operation::Register { app } => {
                let named = naming::service(namespace, "", &app)?;
                self.register(&app, named, read(&parts, body).await?)
                    .await?;
                // The one answer that all clients take for success.
                return Ok(Reply::Done(StatusCode::NO_CONTENT));
            }
            Operation::Renew { app, id } => {
                let (service, id) = place(&app, &id)?;
                self.renew(&service, &id, dirty_in(&parts.uri)?).await?;
            }
            Operation::Cancel { app, id } => {
                let (service, id) = place(&app, &id)?;
                if !registry.deregister(&service, &id).await? {
                    return Err(unknown(format!(
                        "no instance {id} of {service} is registered"
                    )));
                }
            }
            Operation::Override { app, id } => {
                let value = value_in(&parts.uri)?.ok_or_else(|| {
                    Error::new(
                        Kind::InvalidArgument,
                        "api.query_invalid",
                        "say which status: ?value=OUT_OF_SERVICE",
                    )
                })?;
                let status = Status::read(&value)?;
                // UNKNOWN is how clients say that there is none.
                let word = (status != Status::Unknown).then(|| status.kept());
                let (service, id) = place(&app, &id)?;
                registry.edit(&service, &id, Edit::Override(word)).await?;
            }
            Operation::EndOverride { app, id } => {
                let (service, id) = place(&app, &id)?;
                registry.edit(&service, &id, Edit::Override(None)).await?;
            }
            Operation::SetMetadata { app, id } => {
                let (service, id) = place(&app, &id)?;
                let mut pairs = std::collections::BTreeMap::new();
                for (key, value) in query(&parts.uri)? {
                    // As in the original, of equal keys the first.
                    pairs.entry(key).or_insert(value);
                }
                registry.edit(&service, &id, Edit::Metadata(pairs)).await?;
            }
            reading => return self.show(namespace, reading, &parts.headers).await,
        }
        Ok(Reply::Done(StatusCode::OK))
    }

    async fn register(&self, app: &str, named: (ServiceId, Spelling), body: Bytes) -> Result<()> {
        let document = tree::read(&body).map_err(|why| {
            let message = format!("the body is neither JSON nor XML: {why}");
            Error::new(Kind::InvalidArgument, "api.body_invalid", message)
        })?;
        let announced = Announced::read(&document, app)?;
        let registry = &self.0.registry;
        let service = registry.service(&named.0);
        let known = service.instance(&naming::instance(&announced.id)?.0);
        if let Some(known) = known
            && announced
                .dirty
                .is_some_and(|dirty| dirty < kept::dirty(known))
        {
            // It was overtaken by a newer one of the same instance, which stays.
            return registry
                .heartbeat(&known.service, &known.id)
                .await
                .map(drop);
        }
        let now = self.0.clock.now().as_millis();
        let registration = kept::registration(announced, named, known.map(|known| &**known), now)?;
        registry.register(registration).await.map(drop)
    }

    async fn renew(&self, service: &ServiceId, id: &InstanceId, dirty: Option<u64>) -> Result<()> {
        let registry = &self.0.registry;
        registry.heartbeat(service, id).await?;
        let known = registry.service(service);
        let known = known.instance(id).map_or(0, |known| kept::dirty(known));
        match dirty {
            // It has changed since it was registered: on 404 it registers again.
            Some(dirty) if dirty > known => Err(unknown(format!(
                "instance {id} of {service} is registered as it was before; register again"
            ))),
            _ => Ok(()),
        }
    }

    async fn show(
        &self,
        namespace: &str,
        operation: Operation,
        headers: &HeaderMap,
    ) -> Result<Reply> {
        let form = Form::accepted(headers.get(header::ACCEPT).map(|value| value.as_bytes()));
        let gzip = takes_gzip(headers);
        let whole = |delta| async move {
            let namespace = namespace_named(namespace)?;
            let wanted = Wanted {
                namespace,
                delta,
                form,
                gzip,
            };
            Ok(Reply::Document(form, self.0.views.get(wanted).await?))
        };
        let registry = &self.0.registry;
        let bytes = match operation {
            Operation::Applications => return whole(false).await,
            Operation::Delta => return whole(true).await,
            Operation::Application { app } => {
                let service = registry.service(&naming::service(namespace, "", &app)?.0);
                if service.instances.is_empty() {
                    return Err(unknown(format!(
                        "no instance of {} is registered",
                        service.id
                    )));
                }
                shown::application(form, &Application::whole(&service))
            }
            Operation::Instance { app, id } => {
                let service = registry.service(&naming::service(namespace, "", &app)?.0);
                one(form, &service, &id)?
            }
            Operation::InstanceOfAny { id } => {
                let (wanted, _) = naming::instance(&id)?;
                let namespace = namespace_named(namespace)?;
                let listing = registry.list();
                let service = listing.services.iter().find(|service| {
                    service.id.namespace == namespace && service.instance(&wanted).is_some()
                });
                match service {
                    Some(service) => one(form, service, &id)?,
                    None => return Err(unknown(format!("no instance {wanted} is registered"))),
                }
            }
            Operation::Vip { address } => self.at(form, namespace, false, &address)?,
            Operation::SecureVip { address } => self.at(form, namespace, true, &address)?,
            _ => unreachable!("operations that change something are performed before"),
        };
        Ok(Reply::Document(form, views::compressed(bytes, gzip)))
    }

    /// All instances at a virtual address.
    fn at(&self, form: Form, namespace: &str, secure: bool, address: &str) -> Result<Vec<u8>> {
        let namespace = namespace_named(namespace)?;
        let listing = self.0.registry.list();
        let services = listing
            .services
            .iter()
            .filter(|service| service.id.namespace == namespace);
        let applications: Vec<_> = services
            .map(|service| {
                Application::of(service, |instance| {
                    shown::is_at(service, instance, secure, address)
                })
            })
            .filter(|application| !application.instances.is_empty())
            .collect();
        if applications.is_empty() {
            return Err(unknown("no instance is registered at this virtual address"));
        }
        let hash = shown::hash_of(
            applications
                .iter()
                .flat_map(|application| &application.instances),
        );
        Ok(shown::applications(
            form,
            listing.revision,
            &hash,
            &applications,
        ))
    }
}

// Paths are taken apart here, before they are decoded: an id may have a slash.
async fn of_default(State(eureka): State<Eureka>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let path = path.strip_prefix("/eureka/").unwrap_or_default();
    eureka.serve("", path, request).await
}

async fn of_namespace(State(eureka): State<Eureka>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let mut segments = path.splitn(5, '/').skip(2);
    let namespace = path::decoded(segments.next().unwrap_or_default());
    match namespace {
        Ok(namespace) => {
            let path = segments.nth(1).unwrap_or_default();
            eureka.serve(&namespace, path, request).await
        }
        Err(error) => Refusal(error).into_response(),
    }
}

fn namespace_named(namespace: &str) -> Result<Name> {
    Ok(naming::service(namespace, "", "any")?.0.namespace)
}

fn one(form: Form, service: &Service, id: &str) -> Result<Vec<u8>> {
    let (wanted, _) = naming::instance(id)?;
    match service.instance(&wanted) {
        Some(instance) => Ok(shown::instance(form, service, instance)),
        None => Err(unknown(format!(
            "no instance {wanted} of {} is registered",
            service.id
        ))),
    }
}

fn unknown(message: impl Into<String>) -> Error {
    Error::new(Kind::NotFound, "registry.instance_unknown", message)
}

#[cfg(test)]
mod tests;
