//! `/v1/kv`: keys and their locks.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sinew_coordination::keyspace::{Item, Mode, Scope};
use sinew_core::Result;

use super::{
    Consul,
    answer::Woken,
    query::{Ask, rest_of},
    reply::{self, Refusal},
    wait::Turn,
};

const PREFIX: &str = "/v1/kv/";
/// The longest value.
const VALUE_BYTES: usize = 512 * 1024;

/// A key as it is shown.
pub(super) fn shown(item: &Item) -> Value {
    let mut shown = json!({
        "LockIndex": item.lock_index,
        "Key": &*item.key,
        "Flags": item.flags,
        "Value": match item.value.is_empty() {
            true => Value::Null,
            false => BASE64_STANDARD.encode(&item.value).into(),
        },
        "CreateIndex": item.created,
        "ModifyIndex": item.modified,
    });
    if let Some(session) = &item.session {
        shown["Session"] = (**session).into();
    }
    shown
}

/// What was read, as it goes out.
enum Found {
    Nothing,
    Json(Vec<u8>),
    Raw(bytes::Bytes),
}

/// `GET /v1/kv/{key}`
pub(super) async fn get(
    State(consul): State<Consul>,
    ask: Ask,
    uri: Uri,
) -> Result<Response, Refusal> {
    ask.no_namespace()?;
    let key = rest_of(&uri, PREFIX)?;
    let (recurse, keys) = (ask.query.is("recurse"), ask.query.is("keys"));
    if key.is_empty() && !recurse && !keys {
        return Err(reply::invalid("Missing key name").into());
    }
    let scope = match recurse || keys {
        true => Scope::Prefix(key.as_str().into()),
        false => Scope::Key(key.as_str().into()),
    };
    let keyspace = &consul.0.keyspace;
    let follower = keyspace.follow(scope);
    let mut patience = None;
    loop {
        let (found, index) = if keys {
            let separator = ask.query.get("separator").unwrap_or_default();
            let keys = keyspace.keys(&key, separator).await?;
            let found = match keys.is_empty() {
                true => Found::Nothing,
                false => Found::Json(serde_json::to_vec(&keys).expect("text serialises")),
            };
            // Keys alone do not say when they changed; their followers know.
            (found, follower.index([]))
        } else {
            let items = match recurse {
                true => keyspace.list(&key).await?,
                false => keyspace.get(&key).await?.into_iter().collect(),
            };
            let index = follower.index(items.iter().map(|item| item.modified));
            let found = match items.as_slice() {
                [] => Found::Nothing,
                [item] if ask.query.is("raw") && !recurse => Found::Raw(item.value.clone()),
                items => {
                    let shown: Vec<_> = items.iter().map(shown).collect();
                    Found::Json(serde_json::to_vec(&shown).expect("plain data serialises"))
                }
            };
            (found, index)
        };
        let Some(blocking) = ask.blocking else {
            return Ok(consul.found(found, index));
        };
        let turn = blocking.turn(index, follower.seen());
        if let Turn::Answer(index) = turn {
            return Ok(consul.found(found, index));
        }
        let patience = match &mut patience {
            Some(patience) => patience,
            none => none.insert(consul.patience(blocking)?),
        };
        if let Woken::Over = consul.wait(patience, turn, follower.changed()).await {
            let index = blocking.over(index, follower.seen());
            return Ok(consul.found(found, index));
        }
    }
}

/// `PUT /v1/kv/{key}`
pub(super) async fn put(
    State(consul): State<Consul>,
    ask: Ask,
    uri: Uri,
    request: Request,
) -> Result<Response, Refusal> {
    ask.no_namespace()?;
    let key = rest_of(&uri, PREFIX)?;
    if key.is_empty() {
        return Err(reply::invalid("Missing key name").into());
    }
    let query = &ask.query;
    let session = |name| query.get(name).filter(|id| !id.is_empty());
    let mode = match (query.number("cas")?, session("acquire"), session("release")) {
        (None, None, None) => Mode::Always,
        (Some(index), None, None) => Mode::At(index),
        (None, Some(session), None) => Mode::Acquire(session.into()),
        (None, None, Some(session)) => Mode::Release(session.into()),
        _ => {
            return Err(
                reply::invalid("Conflicting flags: use one of cas, acquire and release").into(),
            );
        }
    };
    let flags = query.number("flags")?.unwrap_or(0);
    let value = reply::read(request.into_body(), VALUE_BYTES).await?;
    let put = consul.0.keyspace.put(&key, value, flags, mode).await;
    let put = put.map_err(unknown_session)?;
    Ok(reply::json(&put.into()))
}

/// `DELETE /v1/kv/{key}`
pub(super) async fn delete(
    State(consul): State<Consul>,
    ask: Ask,
    uri: Uri,
) -> Result<Response, Refusal> {
    ask.no_namespace()?;
    let key = rest_of(&uri, PREFIX)?;
    let keyspace = &consul.0.keyspace;
    let deleted = match (ask.query.is("recurse"), ask.query.number("cas")?) {
        (true, Some(_)) => {
            return Err(reply::invalid("Conflicting flags: use one of cas and recurse").into());
        }
        (true, None) => {
            keyspace.delete_tree(&key).await?;
            true
        }
        (false, _) if key.is_empty() => return Err(reply::invalid("Missing key name").into()),
        (false, cas) => keyspace.delete(&key, cas).await?,
    };
    Ok(reply::json(&deleted.into()))
}

/// A lock that is asked for by a session that is not there: 400, for the request cannot succeed.
pub(super) fn unknown_session(error: sinew_core::Error) -> Refusal {
    if error.code() == "keyspace.session_unknown" {
        return Refusal::with_status(error, StatusCode::BAD_REQUEST);
    }
    error.into()
}

impl Consul {
    fn found(&self, found: Found, index: u64) -> Response {
        let response = match found {
            Found::Nothing => StatusCode::NOT_FOUND.into_response(),
            Found::Json(body) => return self.stamped(reply::indexed(body.into(), index)),
            Found::Raw(value) => {
                let headers = [
                    (header::CONTENT_TYPE, HeaderValue::from_static("text/plain")),
                    // Values are anything, and no page of this server's.
                    (
                        header::X_CONTENT_TYPE_OPTIONS,
                        HeaderValue::from_static("nosniff"),
                    ),
                    (
                        header::CONTENT_SECURITY_POLICY,
                        HeaderValue::from_static("sandbox"),
                    ),
                ];
                (headers, value).into_response()
            }
        };
        self.stamped(reply::with_index(response, index))
    }
}
