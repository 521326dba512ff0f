//! What there is.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use sinew_coordination::configs::{Client, Effective, Item, ItemId, Query};
use sinew_core::{Error, Kind, Result, units};
use utoipa::IntoParams;

use super::query::{Asker, ItemPath, LONGEST_WAIT, Reading, invalid};
use crate::rest::{
    Api,
    auth::Role,
    extract::QueryOf,
    model::{
        ConfigAudit, ConfigBundle, ConfigComparison, ConfigContent, ConfigDraft, ConfigDrafts,
        ConfigEffective, ConfigItem, ConfigItems, ConfigVersionContent, ConfigVersions, Problem,
    },
    problem::Refusal,
};

/// Which items.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub(in crate::rest) struct Wanted {
    /// Of this namespace; of all when absent.
    namespace: Option<String>,
    /// Of this application; of all when absent.
    application: Option<String>,
    /// Under this label; under all when absent.
    label: Option<String>,
}

impl Wanted {
    fn has(&self, id: &ItemId) -> bool {
        let is = |wanted: &Option<String>, own| wanted.as_ref().is_none_or(|wanted| wanted == own);
        is(&self.namespace, id.namespace())
            && is(&self.application, id.application())
            && is(&self.label, id.label())
    }
}

/// The items, without their contents.
#[utoipa::path(
    get, path = "/v1/config/items", tag = "config", params(Wanted),
    responses((status = 200, description = "The items", body = ConfigItems)),
)]
pub(in crate::rest) async fn items(
    State(api): State<Api>,
    QueryOf(wanted): QueryOf<Wanted>,
) -> Json<ConfigItems> {
    let configs = &api.0.configs;
    let (items, revision) = configs.list(|id| wanted.has(id));
    Json(ConfigItems {
        revision,
        is_stale: configs.stats().is_stale,
        items: items.iter().map(|item| ConfigItem::from(&**item)).collect(),
    })
}

/// An item with the content that the one who asks sees.
#[utoipa::path(
    get, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}", tag = "config",
    params(
        ("namespace" = String, Path, description = "`default` is the usual one"),
        ("application" = String, Path, description = "The application, or the data id"),
        ("profile" = String, Path, description = "`default` always counts"),
        ("label" = String, Path, description = "`main` is the usual one; a slash in it as `%2F`"),
        Reading,
    ),
    responses(
        (status = 200, description = "The item", body = ConfigContent),
        (status = 304, description = "The known version is the one"),
        (status = 404, description = "There is none for the one who asks", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn item(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    QueryOf(reading): QueryOf<Reading>,
    asker: Asker,
) -> Result<Response, Refusal> {
    if reading.profiles.is_some() || reading.label.is_some() {
        return Err(
            invalid("an item has one profile and one label: those of its path".to_owned()).into(),
        );
    }
    reading.check_reveal(&api, &asker)?;
    let client = reading.client(&asker)?;
    let configs = &api.0.configs;
    let mut applied = configs.applied();
    let deadline = tokio::time::Instant::now() + reading.wait()?;
    loop {
        applied.borrow_and_update();
        let item = match reading.consistent {
            true => configs.item_now(&id).await?,
            false => configs.item(&id),
        };
        let version = item
            .as_ref()
            .and_then(|item| item.seen_by(&client))
            .map(|seen| seen.0.version);
        if reading.known.is_none() || reading.known != Some(version.unwrap_or(0).to_string()) {
            let item = item
                .filter(|_| version.is_some())
                .ok_or_else(|| unknown(&id))?;
            return shown(&api, &item, &client, &reading, &asker).await;
        }
        if !more(&api, &mut applied, deadline).await {
            return Ok(StatusCode::NOT_MODIFIED.into_response());
        }
    }
}

async fn shown(
    api: &Api,
    item: &Arc<Item>,
    client: &Client,
    reading: &Reading,
    asker: &Asker,
) -> Result<Response, Refusal> {
    let configs = &api.0.configs;
    let (version, content, _) = item.seen_by(client).ok_or_else(|| unknown(&item.id))?;
    let content = match reading.reveal {
        true => configs.reveal(version.format, content)?,
        false => content.to_owned(),
    };
    if reading.reveal && asker.role == Role::Admin {
        configs
            .note_reveal("admin", &item.id, version.version)
            .await?;
    }
    let tag = format!("\"{}\"", version.version);
    let body = ConfigContent {
        item: ConfigItem::from(&**item),
        version: version.version,
        format: version.format.into(),
        content,
        is_revealed: reading.reveal,
        is_stale: configs.stats().is_stale,
    };
    Ok(([(header::ETAG, tag)], no_store(), Json(body)).into_response())
}

/// What one instance of an application shall see, merged from all items that have a say.
///
/// The strongest first: for each profile, the last named first, and then for `default`, the application's own
/// item, and then that of the application `application`, which all of a namespace share.
#[utoipa::path(
    get, path = "/v1/config/effective/{namespace}/{application}", tag = "config",
    params(
        ("namespace" = String, Path, description = "`default` is the usual one"),
        ("application" = String, Path, description = "The application"),
        Reading,
    ),
    responses(
        (status = 200, description = "The configuration", body = ConfigEffective),
        (status = 304, description = "The known version is the one"),
    ),
)]
pub(in crate::rest) async fn effective(
    State(api): State<Api>,
    Path((namespace, application)): Path<(String, String)>,
    QueryOf(reading): QueryOf<Reading>,
    asker: Asker,
) -> Result<Response, Refusal> {
    reading.check_reveal(&api, &asker)?;
    let query = reading.query(&namespace, &application, &asker)?;
    let wait = reading.wait()?;
    let configs = &api.0.configs;
    let found = match reading.consistent {
        true => configs.resolve_now(&query).await?,
        false => configs.resolve(&query)?,
    };
    if reading.known.as_ref() != Some(&found.version) {
        return answer(&api, &query, found, &reading, &asker).await;
    }
    let mut watcher = configs.watch(query.clone(), reading.known.clone())?;
    tokio::select! {
        biased;
        () = api.0.drain.wait() => {}
        changed = watcher.next() => return answer(&api, &query, changed?, &reading, &asker).await,
        () = tokio::time::sleep(wait) => {}
    }
    Ok(StatusCode::NOT_MODIFIED.into_response())
}

async fn answer(
    api: &Api,
    query: &Query,
    mut effective: Effective,
    reading: &Reading,
    asker: &Asker,
) -> Result<Response, Refusal> {
    let configs = &api.0.configs;
    if reading.reveal {
        configs.reveal_all(&mut effective)?;
        if asker.role == Role::Admin {
            let id = ItemId::new(
                &query.namespace,
                &query.application,
                "default",
                &query.label,
            )?;
            configs.note_reveal("admin", &id, 0).await?;
        }
    }
    let tag = format!("\"{}\"", effective.version);
    let body = ConfigEffective::new(effective, configs.stats().is_stale);
    Ok(([(header::ETAG, tag)], no_store(), Json(body)).into_response())
}

/// Whether there may be something new before the wait is over.
async fn more(
    api: &Api,
    applied: &mut tokio::sync::watch::Receiver<u64>,
    deadline: tokio::time::Instant,
) -> bool {
    tokio::select! {
        biased;
        () = api.0.drain.wait() => false,
        changed = applied.changed() => changed.is_ok(),
        () = tokio::time::sleep_until(deadline) => false,
    }
}

/// The versions of an item that are kept, without their contents.
#[utoipa::path(
    get, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/versions", tag = "config",
    params(("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path)),
    responses((status = 200, description = "The versions", body = ConfigVersions)),
)]
pub(in crate::rest) async fn versions(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
) -> Result<Json<ConfigVersions>, Refusal> {
    let versions = api.0.configs.versions(&id).await?;
    let versions = versions.iter().map(Into::into).collect();
    Ok(Json(ConfigVersions { versions }))
}

/// A version with its content, encrypted values as they are.
#[utoipa::path(
    get, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/versions/{version}", tag = "config",
    params(("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path), ("version" = u64, Path)),
    responses(
        (status = 200, description = "The version", body = ConfigVersionContent),
        (status = 404, description = "It never was, or is no longer kept", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn version(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    Path(path): Path<std::collections::BTreeMap<String, String>>,
) -> Result<Json<ConfigVersionContent>, Refusal> {
    let number = path.get("version").and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| {
        let message = "a version is a number";
        Error::new(Kind::InvalidArgument, "api.path_invalid", message)
    })?;
    Ok(Json(api.0.configs.version(&id, number).await?.into()))
}

/// Which versions to compare.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::rest) struct Pair {
    /// The earlier; 0 for none.
    from: u64,
    /// The later.
    to: u64,
}

/// What is different between two versions.
#[utoipa::path(
    get, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/diff", tag = "config",
    params(("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path), Pair),
    responses(
        (status = 200, description = "The differences", body = ConfigComparison),
        (status = 404, description = "One of them never was, or is no longer kept", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn diff(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
    QueryOf(pair): QueryOf<Pair>,
) -> Result<Json<ConfigComparison>, Refusal> {
    let compared = api.0.configs.compare(&id, pair.from, pair.to).await?;
    Ok(Json(compared.into()))
}

/// The draft of an item.
#[utoipa::path(
    get, path = "/v1/config/items/{namespace}/{application}/{profile}/{label}/draft", tag = "config",
    params(("namespace" = String, Path), ("application" = String, Path), ("profile" = String, Path), ("label" = String, Path)),
    responses(
        (status = 200, description = "The draft", body = ConfigDraft),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn draft_of(
    State(api): State<Api>,
    ItemPath(id): ItemPath,
) -> Result<Json<ConfigDraft>, Refusal> {
    Ok(Json(api.0.configs.draft_of(&id).await?.into()))
}

/// All drafts.
#[utoipa::path(
    get, path = "/v1/config/drafts", tag = "config",
    responses((status = 200, description = "The drafts", body = ConfigDrafts)),
)]
pub(in crate::rest) async fn drafts(State(api): State<Api>) -> Result<Json<ConfigDrafts>, Refusal> {
    let drafts = api.0.configs.drafts().await?;
    let drafts = drafts.into_iter().map(Into::into).collect();
    Ok(Json(ConfigDrafts { drafts }))
}

/// Current contents as one file, encrypted values as they are.
#[utoipa::path(
    get, path = "/v1/config/export", tag = "config", params(Wanted),
    responses((status = 200, description = "What `POST /v1/config/import` takes", body = ConfigBundle)),
)]
pub(in crate::rest) async fn export(
    State(api): State<Api>,
    QueryOf(wanted): QueryOf<Wanted>,
) -> Json<ConfigBundle> {
    Json(api.0.configs.export(|id| wanted.has(id)).into())
}

/// Which entries of the audit log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub(in crate::rest) struct Audited {
    /// Of this item: `NAMESPACE/APPLICATION/PROFILE/LABEL`.
    item: Option<String>,
    /// From so long back, such as `24h`; a week when absent.
    back: Option<String>,
    /// At most so many; 100 when absent, at most 1000.
    limit: Option<usize>,
}

/// Who did what.
#[utoipa::path(
    get, path = "/v1/config/audit", tag = "config", params(Audited),
    responses((status = 200, description = "The entries", body = ConfigAudit)),
)]
pub(in crate::rest) async fn audit(
    State(api): State<Api>,
    QueryOf(audited): QueryOf<Audited>,
) -> Result<Json<ConfigAudit>, Refusal> {
    let item = audited.item.as_deref().map(str::parse).transpose()?;
    let back = match &audited.back {
        None => Duration::from_secs(7 * 24 * 3600),
        Some(text) => units::read_duration(text)
            .ok_or_else(|| invalid("back is a time, such as 24h".to_owned()))?,
    };
    let limit = audited.limit.unwrap_or(100).clamp(1, 1000);
    let entries = api.0.configs.audit(item.as_ref(), back, limit).await?;
    let entries = entries.into_iter().map(Into::into).collect();
    Ok(Json(ConfigAudit { entries }))
}

/// Answers with settings are for nobody else.
fn no_store() -> [(header::HeaderName, &'static str); 1] {
    [(header::CACHE_CONTROL, "no-store")]
}

fn unknown(id: &ItemId) -> Error {
    Error::new(
        Kind::NotFound,
        "configs.item_unknown",
        format!("there is no item {id}"),
    )
}

/// How long a request may take besides its usual time, because it says that it waits.
pub(in crate::rest) fn patience(query: Option<&str>) -> Duration {
    let pairs = query.unwrap_or_default().split('&');
    let mut waits = pairs.filter_map(|pair| pair.strip_prefix("wait="));
    let wait = waits
        .next()
        .and_then(units::read_duration)
        .unwrap_or_default();
    wait.min(LONGEST_WAIT)
}
