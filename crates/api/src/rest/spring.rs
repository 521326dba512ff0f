//! Spring Cloud Config's dialect: `/{application}/{profiles}[/{label}]`, and
//! `[/{label}]/{application}-{profiles}.{properties,yml,yaml,json}`, and items as plain files,
//! `/{application}/{profiles}/{label}/{file}`.
//!
//! Served under `/config` for the namespace `default`, under `/namespaces/{namespace}/config` for any, and at
//! the root of a listener of its own. The token comes as a bearer token or as the password of basic
//! authentication, as Spring's clients send them. Encrypted values come open where the token may see them; where
//! it may not, Spring's server says `invalid.<name> = <n/a>`, and so does this one.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value, json};
use sinew_coordination::configs::{
    Client, DEFAULT_NAMESPACE, DEFAULT_PROFILE, Effective, Format, ItemId, MAIN_LABEL, Query,
    properties,
};
use sinew_core::{Error, Kind, Result};

use super::{Api, auth, auth::Role, configs::Asker, problem, problem::Refusal};

/// What newer clients ask for: each value with where it comes from.
const WITH_ORIGIN: &str = "application/vnd.spring-cloud.config-server.v2+json";
/// What an encrypted value begins with.
const CIPHER: &str = "{cipher}";

/// The dialect below `prefix`, such as `/config`.
pub(super) fn router(api: &Api, prefix: &str) -> Router<Api> {
    Router::new()
        .route(&format!("{prefix}/{{one}}"), get(file))
        .route(&format!("{prefix}/{{one}}/{{two}}"), get(environment))
        .route(
            &format!("{prefix}/{{one}}/{{two}}/{{three}}"),
            get(environment),
        )
        .route(
            &format!("{prefix}/{{one}}/{{two}}/{{three}}/{{four}}"),
            get(plain),
        )
        .method_not_allowed_fallback(problem::method_not_allowed)
        .route_layer(middleware::from_fn_with_state(
            api.clone(),
            auth::check_dialect,
        ))
}

type Parts = Path<BTreeMap<String, String>>;

/// A file for whoever wants one: `/orders-prod.yml`.
async fn file(
    State(api): State<Api>,
    Path(parts): Parts,
    asker: Asker,
) -> Result<Response, Refusal> {
    let wanted = file_name(part(&parts, "one"));
    let (application, profiles, format) = wanted.ok_or_else(unknown)?;
    let query = query(&parts, application, profiles, None, &asker);
    rendered(&api, &query, format, &asker)
}

/// The item of this name, as it was written. Which application and profiles ask makes no difference.
async fn plain(
    State(api): State<Api>,
    Path(parts): Parts,
    asker: Asker,
) -> Result<Response, Refusal> {
    let query = query(
        &parts,
        part(&parts, "one"),
        "",
        Some(part(&parts, "three")),
        &asker,
    );
    let id = ItemId::new(
        &query.namespace,
        part(&parts, "four"),
        DEFAULT_PROFILE,
        &query.label,
    )?;
    let configs = &api.0.configs;
    let item = configs.item(&id).ok_or_else(unknown)?;
    let (version, content, _) = item.seen_by(&query.client).ok_or_else(unknown)?;
    let content = match asker.role == Role::Admin || configs.config().services_decrypt {
        true => configs.reveal(version.format, content)?,
        false => content.to_owned(),
    };
    let media_type = [(header::CONTENT_TYPE, version.format.media_type())];
    Ok(no_store((media_type, content).into_response()))
}

/// An environment, or a file under a label.
async fn environment(
    State(api): State<Api>,
    Path(parts): Parts,
    headers: HeaderMap,
    asker: Asker,
) -> Result<Response, Refusal> {
    let (one, two) = (part(&parts, "one"), part(&parts, "two"));
    let label = parts.get("three").map(String::as_str);
    if label.is_none()
        && let Some((application, profiles, format)) = file_name(two)
    {
        let query = query(&parts, application, profiles, Some(one), &asker);
        return rendered(&api, &query, format, &asker);
    }
    let query = query(&parts, one, two, label, &asker);
    let effective = effective(&api, &query, label.is_some(), &asker)?;
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let with_origin = accept.is_some_and(|accept| accept.contains(WITH_ORIGIN));
    let sources: Vec<Value> = effective.sources.iter().map(|source| {
        let name = format!("sinew:{}", source.id);
        let settings = source.settings.iter().map(|(key, value)| {
            let value = match with_origin {
                true => json!({"value": value, "origin": format!("{name}, version {}", source.version)}),
                false => value.clone(),
            };
            (key.clone(), value)
        });
        json!({"name": name, "source": settings.collect::<Map<_, _>>()})
    }).collect();
    let profiles: Vec<&str> = two.split(',').collect();
    let body = json!({
        "name": one, "profiles": profiles, "label": label, "version": effective.version, "state": null,
        "propertySources": sources,
    });
    let mut response = Json(body).into_response();
    if with_origin {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(WITH_ORIGIN));
    }
    Ok(no_store(response))
}

fn rendered(api: &Api, query: &Query, format: Format, asker: &Asker) -> Result<Response, Refusal> {
    let effective = effective(api, query, query.label != MAIN_LABEL, asker)?;
    let text = match format {
        Format::Properties => {
            let settings = effective.settings.iter();
            properties::write(settings.map(|(name, setting)| (name, &setting.value)))
        }
        format => format.write(&effective.document())?,
    };
    let media_type = match format {
        Format::Json => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    Ok(no_store(
        ([(header::CONTENT_TYPE, media_type)], text).into_response(),
    ))
}

fn no_store(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What the one who asks sees, opened as far as it may see it.
fn effective(api: &Api, query: &Query, needs_label: bool, asker: &Asker) -> Result<Effective> {
    let configs = &api.0.configs;
    let is_there = || {
        let (items, _) =
            configs.list(|id| id.namespace() == query.namespace && id.label() == query.label);
        !items.is_empty()
    };
    if needs_label && query.label != MAIN_LABEL && !is_there() {
        return Err(unknown());
    }
    let mut effective = configs.resolve(query)?;
    if asker.role == Role::Admin || configs.config().services_decrypt {
        configs.reveal_all(&mut effective)?;
        return Ok(effective);
    }
    for source in &mut effective.sources {
        let hidden = source
            .settings
            .iter()
            .map(|(name, value)| match is_secret(value) {
                true => (format!("invalid.{name}"), Value::from("<n/a>")),
                false => (name.clone(), value.clone()),
            });
        let hidden: BTreeMap<_, _> = hidden.collect();
        source.settings = hidden.into();
    }
    effective.settings = std::mem::take(&mut effective.settings)
        .into_iter()
        .map(|(name, mut setting)| match is_secret(&setting.value) {
            true => {
                setting.value = "<n/a>".into();
                (format!("invalid.{name}"), setting)
            }
            false => (name, setting),
        })
        .collect();
    Ok(effective)
}

fn is_secret(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains(CIPHER))
}

/// `orders-prod,eu.yml`: the application, the profiles and the format. A name without profiles has none
/// but `default`.
fn file_name(name: &str) -> Option<(&str, &str, Format)> {
    let (stem, ending) = name.rsplit_once('.')?;
    let format = match ending {
        "properties" => Format::Properties,
        "yml" | "yaml" => Format::Yaml,
        "json" => Format::Json,
        _ => return None,
    };
    let (application, profiles) = stem.rsplit_once('-').unwrap_or((stem, "default"));
    (!application.is_empty()).then_some((application, profiles, format))
}

fn query(
    parts: &BTreeMap<String, String>,
    application: &str,
    profiles: &str,
    label: Option<&str>,
    asker: &Asker,
) -> Query {
    let profiles = profiles
        .split(',')
        .map(str::trim)
        .filter(|profile| !profile.is_empty());
    Query {
        namespace: parts
            .get("namespace")
            .map_or(DEFAULT_NAMESPACE, String::as_str)
            .to_owned(),
        application: application.to_owned(),
        profiles: profiles.map(str::to_owned).collect(),
        // A slash in a label is written so, as in Spring's.
        label: label.unwrap_or(MAIN_LABEL).replace("(_)", "/"),
        client: Client {
            instance: None,
            address: asker.peer.map(|peer| peer.0.ip()),
            labels: BTreeMap::new(),
        },
    }
}

fn part<'a>(parts: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    parts.get(name).map_or("", String::as_str)
}

fn unknown() -> Error {
    Error::new(
        Kind::NotFound,
        "configs.label_unknown",
        "there is no such file or label; ask for /APPLICATION/PROFILES, or /APPLICATION-PROFILES.yml",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_say_what_is_wanted() {
        for (name, expected) in [
            ("orders-prod.yml", Some(("orders", "prod", Format::Yaml))),
            (
                "my-orders-prod,eu.properties",
                Some(("my-orders", "prod,eu", Format::Properties)),
            ),
            ("orders.json", Some(("orders", "default", Format::Json))),
            ("orders", None),
            ("orders-prod.txt", None),
            ("-prod.yml", None),
        ] {
            assert_eq!(file_name(name), expected, "{name}");
        }
    }
}
