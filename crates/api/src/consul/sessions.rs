//! `/v1/session`: what holds locks.

use std::time::Duration;

use axum::{
    extract::{Path, Request, State},
    response::Response,
};
use serde_json::{Value, json};
use sinew_coordination::keyspace::{Scope, Session, SessionRequest};
use sinew_core::Result;

use super::{
    Consul,
    answer::Woken,
    duration,
    json::{self, SessionBody},
    query::Ask,
    reply::{self, Refusal},
    wait::Turn,
};

const BODY_BYTES: usize = 64 * 1024;
const DEFAULT_DELAY: Duration = Duration::from_secs(15);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// The check of an agent's node. Whoever asks for it alone asks for nothing more than there is.
const NODE_CHECK: &str = "serfHealth";

/// `PUT /v1/session/create`
pub(super) async fn create(
    State(consul): State<Consul>,
    ask: Ask,
    request: Request,
) -> Result<Response, Refusal> {
    ask.no_namespace()?;
    let body = reply::read(request.into_body(), BODY_BYTES).await?;
    let body: SessionBody = json::read(&body)?;
    let node_checks = body.checks.iter().chain(&body.nodechecks).flatten();
    let foreign = node_checks.into_iter().any(|check| check != NODE_CHECK);
    if foreign || body.servicechecks.is_some_and(|checks| !checks.is_empty()) {
        return Err(reply::unsupported(
            "sessions go with their TTL, not with checks: leave Checks out and give a TTL",
        )
        .into());
    }
    let deletes = match &*body.behavior {
        "" | "release" => false,
        "delete" => true,
        _ => return Err(reply::invalid("Invalid Behavior: use 'release' or 'delete'").into()),
    };
    let request = SessionRequest {
        name: body.name,
        node: match &*body.node {
            "" => consul.0.settings.node.clone(),
            node => node.to_owned(),
        },
        ttl: body.ttl.0.filter(|ttl| !ttl.is_zero()),
        lock_delay: delay(body.lockdelay.as_ref())?.min(LONGEST_DELAY),
        deletes,
        note: String::new(),
    };
    let session = consul.0.keyspace.create_session(request).await?;
    Ok(reply::json(&json!({ "ID": &*session.id })))
}

/// `PUT /v1/session/destroy/{id}`: of one that is gone as well.
pub(super) async fn destroy(
    State(consul): State<Consul>,
    Path(id): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    ask.no_namespace()?;
    consul.0.keyspace.destroy_session(&id).await?;
    Ok(reply::json(&true.into()))
}

/// `PUT /v1/session/renew/{id}`
pub(super) async fn renew(
    State(consul): State<Consul>,
    Path(id): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    ask.no_namespace()?;
    let session = consul.0.keyspace.renew_session(&id).await?;
    Ok(reply::json(&json!([shown(&session)])))
}

/// `GET /v1/session/info/{id}`
pub(super) async fn info(
    State(consul): State<Consul>,
    Path(id): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    consul.sessions(&ask, Some(&id), |_| true).await
}

/// `GET /v1/session/list`
pub(super) async fn list(State(consul): State<Consul>, ask: Ask) -> Result<Response, Refusal> {
    consul.sessions(&ask, None, |_| true).await
}

/// `GET /v1/session/node/{node}`
pub(super) async fn of_node(
    State(consul): State<Consul>,
    Path(node): Path<String>,
    ask: Ask,
) -> Result<Response, Refusal> {
    let is = |session: &Session| session.request.node == node;
    consul.sessions(&ask, None, is).await
}

impl Consul {
    async fn sessions(
        &self,
        ask: &Ask,
        id: Option<&str>,
        is: impl Fn(&Session) -> bool,
    ) -> Result<Response, Refusal> {
        ask.no_namespace()?;
        let keyspace = &self.0.keyspace;
        let scope = id.map_or(Scope::Sessions, |id| Scope::Session(id.into()));
        let follower = keyspace.follow(scope);
        let mut patience = None;
        loop {
            let found = match id {
                Some(id) => keyspace.session(id).await?.into_iter().collect(),
                None => keyspace.sessions().await?,
            };
            let index = follower.index(found.iter().map(|session| session.created));
            let answer = |index| {
                let sessions: Vec<_> = found.iter().filter(|s| is(s)).map(shown).collect();
                let body = serde_json::to_vec(&sessions).expect("plain data serialises");
                Ok(self.stamped(reply::indexed(body.into(), index)))
            };
            let Some(blocking) = ask.blocking else {
                return answer(index);
            };
            let turn = blocking.turn(index, follower.seen());
            if let Turn::Answer(index) = turn {
                return answer(index);
            }
            let patience = match &mut patience {
                Some(patience) => patience,
                none => none.insert(self.patience(blocking)?),
            };
            if let Woken::Over = self.wait(patience, turn, follower.changed()).await {
                return answer(blocking.over(index, follower.seen()));
            }
        }
    }
}

fn shown(session: &Session) -> Value {
    let SessionRequest {
        name,
        node,
        ttl,
        lock_delay,
        deletes,
        ..
    } = &session.request;
    json!({
        "ID": &*session.id,
        "Name": name,
        "Node": node,
        "LockDelay": u64::try_from(lock_delay.as_nanos()).unwrap_or(u64::MAX),
        "Behavior": if *deletes { "delete" } else { "release" },
        "TTL": ttl.map(duration::show).unwrap_or_default(),
        "Checks": [NODE_CHECK],
        "NodeChecks": [NODE_CHECK],
        "ServiceChecks": null,
        "CreateIndex": session.created,
        "ModifyIndex": session.created,
    })
}

/// A delay: as Go writes it, or a number: of seconds when it is small, else of nanoseconds.
fn delay(given: Option<&Value>) -> Result<Duration> {
    let wrong = || reply::invalid("Invalid LockDelay: write it such as \"15s\"");
    match given {
        None => Ok(DEFAULT_DELAY),
        Some(Value::String(text)) if text.is_empty() => Ok(DEFAULT_DELAY),
        Some(Value::String(text)) => duration::parse(text).ok_or_else(wrong),
        Some(Value::Number(number)) => {
            let number = number.as_f64().ok_or_else(wrong)?;
            let seconds = if number < 1000.0 {
                number
            } else {
                number / 1e9
            };
            Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays() {
        let seconds = |value: Value| delay(Some(&value)).map(|delay| delay.as_secs());
        assert_eq!(delay(None).unwrap().as_secs(), 15);
        assert_eq!(seconds(json!("5s")).unwrap(), 5);
        assert_eq!(seconds(json!(5)).unwrap(), 5);
        assert_eq!(seconds(json!(5_000_000_000_u64)).unwrap(), 5);
        for bad in [json!("x"), json!(-1), json!(true)] {
            assert_eq!(seconds(bad).unwrap_err().code(), "consul.request_invalid");
        }
    }
}
