//! How the node itself is doing.

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{
    Api,
    model::{Health, Routes, Status},
    problem::Refusal,
};

/// The gateway's routes in the order in which they are tried.
#[utoipa::path(
    get, path = "/v1/routes", tag = "node",
    responses((status = 200, description = "The routes", body = Routes)),
)]
pub(super) async fn routes(State(api): State<Api>) -> Json<Routes> {
    Json(api.0.node.routes())
}

/// How the node is doing.
#[utoipa::path(
    get, path = "/v1/status", tag = "node",
    responses((status = 200, description = "Its status", body = Status)),
)]
pub(super) async fn status(State(api): State<Api>) -> Result<Json<Status>, Refusal> {
    Ok(Json(api.0.node.status().await?))
}

/// Whether the node answers. Needs no token.
#[utoipa::path(
    get, path = "/v1/health", tag = "node", security(),
    responses((status = 200, description = "It does", body = Health)),
)]
pub(super) async fn health() -> Json<Health> {
    Json(Health {
        status: "up".to_owned(),
    })
}

/// Metrics in Prometheus' text format. Needs no token from the same machine.
#[utoipa::path(
    get, path = "/metrics", tag = "node", security((), ("token" = [])),
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let mut text = String::with_capacity(4096);
    api.metrics(&mut text);
    api.0.node.metrics(&mut text);
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}
