//! Encrypted values and their keys.

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::query::Why;
use crate::rest::{
    Api,
    extract::{ConfigBody, Expected, QueryOf},
    model::{ConfigRotated, ConfigValue, Problem},
    problem::Refusal,
};

/// Encrypt a value, for use in contents.
#[utoipa::path(
    post, path = "/v1/config/encrypt", tag = "config",
    request_body = ConfigValue,
    responses(
        (status = 200, description = "`{cipher}…`", body = ConfigValue),
        (status = 412, description = "The node has no master key", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn encrypt(
    State(api): State<Api>,
    ConfigBody(plain): ConfigBody<ConfigValue>,
) -> Result<Json<ConfigValue>, Refusal> {
    let value = api.0.configs.encrypt(&plain.value).await?;
    Ok(Json(ConfigValue { value }))
}

/// What is rotated.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub(in crate::rest) struct What {
    /// Who makes the change, as they say themselves, to 128 bytes; `admin` when absent.
    author: Option<String>,
    /// Why, to 1024 bytes.
    note: Option<String>,
    /// Whether values are encrypted anew, each item as a new version.
    values: bool,
}

/// Make a new data key, and wrap the old ones by the master key in use.
#[utoipa::path(
    post, path = "/v1/config/keys/rotate", tag = "config", params(What),
    responses(
        (status = 200, description = "What was done", body = ConfigRotated),
        (status = 412, description = "The node does not have the master key", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn rotate(
    State(api): State<Api>,
    QueryOf(what): QueryOf<What>,
) -> Result<Json<ConfigRotated>, Refusal> {
    let by = Why::new(what.author, what.note).by(Expected(None));
    Ok(Json(
        api.0.configs.rotate_keys(what.values, &by).await?.into(),
    ))
}
