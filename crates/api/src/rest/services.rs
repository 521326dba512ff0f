//! Who is there.

use axum::{Json, extract::State};

use super::{
    Api,
    extract::ServicePath,
    model::{Service, Services},
    problem::Refusal,
};

/// List all services that have instances.
#[utoipa::path(
    get, path = "/v1/services", tag = "registry",
    responses((status = 200, description = "The services", body = Services)),
)]
pub(super) async fn list(State(api): State<Api>) -> Json<Services> {
    Json(api.0.registry.list().into())
}

/// List the instances of one service. The list is empty when it has none.
#[utoipa::path(
    get, path = "/v1/services/{service}", tag = "registry",
    params(("service" = String, Path, description = "The service's name")),
    responses((status = 200, description = "Its instances", body = Service)),
)]
pub(super) async fn one(
    State(api): State<Api>,
    ServicePath(service): ServicePath,
) -> Result<Json<Service>, Refusal> {
    Ok(Json(Service::from(
        api.0.registry.service(&service).as_ref(),
    )))
}
