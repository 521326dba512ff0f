//! `/v1/txn`: several operations on keys, all or none.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sinew_coordination::keyspace::{Action, Mode};
use sinew_core::Result;

use super::{
    Consul,
    json::{self, KvOperation, Operation},
    kv,
    query::Ask,
    reply::{self, Refusal},
};

const OPERATIONS: usize = 64;
/// Of the whole request; a value is a third longer in it.
const BODY_BYTES: usize = 1024 * 1024;

/// `PUT /v1/txn`
pub(super) async fn transact(
    State(consul): State<Consul>,
    ask: Ask,
    request: Request,
) -> Result<Response, Refusal> {
    ask.no_namespace()?;
    let body = reply::read(request.into_body(), BODY_BYTES).await?;
    let operations: Vec<Operation> = json::read_list(&body)?;
    if operations.len() > OPERATIONS {
        let why = format!(
            "Transaction contains too many operations ({} > {OPERATIONS})",
            operations.len()
        );
        return Err(Refusal::with_status(
            reply::invalid(why),
            StatusCode::PAYLOAD_TOO_LARGE,
        ));
    }
    let actions: Vec<_> = operations
        .into_iter()
        .map(|operation| match operation.kv {
            Some(operation) => action(operation),
            None => Err(reply::unsupported("transactions are over keys (KV) only")),
        })
        .collect::<Result<_>>()?;
    let body = match consul.0.keyspace.transact(&actions).await? {
        Ok(items) => {
            let results = items.iter().map(|(step, item)| {
                let mut shown = kv::shown(item);
                if !matches!(actions[*step], Action::Get(_) | Action::GetTree(_)) {
                    // What was written is known to who wrote it.
                    shown["Value"] = Value::Null;
                }
                json!({ "KV": shown })
            });
            let results: Vec<_> = results.collect();
            (
                StatusCode::OK,
                json!({ "Results": results, "Errors": null }),
            )
        }
        Err(refused) => {
            let errors = json!([{ "OpIndex": refused.step, "What": refused.why }]);
            (
                StatusCode::CONFLICT,
                json!({ "Results": null, "Errors": errors }),
            )
        }
    };
    Ok((body.0, reply::json(&body.1)).into_response())
}

/// The step of a transaction.
fn action(operation: KvOperation) -> Result<Action> {
    let key = operation.key.as_str().into();
    let session = operation.session.as_str().into();
    let put = |mode| -> Result<Action> {
        let value = BASE64_STANDARD.decode(&operation.value);
        let value = value.map_err(|_| reply::invalid("a value is not base64"))?;
        Ok(Action::Put {
            key: operation.key.as_str().into(),
            value: value.into(),
            flags: operation.flags,
            mode,
        })
    };
    Ok(match &*operation.verb {
        "set" => put(Mode::Always)?,
        "cas" => put(Mode::At(operation.index))?,
        "lock" => put(Mode::Acquire(session))?,
        "unlock" => put(Mode::Release(session))?,
        "get" => Action::Get(key),
        "get-tree" => Action::GetTree(key),
        "check-index" => Action::CheckRevision(key, operation.index),
        "check-session" => Action::CheckSession(key, session),
        "check-not-exists" => Action::CheckAbsent(key),
        "delete" => Action::Delete(key, None),
        "delete-cas" => Action::Delete(key, Some(operation.index)),
        "delete-tree" => Action::DeleteTree(key),
        other => {
            let other: String = other.chars().take(64).collect();
            return Err(reply::invalid(format!("unknown verb {other:?}")));
        }
    })
}
