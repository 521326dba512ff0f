//! What instances say of themselves.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    Api,
    extract::{InstancePath, JsonBody},
    model::{self, Heartbeat, Instance, Registration, StatusChange},
    problem::Refusal,
};

/// Register an instance, or replace what it said before.
///
/// It is listed, and gets requests, when this returns. It stays for its time to live after this
/// call or the last heartbeat.
#[utoipa::path(
    put, path = "/v1/services/{service}/instances/{id}", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
    ),
    request_body = Registration,
    responses(
        (status = 200, description = "It was known and is replaced", body = Instance),
        (status = 201, description = "It is new", body = Instance),
        (status = "4XX", description = "Refused", body = model::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn register(
    State(api): State<Api>,
    InstancePath(service, id): InstancePath,
    JsonBody(registration): JsonBody<Registration>,
) -> Result<(StatusCode, Json<Instance>), Refusal> {
    let registered = api
        .0
        .registry
        .register(registration.of(service, id)?)
        .await?;
    let status = if registered.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(Instance::from(registered.instance.as_ref()))))
}

/// Give an instance its full time to live again.
///
/// On 404 its lease has ended: register it again.
#[utoipa::path(
    post, path = "/v1/services/{service}/instances/{id}/heartbeat", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
    ),
    responses(
        (status = 200, description = "It stays", body = Heartbeat),
        (status = 404, description = "It is not registered", body = model::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn heartbeat(
    State(api): State<Api>,
    InstancePath(service, id): InstancePath,
) -> Result<Json<Heartbeat>, Refusal> {
    let ttl = api.0.registry.heartbeat(&service, &id).await?;
    Ok(Json(Heartbeat {
        ttl_ms: model::millis(ttl),
    }))
}

/// Set whether an instance takes requests.
#[utoipa::path(
    put, path = "/v1/services/{service}/instances/{id}/status", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
    ),
    request_body = StatusChange,
    responses(
        (status = 200, description = "As it stands now", body = Instance),
        (status = 404, description = "It is not registered", body = model::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn set_status(
    State(api): State<Api>,
    InstancePath(service, id): InstancePath,
    JsonBody(change): JsonBody<StatusChange>,
) -> Result<Json<Instance>, Refusal> {
    let instance = api
        .0
        .registry
        .set_status(&service, &id, change.status.into())
        .await?;
    Ok(Json(Instance::from(instance.as_ref())))
}

/// Take an instance out. It may be gone already.
#[utoipa::path(
    delete, path = "/v1/services/{service}/instances/{id}", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
    ),
    responses((status = 204, description = "It is not registered any more")),
)]
pub(super) async fn deregister(
    State(api): State<Api>,
    InstancePath(service, id): InstancePath,
) -> Result<StatusCode, Refusal> {
    api.0.registry.deregister(&service, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
