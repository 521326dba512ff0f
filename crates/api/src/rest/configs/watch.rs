//! A configuration as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use sinew_coordination::configs::{Configs, Effective, Watcher};
use sinew_core::{Drain, Error, Kind, Result, Retry};
use tokio::sync::OwnedSemaphorePermit;

use super::query::{Asker, Reading, invalid};
use crate::rest::{
    Api,
    extract::QueryOf,
    model::{ConfigEffective, Problem},
    problem::Refusal,
};

/// A silent watch says this often that it is still there.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long a node that is behind what the client has seen elsewhere may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Follow what one instance of an application shall see.
///
/// `text/event-stream`: a `config` event with the whole configuration, unless `Last-Event-ID` says that it is known,
/// then one `synced` event; after that a `config` event whenever anything in it is another. Slow readers get the
/// newest, not each in between. The id of an event is `<revision>:<version>`; a client that goes on from one never
/// sees an older revision. A comment every 5 seconds shows that the watch lives.
#[utoipa::path(
    get, path = "/v1/watch/config/{namespace}/{application}", tag = "config",
    params(
        ("namespace" = String, Path, description = "`default` is the usual one"),
        ("application" = String, Path, description = "The application"),
        Reading,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "The events", body = ConfigEffective, content_type = "text/event-stream"),
        (status = 429, description = "Too many watches", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(in crate::rest) async fn follow(
    State(api): State<Api>,
    Path((namespace, application)): Path<(String, String)>,
    QueryOf(reading): QueryOf<Reading>,
    headers: HeaderMap,
    asker: Asker,
) -> Result<Response, Refusal> {
    if reading.wait.is_some() || reading.consistent {
        return Err(
            invalid("a watch waits for ever and shows what this node has".to_owned()).into(),
        );
    }
    reading.check_reveal(&api, &asker)?;
    let permit = api.0.watches.clone().try_acquire_owned().map_err(|_| {
        Error::new(
            Kind::ResourceExhausted,
            "api.watches_exhausted",
            format!(
                "{} watches are open, which is the limit",
                crate::rest::WATCHES
            ),
        )
        .with_retry(Retry::After(Duration::from_secs(5)))
    })?;
    let configs = api.0.configs.clone();
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let last = last.and_then(|id| id.split_once(':'));
    let (revision, known) = match last {
        Some((revision, version)) => (revision.parse().unwrap_or(0), Some(version.to_owned())),
        None => (0, reading.known.clone()),
    };
    let query = reading.query(&namespace, &application, &asker)?;
    let mut watcher = configs.watch(query, known)?;
    // What another node showed shall not be taken back by this one; but a store that was restored is older.
    let _ = tokio::time::timeout(CATCH_UP, watcher.caught_up(revision)).await;
    let feed = Feed {
        watcher,
        configs,
        reveal: reading.reveal,
        synced: false,
        drain: api.0.drain.clone(),
        _permit: permit,
    };
    let events = stream::unfold(feed, |mut feed| async move {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies in between shall not hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// One watch. The connection asks for the next event when it has sent the last, so it holds no queue.
struct Feed {
    watcher: Watcher,
    configs: Configs,
    reveal: bool,
    synced: bool,
    drain: Drain,
    _permit: OwnedSemaphorePermit,
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        if !self.synced {
            // What is new already comes first; the watcher answers at once when there is any.
            let first = tokio::select! {
                biased;
                first = self.watcher.next() => Some(first.ok()?),
                () = std::future::ready(()) => None,
            };
            self.synced = true;
            let mut text = first.map_or_else(Vec::new, |first| self.event(first));
            text.extend_from_slice(b"event: synced\ndata: {}\n\n");
            return Some(text.into());
        }
        tokio::select! {
            biased;
            () = self.drain.wait() => None,
            // The end of the stream: the client connects again and goes on from its last event.
            changed = self.watcher.next() => Some(self.event(changed.ok()?).into()),
            () = tokio::time::sleep(ALIVE_EVERY) => Some(Bytes::from_static(b": alive\n\n")),
        }
    }

    fn event(&self, mut effective: Effective) -> Vec<u8> {
        if self.reveal
            && let Err(error) = self.configs.reveal_all(&mut effective)
        {
            tracing::warn!(
                error = error.detail(),
                "a watched configuration cannot be opened"
            );
            return b"event: failed\ndata: {}\n\n".to_vec();
        }
        let (revision, version) = (effective.revision, &effective.version);
        let mut text = format!("event: config\nid: {revision}:{version}\ndata: ").into_bytes();
        let is_stale = self.configs.stats().is_stale;
        let body = ConfigEffective::new(effective, is_stale);
        // JSON has no line breaks of its own, so it fits one `data` line.
        serde_json::to_writer(&mut text, &body).expect("plain data serialises");
        text.extend_from_slice(b"\n\n");
        text
    }
}
