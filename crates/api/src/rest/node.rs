//! How the node itself is doing.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use sinew_core::{Error, Kind};
use utoipa::IntoParams;

use super::{
    Api,
    extract::QueryOf,
    model::{Health, Problem, Status},
    problem::Refusal,
};

/// How the node is doing.
#[utoipa::path(
    get, path = "/v1/status", tag = "node",
    responses((status = 200, description = "Its status", body = Status)),
)]
pub(super) async fn status(State(api): State<Api>) -> Result<Json<Status>, Refusal> {
    Ok(Json(api.0.node.status().await?))
}

/// Which backup is asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupQuery {
    /// The revision that an earlier backup reaches; a full one without it.
    since: Option<u64>,
}

/// A backup of the key-value store, taken while it is used.
///
/// The body is the backup as `sinew restore` reads it. A body that ends early is not whole: its last frame is
/// missing, which reading it shows.
#[utoipa::path(
    get, path = "/v1/backup", tag = "node", params(BackupQuery),
    responses(
        (status = 200, description = "The backup", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 416, description = "The history since then is gone; take a full one", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn backup(
    State(api): State<Api>,
    QueryOf(query): QueryOf<BackupQuery>,
) -> Result<Response, Refusal> {
    let mut chunks = api.0.node.backup(query.since);
    // What fails at the beginning is answered as an error, not as a body that breaks off.
    let Some(first) = chunks.recv().await.transpose()? else {
        let error = Error::new(
            Kind::Unavailable,
            "backup.cut_off",
            "the backup did not begin",
        );
        return Err(error.into());
    };
    let rest = stream::unfold(chunks, |mut chunks| async move {
        Some((chunks.recv().await?, chunks))
    });
    let body = stream::once(async { Ok(first) })
        .chain(rest)
        .map_err(|error| std::io::Error::other(error.detail()));
    let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((headers, Body::from_stream(body)).into_response())
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
