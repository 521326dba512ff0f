//! What instances say of themselves.

use axum::{Json, extract::State, http::StatusCode};
use sinew_coordination::registry::Edit;

use super::{
    Api,
    extract::{CheckPath, InstancePath, JsonBody},
    model::{self, CheckReport, Heartbeat, Instance, Registration, StatusChange},
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
        ("namespace" = Option<String>, Query, description = "The service's namespace; `default` when absent"),
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
    Ok((status, Json(Instance::alone(&registered.instance))))
}

/// Give an instance its full time to live again.
///
/// On 404 its lease has ended: register it again.
#[utoipa::path(
    post, path = "/v1/services/{service}/instances/{id}/heartbeat", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
        ("namespace" = Option<String>, Query, description = "The service's namespace; `default` when absent"),
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

/// Set what an instance says of whether it takes requests.
#[utoipa::path(
    put, path = "/v1/services/{service}/instances/{id}/status", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
        ("namespace" = Option<String>, Query, description = "The service's namespace; `default` when absent"),
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
    Ok(Json(Instance::alone(&instance)))
}

/// Say instead of the instance whether it takes requests, as for maintenance.
///
/// This counts until it is taken back, also when the instance registers again.
#[utoipa::path(
    put, path = "/v1/services/{service}/instances/{id}/override", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
        ("namespace" = Option<String>, Query, description = "The service's namespace; `default` when absent"),
    ),
    request_body = StatusChange,
    responses(
        (status = 200, description = "As it stands now", body = Instance),
        (status = 404, description = "It is not registered", body = model::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn set_override(
    State(api): State<Api>,
    InstancePath(service, id): InstancePath,
    JsonBody(change): JsonBody<StatusChange>,
) -> Result<Json<Instance>, Refusal> {
    let edit = Edit::Override(Some(change.status.into()));
    let instance = api.0.registry.edit(&service, &id, edit).await?;
    Ok(Json(Instance::alone(&instance)))
}

/// Let the instance's own word count again.
#[utoipa::path(
    delete, path = "/v1/services/{service}/instances/{id}/override", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
        ("namespace" = Option<String>, Query, description = "The service's namespace; `default` when absent"),
    ),
    responses(
        (status = 200, description = "As it stands now", body = Instance),
        (status = 404, description = "It is not registered", body = model::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn take_back_override(
    State(api): State<Api>,
    InstancePath(service, id): InstancePath,
) -> Result<Json<Instance>, Refusal> {
    let edit = Edit::Override(None);
    let instance = api.0.registry.edit(&service, &id, edit).await?;
    Ok(Json(Instance::alone(&instance)))
}

/// Report what a check saw. A check that the instance does not have changes nothing.
#[utoipa::path(
    put, path = "/v1/services/{service}/instances/{id}/checks/{check}", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
        ("check" = String, Path, description = "The check's id"),
        ("namespace" = Option<String>, Query, description = "The service's namespace; `default` when absent"),
    ),
    request_body = CheckReport,
    responses(
        (status = 200, description = "As it stands now", body = Instance),
        (status = 404, description = "It is not registered", body = model::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn report(
    State(api): State<Api>,
    CheckPath(service, id, check): CheckPath,
    JsonBody(report): JsonBody<CheckReport>,
) -> Result<Json<Instance>, Refusal> {
    let edit = Edit::Report(check.into(), report.health.into(), report.output);
    let instance = api.0.registry.edit(&service, &id, edit).await?;
    Ok(Json(Instance::alone(&instance)))
}

/// Take an instance out. It may be gone already.
#[utoipa::path(
    delete, path = "/v1/services/{service}/instances/{id}", tag = "registry",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("id" = String, Path, description = "The instance's id"),
        ("namespace" = Option<String>, Query, description = "The service's namespace; `default` when absent"),
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
