//! The one place where an order's work across services is done: reserve, charge, sell, and the ways
//! back. What comes next is decided by `domain::order`; here it is performed, and what came of it is
//! stored before anything else is done.
//!
//! Whoever performs an effect holds the order's lease. When he dies, the lease runs out, and the
//! sweeper of any replica claims the order and goes on where its record stands; its revision fences
//! him off should he still live. A crash between an effect and its record repeats the effect, which
//! the other services recognise by the order's id.
//!
//! This hand-made compensation stands in for a transaction coordinator.

mod finish;
mod peers;
mod sweeper;

use std::{fmt, sync::Arc, time::Duration};

use sinew_core::{Backoff, Clock, Drain};
use sinew_sdk::Metrics;
use uuid::Uuid;

use finish::Finish;
pub(crate) use peers::{Charged, HttpPeers, PeerError, Peers};

use crate::{
    domain::{
        money::Money,
        order::{Effect, Event, Failure, Progress},
        product::PricedLine,
    },
    fault::{Fault, Result},
    storage::{
        Store,
        orders::{self, Lease, Order},
    },
};

/// How long an order is its worker's; renewed with each step. Longer than any one step can take.
const LEASE: Duration = Duration::from_secs(8);
/// How long work that could not be done is put off: between these, growing.
const SHORTEST_WAIT: Duration = Duration::from_millis(400);
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Works on orders. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Checkout {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    peers: Arc<dyn Peers>,
    clock: Clock,
    drain: Drain,
    metrics: Metrics,
    /// Of this process alone, also when its instance's name lived before.
    owner: String,
}

/// How far the work on an order came.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) order: Order,
    /// Why stock was refused, in the words of the one who refused it.
    pub(crate) refusal: Option<Fault>,
}

/// What came of performing an effect.
struct Happened {
    event: Event,
    priced: Vec<PricedLine>,
    refusal: Option<Fault>,
}

impl Checkout {
    pub(crate) fn new(
        store: Store,
        peers: Arc<dyn Peers>,
        clock: Clock,
        drain: Drain,
        metrics: Metrics,
        instance: &str,
    ) -> Self {
        let owner = format!("{instance}/{}", sinew_core::new_id());
        Self {
            inner: Arc::new(Inner {
                store,
                peers,
                clock,
                drain,
                metrics,
                owner,
            }),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn peers(&self) -> &dyn Peers {
        &*self.inner.peers
    }

    /// A lease from now on.
    pub(crate) fn lease(&self) -> Lease {
        let now = self.inner.clock.now();
        Lease {
            owner: self.inner.owner.clone(),
            now_ms: millis(now.as_millis()),
            until_ms: millis(now.plus(LEASE).as_millis()),
        }
    }

    /// Works on an order until it rests or must wait. When that takes longer than `patience` it
    /// answers `None`, and the work goes on, as it does when the caller leaves.
    pub(crate) async fn drive(&self, order: Order, patience: Duration) -> Result<Option<Outcome>> {
        let (this, guard) = (self.clone(), self.inner.drain.guard());
        let work = Finish::new(async move {
            let outcome = this.work(order).await;
            drop(guard);
            outcome
        });
        tokio::time::timeout(patience, work).await.ok().transpose()
    }

    /// Works on an order whose lease is ours until it rests or must wait.
    pub(crate) async fn work(&self, mut order: Order) -> Result<Outcome> {
        let mut refusal = None;
        while let Some(effect) = order.progress.next() {
            let happened = match self.perform(&order, effect).await {
                Ok(happened) => happened,
                Err(error) => {
                    tracing::warn!(order = %order.id, ?effect, error = %error.detail(), "put off");
                    self.put_off(&order).await?;
                    break;
                }
            };
            let before = order.progress;
            let (id, revision, lease) = (order.id, order.revision, self.lease());
            let Happened {
                event,
                priced,
                refusal: refused,
            } = happened;
            let stored = self
                .inner
                .store
                .write(move |db| orders::advance(db, id, revision, event, &priced, &lease));
            let Some(next) = stored.await? else {
                tracing::info!(order = %id, "somebody else works on the order now");
                return Ok(Outcome {
                    order: self.read(id).await?,
                    refusal: None,
                });
            };
            order = next;
            refusal = refused.or(refusal);
            self.count(&before, &order.progress);
        }
        Ok(Outcome { order, refusal })
    }

    /// Performs one effect. An error means that nothing is known to have happened and that the same
    /// is to be tried again later.
    async fn perform(&self, order: &Order, effect: Effect) -> Result<Happened, PeerError> {
        let peers = self.peers();
        let event = match effect {
            Effect::Reserve => return Ok(reserved(order, peers.reserve(order).await)),
            Effect::Charge(amount) => match peers.charge(order, amount).await {
                Ok(Charged::Captured) => Event::Captured,
                Ok(Charged::Declined) => Event::Declined,
                // Also a refusal that names no outcome ends in a void, which is right in any case.
                Err(error) => {
                    tracing::warn!(order = %order.id, error = %error.detail(), "charge is in doubt");
                    Event::ChargeUnknown
                }
            },
            Effect::CommitStock => peers
                .commit(order.id)
                .await
                .map(|()| Event::StockCommitted)?,
            Effect::Void => peers.void(order).await.map(|()| Event::Voided)?,
            Effect::Release => peers.release(order.id).await.map(|()| Event::Released)?,
            Effect::ReturnStock => peers
                .return_stock(order.id)
                .await
                .map(|()| Event::StockReturned)?,
            Effect::Refund { id, amount } => peers
                .refund(order.id, id, amount)
                .await
                .map(|()| Event::Refunded { id })?,
            Effect::ClearCart => peers.purchased(order).await.map(|()| Event::CartCleared)?,
        };
        Ok(Happened {
            event,
            priced: Vec::new(),
            refusal: None,
        })
    }

    /// Gives the order up for a while.
    async fn put_off(&self, order: &Order) -> Result<()> {
        let mut backoff = Backoff::new(SHORTEST_WAIT, LONGEST_WAIT);
        let mut wait = backoff.next_delay();
        for _ in 0..order.attempts.min(8) {
            wait = backoff.next_delay();
        }
        let until = millis(self.inner.clock.now().plus(wait).as_millis());
        let (id, revision) = (order.id, order.revision);
        self.inner
            .store
            .write(move |db| orders::postpone(db, id, revision, until))
            .await
    }

    async fn read(&self, id: Uuid) -> Result<Order> {
        self.inner.store.read(move |db| orders::get(db, id)).await
    }

    fn count(&self, before: &Progress, after: &Progress) {
        if before.state != after.state && after.state.settled() {
            let help = "Orders that came to this state.";
            let labels = [("state", after.state.as_str())];
            self.inner
                .metrics
                .counter("shop_orders_total", help, &labels)
                .add(1);
        }
    }
}

impl fmt::Debug for Checkout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkout({})", self.inner.owner)
    }
}

/// What the answer to a reserve means.
fn reserved(order: &Order, answer: Result<Vec<PricedLine>, PeerError>) -> Happened {
    let plain = |event| Happened {
        event,
        priced: Vec::new(),
        refusal: None,
    };
    match answer {
        Ok(priced) => match Money::total(priced.iter().map(|line| (line.quantity, line.unit))) {
            Ok(total) => Happened {
                event: Event::Reserved { total },
                priced,
                refusal: None,
            },
            Err(reason) => {
                tracing::error!(order = %order.id, ?reason, "the reservation has no total");
                plain(Event::ReserveUnknown)
            }
        },
        Err(PeerError::Refused(fault)) => {
            let failure = match fault.code() {
                "shop.stock_insufficient" => Failure::StockInsufficient,
                "shop.currencies_mixed" => Failure::CurrenciesMixed,
                _ => {
                    tracing::error!(order = %order.id, error = %fault.error().detail(), "not reserved");
                    return plain(Event::ReserveUnknown);
                }
            };
            Happened {
                event: Event::ReserveRefused(failure),
                priced: Vec::new(),
                refusal: Some(fault),
            }
        }
        Err(error) => {
            tracing::warn!(order = %order.id, error = %error.detail(), "stock is in doubt");
            plain(Event::ReserveUnknown)
        }
    }
}

fn millis(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}
