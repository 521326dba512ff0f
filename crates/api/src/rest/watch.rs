//! Watches as server-sent events: the whole lists first, then the newest list of whatever changes.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use sinew_coordination::registry::{self, Watcher};
use sinew_core::{Drain, Error, Kind, Name, Retry};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Api,
    model::{self, Service},
    problem::Refusal,
};

/// A silent watch says this often that it is still there.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How many services one watch may ask for.
const SERVICES: usize = 256;

/// Follow services.
///
/// `text/event-stream`: first one `service` event for each asked service (or, when none is asked
/// for, for each that there is) with its whole list, then one `synced` event; after that a `service` event with
/// the whole list whenever it changes, an empty one when the last instance goes. Slow readers get
/// the newest list, not each in between. A comment every 5 seconds shows that the watch lives.
#[utoipa::path(
    get, path = "/v1/watch/services", tag = "registry",
    params(("service" = Option<Vec<String>>, Query, description = "A service to follow; may be repeated; all when absent")),
    responses(
        (status = 200, description = "The events", body = Service, content_type = "text/event-stream"),
        (status = 429, description = "Too many watches", body = model::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn services(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let names = names(query.as_deref().unwrap_or_default())?;
    let permit = api.0.watches.clone().try_acquire_owned().map_err(|_| {
        Error::new(
            Kind::ResourceExhausted,
            "api.watches_exhausted",
            format!("{} watches are open, which is the limit", super::WATCHES),
        )
        .with_retry(Retry::After(Duration::from_secs(5)))
    })?;
    let registry = &api.0.registry;
    let (watcher, present) = match names.is_empty() {
        true => registry.watch_all(),
        false => registry.watch_some(names.iter().map(Into::into).collect()),
    };
    let feed = Feed {
        watcher,
        queue: present.into(),
        synced: false,
        drain: api.0.drain.clone(),
        _permit: permit,
    };
    let events = stream::unfold(feed, |mut feed| async move {
        let event = feed.next().await?;
        Some((Ok::<_, std::convert::Infallible>(event), feed))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies in between shall not hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// One watch. The connection asks for the next event when it has sent the last, so what a slow
/// reader has not taken waits in the registry as its newest state, not here as a queue.
struct Feed {
    watcher: Watcher,
    queue: VecDeque<Arc<registry::Service>>,
    synced: bool,
    drain: Drain,
    _permit: OwnedSemaphorePermit,
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(service) = self.queue.pop_front() {
                return Some(event(&service));
            }
            if !self.synced {
                self.synced = true;
                return Some(Bytes::from_static(b"event: synced\ndata: {}\n\n"));
            }
            tokio::select! {
                biased;
                () = self.drain.wait() => return None,
                // The end of the stream: the client connects again and gets the whole lists.
                changed = self.watcher.next() => self.queue.extend(changed.ok()?),
                () = tokio::time::sleep(ALIVE_EVERY) => {
                    return Some(Bytes::from_static(b": alive\n\n"));
                }
            }
        }
    }
}

fn event(service: &registry::Service) -> Bytes {
    let mut text = format!("event: service\nid: {}\ndata: ", service.revision).into_bytes();
    // JSON has no line breaks of its own, so it fits one `data` line.
    serde_json::to_writer(&mut text, &Service::from(service)).expect("plain data serialises");
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// The values of `service=…&service=…`. Names need no escaping, so a value with `%` is no name.
fn names(query: &str) -> Result<BTreeSet<Name>, Error> {
    let mut names = BTreeSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("service", name)) => names.insert(Name::new(name)?),
            _ => {
                let pair: String = pair.chars().take(64).collect();
                return Err(query_invalid(format!(
                    "{pair:?} is no parameter of a watch; use service=NAME"
                )));
            }
        };
        if names.len() > SERVICES {
            return Err(query_invalid(format!(
                "one watch follows at most {SERVICES} services; leave them out to follow all"
            )));
        }
    }
    Ok(names)
}

fn query_invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, "api.query_invalid", message)
}

#[cfg(test)]
mod tests;
