//! Answers from the registry, at once or when they change.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed};

use axum::response::Response;
use sinew_coordination::registry::{Service, ServiceId};
use sinew_core::{Error, Kind, Name, Result, Retry};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Duration, Instant},
};

use super::{
    Consul,
    query::Ask,
    reply::{self, Refusal},
    wait::{Blocking, CATCH_UP, Turn},
};

/// What of the registry an answer is made from.
pub(super) enum Scope {
    Service(ServiceId),
    /// All services of a namespace.
    All(Name),
}

/// What ended a wait.
pub(super) enum Woken {
    Changed,
    Over,
}

/// The wait of one request.
pub(super) struct Patience {
    began: Instant,
    whole: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Consul {
    /// Answers what `make` makes of the services: at once, or when that changes. `key` names what
    /// is asked for, with all that `make` depends on.
    pub(super) async fn show(
        &self,
        ask: &Ask,
        scope: Scope,
        key: String,
        make: impl Fn(&[Arc<Service>]) -> Vec<u8>,
    ) -> Result<Response, Refusal> {
        let inner = &self.0;
        if ask.query.is("consistent") {
            inner.registry.newest().await?;
        }
        let view = inner.views.view(&key);
        let mut listing = inner.listing.clone();
        let mut one = match &scope {
            Scope::Service(id) => Some(inner.registry.watch(id)),
            Scope::All(_) => None,
        };
        listing.mark_unchanged();
        let (mut services, mut revision) = match (&scope, &mut one) {
            (_, Some(one)) => now(one),
            (Scope::All(namespace), None) => {
                let listing = inner.registry.list_in(namespace);
                (listing.services, listing.revision)
            }
            (Scope::Service(_), None) => unreachable!("a service is watched"),
        };
        let mut patience = None;
        loop {
            let (index, body) = view.show(services.clone(), revision, &make);
            inner.views.shrink();
            let answer = |index| Ok(self.stamped(reply::indexed(body.clone(), index)));
            let Some(blocking) = ask.blocking else {
                return answer(index);
            };
            let seen = revision.max(listing.borrow().revision);
            let turn = blocking.turn(index, seen);
            if let Turn::Answer(index) = turn {
                if patience.is_some() {
                    inner.woken.fetch_add(1, Relaxed);
                }
                return answer(index);
            }
            let patience = match &mut patience {
                Some(patience) => patience,
                none => none.insert(self.patience(blocking)?),
            };
            let changed = async {
                match &mut one {
                    Some(one) => drop(one.changed().await),
                    None => drop(listing.changed().await),
                }
            };
            if let Woken::Over = self.wait(patience, turn, changed).await {
                inner.expired.fetch_add(1, Relaxed);
                return answer(blocking.over(index, seen.max(inner.listing.borrow().revision)));
            }
            match (&scope, &mut one) {
                (Scope::All(namespace), _) => {
                    let newest = listing.borrow_and_update().clone();
                    if newest.revision >= revision {
                        revision = newest.revision;
                        let within = |service: &&Arc<Service>| service.id.namespace == *namespace;
                        services = newest.services.iter().filter(within).cloned().collect();
                    }
                }
                (_, Some(one)) => (services, revision) = now(one),
                (Scope::Service(_), None) => {}
            }
        }
    }

    /// Takes a place among those who wait.
    pub(super) fn patience(&self, blocking: Blocking) -> Result<Patience> {
        let permit = self.0.waiting.clone().try_acquire_owned().map_err(|_| {
            Error::new(
                Kind::ResourceExhausted,
                "consul.waiting_full",
                format!(
                    "{} blocking queries wait, which is the limit",
                    super::WAITING
                ),
            )
            .with_retry(Retry::After(Duration::from_secs(5)))
        })?;
        Ok(Patience {
            began: Instant::now(),
            whole: blocking.patience(rand::random()),
            _permit: permit,
        })
    }

    /// Waits for a change, or until the time is over, or the node stops.
    pub(super) async fn wait(
        &self,
        patience: &Patience,
        turn: Turn,
        changed: impl Future<Output = ()>,
    ) -> Woken {
        let passed = patience.began.elapsed();
        let end = match turn {
            Turn::CatchUp if passed < CATCH_UP => CATCH_UP.min(patience.whole),
            Turn::CatchUp => return Woken::Over,
            _ => patience.whole,
        };
        tokio::select! {
            biased;
            () = self.0.drain.wait() => Woken::Over,
            () = changed => Woken::Changed,
            // Who only waited to catch up looks once more, whether it has.
            () = tokio::time::sleep_until(patience.began + end) => match turn {
                Turn::CatchUp if end < patience.whole => Woken::Changed,
                _ => Woken::Over,
            }
        }
    }

    /// Says how old the answer may be, when the store is away.
    pub(super) fn stamped(&self, mut response: Response) -> Response {
        if let Some(age) = self.0.registry.stale() {
            reply::stale(&mut response, age);
        }
        response
    }
}

fn now(one: &mut watch::Receiver<Arc<Service>>) -> (Vec<Arc<Service>>, u64) {
    let service = one.borrow_and_update().clone();
    let revision = service.revision;
    (vec![service], revision)
}
