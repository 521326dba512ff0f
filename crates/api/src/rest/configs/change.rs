//! Changes.

use axum::{Json, extract::State, http::header};
use serde::Deserialize;
use sinew_coordination::configs::{Rule, Written};
use sinew_core::Result;
use utoipa::{IntoParams, ToSchema};

use super::query::{ItemPath, Why};
use crate::rest::{
    Api,
    extract::{ConfigBody, Expected, QueryOf},
    model::{
        ConfigBundle, ConfigChange, ConfigDraft, ConfigGrayChange, ConfigImported, ConfigPublish,
        ConfigWritten, Problem,
    },
    problem::Refusal,
};

type Answer = Result<([(header::HeaderName, String); 1], Json<ConfigWritten>), Refusal>;

fn written(written: Written) -> Answer {
    let tag = format!("\"{}\"", written.version.version);
    Ok(([(header::ETAG, tag)], Json(written.into())))
}

/// Which version comes back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::rest) struct ConfigRollback {
    /// The version whose content shall be the current one again.
    version: u64,
}

/// How much of an item goes.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub(in crate::rest) struct HowMuch {
    /// Who makes the change, as they say themselves, to 128 bytes; `admin` when absent.
    author: Option<String>,
    /// Why, to 1024 bytes.
    note: Option<String>,
    /// Whether its history goes, too.
    purge: bool,
}

/// Write a content for everybody.
///
/// This node serves it when this returns; others over the same store follow within milliseconds.
#[utoipa::path(
    put, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}", tag = "config",
    params(
        ("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path),
        Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one; \"0\" when there must be none"),
    ),
    request_body = ConfigChange,
    responses(
        (status = 200, description = "It is stored", body = ConfigWritten),
        (status = 400, description = "It cannot be read, or does not fit its schema", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "Another version is the current one, or one is in gray release", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn put(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
    ConfigBody(change): ConfigBody<ConfigChange>,
) -> Answer {
    let by = why.by(expected);
    written(api.0.configs.put(&id, &change.into(), &by).await?)
}

/// Delete an item; its history stays unless it is purged.
#[utoipa::path(
    delete, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}", tag = "config",
    params(
        ("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path),
        HowMuch, ("If-Match" = Option<String>, Header, description = "The version that must be the current one"),
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "Another version is the current one, or one is in gray release", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn delete(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    expected: Expected,
    QueryOf(how): QueryOf<HowMuch>,
) -> Result<axum::http::StatusCode, Refusal> {
    let HowMuch {
        author,
        note,
        purge,
    } = how;
    let by = Why::new(author, note).by(expected);
    match purge {
        true => api.0.configs.purge(&id, &by).await?,
        false => drop(api.0.configs.delete(&id, &by).await?),
    }
    Ok(axum::http::StatusCode::NO_CONTENT)
}

/// Make the content of an earlier version the current one, as a new version.
#[utoipa::path(
    post, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/rollback", tag = "config",
    params(
        ("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path),
        Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one"),
    ),
    request_body = ConfigRollback,
    responses(
        (status = 200, description = "It is the current content", body = ConfigWritten),
        (status = "4XX", description = "Refused, as a content is", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn roll_back(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
    ConfigBody(rollback): ConfigBody<ConfigRollback>,
) -> Answer {
    let by = why.by(expected);
    written(api.0.configs.roll_back(&id, rollback.version, &by).await?)
}

/// Write a draft, over the one that is there. It is checked when it is published.
#[utoipa::path(
    put, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/draft", tag = "config",
    params(
        ("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path),
        Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one"),
    ),
    request_body = ConfigChange,
    responses(
        (status = 200, description = "The draft", body = ConfigDraft),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn draft(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
    ConfigBody(change): ConfigBody<ConfigChange>,
) -> Result<Json<ConfigDraft>, Refusal> {
    let by = why.by(expected);
    Ok(Json(
        api.0.configs.draft(&id, &change.into(), &by).await?.into(),
    ))
}

/// Throw a draft away.
#[utoipa::path(
    delete, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/draft", tag = "config",
    params(("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path), Why),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn discard(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    QueryOf(why): QueryOf<Why>,
) -> Result<axum::http::StatusCode, Refusal> {
    let by = why.by(Expected(None));
    api.0.configs.discard(&id, &by).await?;
    Ok(axum::http::StatusCode::NO_CONTENT)
}

/// Make the draft a version, for everybody or for those whom a rule names.
#[utoipa::path(
    post, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/publish", tag = "config",
    params(
        ("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path),
        Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one; the one that the draft was based on when absent"),
    ),
    request_body = ConfigPublish,
    responses(
        (status = 200, description = "It is stored", body = ConfigWritten),
        (status = "4XX", description = "Refused, as a content is", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn publish(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
    ConfigBody(publish): ConfigBody<ConfigPublish>,
) -> Answer {
    let by = why.by(expected);
    let rule = publish.rule.map(Rule::try_from).transpose()?;
    written(api.0.configs.publish(&id, rule.as_ref(), &by).await?)
}

/// Write a content for those whom a rule names, or change whom it names.
#[utoipa::path(
    put, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/gray", tag = "config",
    params(
        ("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path),
        Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one"),
    ),
    request_body = ConfigGrayChange,
    responses(
        (status = 200, description = "They see it", body = ConfigWritten),
        (status = "4XX", description = "Refused, as a content is", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn gray(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
    ConfigBody(gray): ConfigBody<ConfigGrayChange>,
) -> Answer {
    let by = why.by(expected);
    let rule = Rule::try_from(gray.rule)?;
    let configs = &api.0.configs;
    written(match gray.change {
        Some(change) => configs.gray(&id, &change.into(), &rule, &by).await?,
        None => configs.widen(&id, &rule, &by).await?,
    })
}

/// Put the version in gray release in force for everybody.
#[utoipa::path(
    post, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/promote", tag = "config",
    params(
        ("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path),
        Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one"),
    ),
    responses(
        (status = 200, description = "Everybody sees it", body = ConfigWritten),
        (status = 412, description = "None is in gray release", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn promote(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
) -> Answer {
    written(api.0.configs.promote(&id, &why.by(expected)).await?)
}

/// End the gray release; everybody sees the current version.
#[utoipa::path(
    post, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/abort", tag = "config",
    params(
        ("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path),
        Why, ("If-Match" = Option<String>, Header, description = "The version that must be the current one"),
    ),
    responses(
        (status = 200, description = "Nobody sees it any more", body = ConfigWritten),
        (status = 412, description = "None is in gray release", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn abort(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    expected: Expected,
    QueryOf(why): QueryOf<Why>,
) -> Answer {
    written(api.0.configs.abort(&id, &why.by(expected)).await?)
}

/// Whether an import only tells what it would do.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub(in crate::rest) struct HowToImport {
    /// Who makes the change, as they say themselves, to 128 bytes; `admin` when absent.
    author: Option<String>,
    /// Why, to 1024 bytes.
    note: Option<String>,
    /// Whether nothing is written.
    dry_run: bool,
}

/// Write the items of an export, each as a change of its own, once all of them were checked.
#[utoipa::path(
    post, path = "/v1/config/import", tag = "config", params(HowToImport),
    request_body = ConfigBundle,
    responses(
        (status = 200, description = "What became of it", body = ConfigImported),
        (status = "4XX", description = "One of them cannot be written", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn import(
    State(api): State<Api>,
    QueryOf(how): QueryOf<HowToImport>,
    ConfigBody(bundle): ConfigBody<ConfigBundle>,
) -> Result<Json<ConfigImported>, Refusal> {
    let HowToImport {
        author,
        note,
        dry_run,
    } = how;
    let by = Why::new(author, note).by(Expected(None));
    let bundle = bundle.try_into()?;
    Ok(Json(
        api.0.configs.import(&bundle, dry_run, &by).await?.into(),
    ))
}
