//! The worker of an order is killed at every place where it can be, and somebody else ends the work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use sinew_core::{Drain, ManualClock, Timestamp};
use sinew_sdk::Metrics;
use tokio::sync::Notify;
use uuid::Uuid;

use super::world::World;
use crate::{
    checkout::{Charged, Checkout, HttpPeers, PeerError, Peers},
    domain::{
        cart::Line,
        money::{Currency, Money},
        order::{Event, Progress, Refund, State},
        product::PricedLine,
    },
    storage::{
        Store,
        orders::{self, Order, Wanted},
    },
};

/// The other services, and the place at which whoever calls them dies: around the call of this
/// number, before it was made or after it was, its answer unheard.
struct Deadly {
    real: HttpPeers,
    fatal: usize,
    after: bool,
    calls: AtomicUsize,
    died: Notify,
}

impl Deadly {
    async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        let fatal = self.calls.fetch_add(1, Ordering::SeqCst) == self.fatal;
        if fatal && !self.after {
            self.die().await;
        }
        let result = call.await;
        if fatal {
            self.die().await;
        }
        result
    }

    async fn die(&self) {
        self.died.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Peers for Deadly {
    async fn cart(&self, user: Uuid) -> Result<Vec<Line>, PeerError> {
        self.real.cart(user).await
    }
    async fn reserve(&self, order: &Order) -> Result<Vec<PricedLine>, PeerError> {
        self.around(self.real.reserve(order)).await
    }
    async fn commit(&self, order: Uuid) -> Result<(), PeerError> {
        self.around(self.real.commit(order)).await
    }
    async fn release(&self, order: Uuid) -> Result<(), PeerError> {
        self.around(self.real.release(order)).await
    }
    async fn return_stock(&self, order: Uuid) -> Result<(), PeerError> {
        self.around(self.real.return_stock(order)).await
    }
    async fn charge(&self, order: &Order, amount: Money) -> Result<Charged, PeerError> {
        self.around(self.real.charge(order, amount)).await
    }
    async fn void(&self, order: &Order) -> Result<(), PeerError> {
        self.around(self.real.void(order)).await
    }
    async fn refund(&self, order: Uuid, refund: Uuid, amount: Money) -> Result<(), PeerError> {
        self.around(self.real.refund(order, refund, amount)).await
    }
    async fn purchased(&self, order: &Order) -> Result<(), PeerError> {
        self.around(self.real.purchased(order)).await
    }
}

/// Orders without its HTTP side, over the other services, with a clock moved by hand.
struct Stage {
    world: World,
    store: Store,
    clock: ManualClock,
    user: Uuid,
    product: Uuid,
}

impl Stage {
    async fn new() -> Self {
        let mut world = World::whole().await;
        // Its sweeper would help; here only the test's own may.
        let store = world.orders();
        world.stop("orders").await;
        let product = world.products().await[0].0;
        let clock = ManualClock::new(Timestamp(1_800_000_000_000));
        Self {
            world,
            store,
            clock,
            user: Uuid::from_u128(77),
            product,
        }
    }

    fn checkout(&self, peers: Arc<dyn Peers>, name: &str) -> Checkout {
        let (store, clock) = (self.store.clone(), self.clock.clock());
        Checkout::new(store, peers, clock, Drain::new(), Metrics::new(), name)
    }

    fn peers(&self) -> HttpPeers {
        HttpPeers::new(self.world.client.clone())
    }

    async fn order(&self, checkout: &Checkout, expected: Option<Money>) -> Order {
        let wanted = Wanted {
            id: sinew_core::new_id(),
            user_id: self.user,
            key: sinew_core::new_id().to_string(),
            request_hash: String::new(),
            progress: Progress::new(expected, true),
            lines: vec![Line {
                product_id: self.product,
                quantity: 2,
            }],
        };
        let lease = checkout.lease();
        self.store
            .write(move |db| orders::create(db, &wanted, &lease))
            .await
            .unwrap()
    }

    async fn ask(&self, checkout: &Checkout, order: &Order, event: Event) -> Order {
        let (id, lease) = (order.id, checkout.lease());
        self.store
            .write(move |db| orders::ask(db, id, event, (None, None), &lease))
            .await
            .unwrap()
    }

    /// Works on `order` with a worker that dies at the call `fatal`, then has another one end it.
    /// Answers the order and whether the first worker died.
    async fn work(&self, name: &str, order: Order, fatal: usize, after: bool) -> (Order, bool) {
        let (calls, died) = (AtomicUsize::new(0), Notify::new());
        let deadly = Arc::new(Deadly {
            real: self.peers(),
            fatal,
            after,
            calls,
            died,
        });
        let id = order.id;
        let first = self.checkout(deadly.clone(), name);
        let worker = tokio::spawn(async move { first.work(order).await });
        let abort = worker.abort_handle();
        let died = tokio::select! {
            () = deadly.died.notified() => { abort.abort(); true }
            ended = worker => { ended.unwrap().unwrap(); false }
        };
        // Before the lease has run out nobody may touch the order.
        let second = self.checkout(Arc::new(self.peers()), "second");
        let seen = self.read(id).await;
        second.sweep_once().await.unwrap();
        assert_eq!(self.read(id).await.revision, seen.revision);
        self.clock.advance(Duration::from_secs(9));
        second.sweep_once().await.unwrap();
        (self.read(id).await, died)
    }

    async fn read(&self, id: Uuid) -> Order {
        self.store
            .read(move |db| orders::get(db, id))
            .await
            .unwrap()
    }

    async fn bank(&self, change: serde_json::Value) {
        let admin = self.world.admin().await;
        let told = self
            .world
            .put("payments", "/payments/bank", &admin, change)
            .await;
        assert_eq!(told.status, 200);
    }
}

/// Kills the worker of a new order around each of its calls in turn; it ends in `state` all the same.
async fn kill_everywhere(stage: &Stage, expected: Option<Money>, state: State) {
    let mut deaths = 0;
    for after in [false, true] {
        for fatal in 0.. {
            let order = stage
                .order(&stage.checkout(Arc::new(stage.peers()), "first"), expected)
                .await;
            let (ended, died) = stage.work("first", order, fatal, after).await;
            assert_eq!(
                ended.progress.state, state,
                "killed {fatal} {after}: {ended:?}"
            );
            assert_eq!(ended.progress.next(), None);
            if !died {
                break;
            }
            deaths += 1;
        }
    }
    assert!(deaths >= 4, "only {deaths}");
    stage.world.check_books();
}

#[tokio::test]
async fn an_order_is_paid_whenever_its_worker_dies() {
    kill_everywhere(&Stage::new().await, None, State::Paid).await;
}

#[tokio::test]
async fn a_declined_order_is_released_whenever_its_worker_dies() {
    let stage = Stage::new().await;
    stage.bank(json!({ "decline_permille": 1000 })).await;
    kill_everywhere(&stage, None, State::PaymentFailed).await;
}

#[tokio::test]
async fn a_charge_in_doubt_is_voided_whenever_its_worker_dies() {
    let stage = Stage::new().await;
    stage.bank(json!({ "outage": true })).await;
    kill_everywhere(&stage, None, State::PaymentFailed).await;
}

#[tokio::test]
async fn an_order_at_another_price_is_released_whenever_its_worker_dies() {
    let one = Money::new(1, Currency::EUR);
    kill_everywhere(&Stage::new().await, Some(one), State::Rejected).await;
}

#[tokio::test]
async fn a_cancelled_or_refunded_order_is_ended_whenever_its_worker_dies() {
    let stage = Stage::new().await;
    let sane = stage.checkout(Arc::new(stage.peers()), "sane");
    let mut deaths = 0;
    for (cancel, after) in [(true, false), (true, true), (false, false), (false, true)] {
        for fatal in 0.. {
            let order = sane
                .work(stage.order(&sane, None).await)
                .await
                .unwrap()
                .order;
            let id = sinew_core::new_id();
            let event = if cancel {
                Event::Cancel { refund_id: id }
            } else {
                Event::Refund(Refund { id, cents: 30 })
            };
            let order = stage.ask(&sane, &order, event).await;
            let total = order.progress.total.unwrap().cents;
            let (ended, died) = stage.work("first", order, fatal, after).await;
            let wanted = if cancel {
                (State::Cancelled, total)
            } else {
                (State::Paid, 30)
            };
            assert_eq!((ended.progress.state, ended.progress.refunded), wanted);
            if !died {
                break;
            }
            deaths += 1;
        }
    }
    assert_eq!(deaths, 6, "two calls to cancel, one to refund");
    stage.world.check_books();
}

#[tokio::test]
async fn a_worker_that_was_only_slow_changes_nothing_when_it_wakes() {
    let stage = Stage::new().await;
    // Hangs after the charge, as a stopped process would, and is not killed.
    let deadly = Arc::new(Hanging {
        real: stage.peers(),
        wake: Notify::new(),
        hangs: Notify::new(),
    });
    let slow = stage.checkout(deadly.clone(), "slow");
    let order = stage.order(&slow, None).await;
    let id = order.id;
    let worker = tokio::spawn(async move { slow.work(order).await });
    deadly.hangs.notified().await;
    stage.clock.advance(Duration::from_secs(9));
    stage
        .checkout(Arc::new(stage.peers()), "other")
        .sweep_once()
        .await
        .unwrap();
    let ended = stage.read(id).await;
    assert_eq!(ended.progress.state, State::Paid);
    deadly.wake.notify_one();
    // It heard that the charge failed, and must not void what is paid.
    assert_eq!(worker.await.unwrap().unwrap().order, ended);
    assert_eq!(stage.read(id).await, ended);
    stage.world.check_books();
}

/// Charges, then hangs, and then says that it does not know what came of it.
struct Hanging {
    real: HttpPeers,
    hangs: Notify,
    wake: Notify,
}

#[async_trait]
impl Peers for Hanging {
    async fn cart(&self, user: Uuid) -> Result<Vec<Line>, PeerError> {
        self.real.cart(user).await
    }
    async fn reserve(&self, order: &Order) -> Result<Vec<PricedLine>, PeerError> {
        self.real.reserve(order).await
    }
    async fn commit(&self, order: Uuid) -> Result<(), PeerError> {
        self.real.commit(order).await
    }
    async fn release(&self, order: Uuid) -> Result<(), PeerError> {
        self.real.release(order).await
    }
    async fn return_stock(&self, order: Uuid) -> Result<(), PeerError> {
        self.real.return_stock(order).await
    }
    async fn charge(&self, order: &Order, amount: Money) -> Result<Charged, PeerError> {
        self.real.charge(order, amount).await?;
        self.hangs.notify_one();
        self.wake.notified().await;
        let error = sinew_core::Error::new(sinew_core::Kind::DeadlineExceeded, "test.late", "late");
        Err(PeerError::Unknown(error))
    }
    async fn void(&self, order: &Order) -> Result<(), PeerError> {
        self.real.void(order).await
    }
    async fn refund(&self, order: Uuid, refund: Uuid, amount: Money) -> Result<(), PeerError> {
        self.real.refund(order, refund, amount).await
    }
    async fn purchased(&self, order: &Order) -> Result<(), PeerError> {
        self.real.purchased(order).await
    }
}
