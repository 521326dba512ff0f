//! Watches as server-sent events: the whole lists first, then the newest list of whatever changes.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use sinew_coordination::registry::{self, ServiceId, Watcher};
use sinew_core::{Drain, Error, Kind, Name};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    Api,
    model::{self, Service},
    problem::Refusal,
    selection::{Selection, WatchQuery},
};

/// A silent watch says this often that it is still there.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How many services one watch may ask for.
const SERVICES: usize = 256;

/// A reader that did not take an event within this time is too slow to be worth its place.
const SLOW: Duration = Duration::from_secs(30);

/// Follow services.
///
/// `text/event-stream`: first one `service` event for each asked service (or, when none is asked
/// for, for each that there is) with its whole list, then one `synced` event; after that a `service` event with
/// the whole list whenever it changes, an empty one when the last instance goes. Slow readers get
/// the newest list, not each in between; one that takes nothing for half a minute gets an `end` event
/// with the reason, and no more. A comment every 5 seconds shows that the watch lives.
///
/// Whoever has got an event with an id has everything up to that revision. With `since` (or the header
/// `Last-Event-ID`) the watch goes on from there: only lists that changed since then come before
/// `synced`. If the node cannot tell any more what changed, it says so with a `reset` event, and the
/// whole lists follow.
#[utoipa::path(
    get, path = "/v1/watch/services", tag = "registry",
    params(
        ("service" = Option<Vec<String>>, Query, description = "A service to follow; may be repeated; all when absent"),
        ("namespace" = Option<String>, Query, description = "The namespace; `default` when absent, `*` for all services of all of them"),
        ("since" = Option<u64>, Query, description = "The revision up to which everything is known"),
    ),
    responses(
        (status = 200, description = "The events", body = Service, content_type = "text/event-stream"),
        (status = 429, description = "Too many watches", body = model::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn services(
    State(api): State<Api>,
    WatchQuery(selection): WatchQuery,
) -> Result<Response, Refusal> {
    let permit = api.watch_permit()?;
    let registry = &api.0.registry;
    let names = names(&selection)?;
    let mut reset = false;
    let mut resumed = None;
    if let Some(since) = selection.since {
        resumed = registry
            .watch_since(selection.namespace.clone(), since)
            .await;
        reset = resumed.is_none();
    }
    let (watcher, present) = match (resumed, names.is_empty(), &selection.namespace) {
        (Some(resumed), true, _) => resumed,
        (Some(_), false, _) => {
            let (watcher, mut present) = registry.watch_some(names);
            present.retain(|service| Some(service.revision) > selection.since);
            (watcher, present)
        }
        (None, false, _) => registry.watch_some(names),
        (None, true, Some(namespace)) => registry.watch_in(namespace.clone()),
        (None, true, None) => registry.watch_all(),
    };
    let feed = Feed {
        watcher,
        queue: present.into(),
        reset,
        synced: false,
        given: Instant::now(),
        ended: false,
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
    /// The reader asked to go on from where nobody can.
    reset: bool,
    synced: bool,
    /// When the last event was taken.
    given: Instant,
    ended: bool,
    drain: Drain,
    _permit: OwnedSemaphorePermit,
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if self.given.elapsed() > SLOW {
            let message = format!("nothing was read for {} s", SLOW.as_secs());
            let slow = Error::new(Kind::ResourceExhausted, "registry.watch_slow", message);
            return Some(self.end(&slow));
        }
        let event = self.event().await;
        self.given = Instant::now();
        event
    }

    async fn event(&mut self) -> Option<Bytes> {
        loop {
            if std::mem::take(&mut self.reset) {
                return Some(Bytes::from_static(b"event: reset\ndata: {}\n\n"));
            }
            if let Some(service) = self.queue.pop_front() {
                // Of several lists that changed, whoever has the last has all.
                let last = self.synced && self.queue.is_empty();
                return Some(event(&service, last.then(|| self.watcher.revision())));
            }
            if !self.synced {
                self.synced = true;
                let revision = self.watcher.revision();
                return Some(format!("event: synced\nid: {revision}\ndata: {{}}\n\n").into());
            }
            tokio::select! {
                biased;
                () = self.drain.wait() => return None,
                changed = self.watcher.next() => match changed {
                    Ok(changed) => self.queue.extend(changed),
                    Err(error) => return Some(self.end(&error)),
                },
                () = tokio::time::sleep(ALIVE_EVERY) => {
                    return Some(Bytes::from_static(b": alive\n\n"));
                }
            }
        }
    }

    /// The last event, which says why. The client connects again and goes on from where it was.
    fn end(&mut self, error: &Error) -> Bytes {
        self.ended = true;
        let mut text = b"event: end\ndata: ".to_vec();
        serde_json::to_writer(&mut text, &error.problem()).expect("plain data serialises");
        text.extend_from_slice(b"\n\n");
        text.into()
    }
}

fn event(service: &registry::Service, id: Option<u64>) -> Bytes {
    let mut text = b"event: service\n".to_vec();
    if let Some(id) = id {
        text.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    text.extend_from_slice(b"data: ");
    // JSON has no line breaks of its own, so it fits one `data` line.
    let list = Service::of(service, |_| true);
    serde_json::to_writer(&mut text, &list).expect("plain data serialises");
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// The services that are named, each once.
fn names(selection: &Selection) -> Result<Vec<ServiceId>, Error> {
    let names: BTreeSet<&Name> = selection.services.iter().collect();
    if names.len() > SERVICES {
        return Err(Error::new(
            Kind::InvalidArgument,
            "api.query_invalid",
            format!("one watch follows at most {SERVICES} services; leave them out to follow all"),
        ));
    }
    let ids = names
        .into_iter()
        .map(|name| selection.service(name.clone()));
    ids.collect()
}

#[cfg(test)]
mod tests;
