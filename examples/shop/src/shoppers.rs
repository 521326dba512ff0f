//! Simulated shoppers: they register, browse, order and pay over real HTTP through the gateway, and
//! every answer they get is counted as it was.
//!
//! What a shopper may well meet (a declined payment, an empty shelf) is an outcome. What nobody
//! should meet (a 5xx, a lost connection, a 404 for one's own order) is a failure; failures while an
//! instance was known to be down ([`Outages`]) are told apart from those that nothing explains.

mod client;
mod histogram;
mod operation;
mod outages;
mod recorder;
mod shopper;
mod staff;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sinew_core::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use histogram::Histogram;
pub use operation::Operation;
pub use outages::Outages;
pub use recorder::{Acknowledged, Figures, OperationFigures, Outcomes};

use self::{client::Client, recorder::Recorder, shopper::Shopper, staff::Staff};

/// Who shops, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the gateway listens.
    pub gateway: SocketAddr,
    /// How many shop at once.
    pub shoppers: u32,
    /// Stop after this many orders were paid or declined. `None`: go on until stopped.
    pub orders: Option<u64>,
    /// The same seed makes the same choices.
    pub seed: u64,
    /// The longest pause between two steps; zero for none.
    pub think: Duration,
    /// The password of the shop's admin.
    pub admin_password: String,
}

/// A crowd at work.
pub struct Shoppers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What all shoppers of a run share.
struct Shared {
    options: Options,
    clock: Clock,
    recorder: Arc<Recorder>,
    /// Take no new purchase up.
    stop: CancellationToken,
    /// Wait for nothing any more.
    hurry: CancellationToken,
    /// Orders that may still be begun.
    tickets: AtomicU64,
    /// Orders that were asked for and are settled.
    settled: AtomicU64,
}

/// The right to place one order. Given back when dropped unused.
struct Ticket(Option<Arc<Shared>>);

impl Shoppers {
    /// Starts everyone. `outages` must run on the same clock.
    pub fn start(options: Options, clock: Clock, outages: Arc<Outages>) -> Self {
        let shared = Arc::new(Shared {
            recorder: Arc::new(Recorder::new(clock.clone(), outages)),
            stop: CancellationToken::new(),
            hurry: CancellationToken::new(),
            tickets: AtomicU64::new(options.orders.unwrap_or(u64::MAX)),
            settled: AtomicU64::new(0),
            options,
            clock,
        });
        let staff = Arc::new(Staff::new(shared.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(staff.clone().restock());
        for number in 0..shared.options.shoppers {
            tasks.spawn(Shopper::new(shared.clone(), staff.clone(), number).run());
        }
        Self { shared, tasks }
    }

    /// Returns when the asked number of orders is settled. Never, when none was asked for. Cancel
    /// safe.
    pub async fn finished(&self) {
        self.shared.stop.cancelled().await;
    }

    /// What was seen so far.
    pub fn figures(&self) -> Figures {
        self.shared.recorder.figures()
    }

    /// Lets everyone finish what they are at, for at most `limit`, and sends the rest home.
    /// Afterwards the figures are final.
    pub async fn stop(&mut self, limit: Duration) {
        self.shared.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            self.shared.hurry.cancel();
            self.tasks.shutdown().await;
        }
    }

    /// Everything that the services promised the shoppers, in the order in which they did.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.shared.recorder.acknowledged()
    }
}

impl Shared {
    fn client(&self) -> Client {
        Client::new(
            self.options.gateway,
            self.recorder.clone(),
            self.hurry.clone(),
        )
    }

    fn take_ticket(self: &Arc<Self>) -> Option<Ticket> {
        if self.options.orders.is_none() {
            return Some(Ticket(None));
        }
        let take = |left: u64| left.checked_sub(1);
        self.tickets
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .ok()?;
        Some(Ticket(Some(self.clone())))
    }
}

impl Ticket {
    fn used(mut self) {
        if let Some(shared) = self.0.take() {
            let settled = shared.settled.fetch_add(1, Ordering::AcqRel) + 1;
            if shared
                .options
                .orders
                .is_some_and(|wanted| settled >= wanted)
            {
                shared.stop.cancel();
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.tickets.fetch_add(1, Ordering::AcqRel);
        }
    }
}
