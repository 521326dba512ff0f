//! Who is there.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sinew_coordination::registry::{Registry, ServiceId};
use sinew_core::{Error, Kind};

use super::{
    Api,
    extract::{InstancePath, NamePath},
    model::{Instance, ListedService, Problem, Service, Services},
    problem::Refusal,
    selection::{ListQuery, Selection, SelectionParams},
};

const REVISION: HeaderName = HeaderName::from_static("x-sinew-revision");
const STALE: HeaderName = HeaderName::from_static("x-sinew-stale-ms");

/// List all services that have instances.
///
/// With conditions, only the instances that meet them, and only services that have such. The answer is
/// from memory; with `X-Sinew-Stale-Ms` the node says that it has not been in step with its store for
/// so long.
#[utoipa::path(
    get, path = "/v1/services", tag = "registry",
    params(SelectionParams),
    responses(
        (status = 200, description = "The services", body = Services, headers(
            ("X-Sinew-Revision" = u64, description = "The revision of the list"),
            ("X-Sinew-Stale-Ms" = u64, description = "For how long the node has not been in step with its store, if it is not"),
        )),
        (status = "4XX", description = "The query is wrong", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    ListQuery(selection): ListQuery,
) -> Result<Response, Refusal> {
    let registry = &api.0.registry;
    newest(registry, &selection).await?;
    if let Some(index) = selection.index {
        wait(&api, registry.any_changed(index, selection.wait)).await?;
    }
    let listing = match &selection.namespace {
        Some(namespace) => registry.list_in(namespace),
        None => registry.list(),
    };
    let services = listing
        .services
        .iter()
        .map(|service| Service::of(service, |instance| selection.wants(service, instance)))
        .filter(|service| !service.instances.is_empty())
        .map(ListedService::from);
    let services = Services {
        revision: listing.revision,
        services: services.collect(),
    };
    Ok(answer(registry, listing.revision, &services))
}

/// List the instances of one service. The list is empty when it has none.
///
/// With conditions, only those that meet them.
#[utoipa::path(
    get, path = "/v1/services/{service}", tag = "registry",
    params(("service" = String, Path, description = "The service's name"), SelectionParams),
    responses(
        (status = 200, description = "Its instances", body = Service, headers(
            ("X-Sinew-Revision" = u64, description = "The revision of the list"),
            ("X-Sinew-Stale-Ms" = u64, description = "For how long the node has not been in step with its store, if it is not"),
        )),
        (status = "4XX", description = "The query is wrong", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn one(
    State(api): State<Api>,
    NamePath(name): NamePath,
    ListQuery(selection): ListQuery,
) -> Result<Response, Refusal> {
    let registry = &api.0.registry;
    let id: ServiceId = selection.service(name)?;
    newest(registry, &selection).await?;
    let service = match selection.index {
        Some(index) => wait(&api, registry.changed(&id, index, selection.wait)).await?,
        None => None,
    };
    let service = service.unwrap_or_else(|| registry.service(&id));
    let list = Service::of(&service, |instance| selection.wants(&service, instance));
    Ok(answer(registry, service.revision, &list))
}

/// One instance.
#[utoipa::path(
    get, path = "/v1/services/{service}/instances/{id}", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
        ("namespace" = Option<String>, Query, description = "The service's namespace; `default` when absent"),
    ),
    responses(
        (status = 200, description = "As it stands", body = Instance),
        (status = 404, description = "It is not registered", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn instance(
    State(api): State<Api>,
    InstancePath(service, id): InstancePath,
) -> Result<Response, Refusal> {
    let registry = &api.0.registry;
    let list = registry.service(&service);
    let Some(instance) = list.instance(&id) else {
        return Err(Error::new(
            Kind::NotFound,
            "registry.instance_unknown",
            format!("no instance {id} of {service} is registered"),
        )
        .into());
    };
    let body = Instance::within(&list, instance);
    Ok(answer(registry, list.revision, &body))
}

/// Waits for the newest if the query asks for it.
async fn newest(registry: &Registry, selection: &Selection) -> Result<(), Refusal> {
    if selection.consistent {
        registry.newest().await?;
    }
    Ok(())
}

/// Waits as a watch does: they are counted, and end when the node drains.
async fn wait<T>(api: &Api, changed: impl Future<Output = T>) -> Result<Option<T>, Refusal> {
    let _permit = api.watch_permit()?;
    tokio::select! {
        biased;
        () = api.0.drain.wait() => Ok(None),
        changed = changed => Ok(Some(changed)),
    }
}

fn answer(registry: &Registry, revision: u64, body: &impl Serialize) -> Response {
    let mut response = Json(body).into_response();
    let headers = response.headers_mut();
    headers.insert(REVISION, HeaderValue::from(revision));
    if let Some(stale) = registry.stale() {
        let millis = super::model::millis(stale);
        headers.insert(STALE, HeaderValue::from(millis));
    }
    response
}
