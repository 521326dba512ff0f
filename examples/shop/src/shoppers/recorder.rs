//! What the shoppers saw, counted as it was.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sinew_core::Clock;

use super::{Histogram, Operation, Outages};

/// Failures kept one by one; beyond that they are only counted, as unexpected.
const MAX_FAILURES: usize = 100_000;
/// Acknowledgements kept for the audit.
const MAX_ACKNOWLEDGED: usize = 2_000_000;

/// Something that a service promised to a shopper and that must therefore be in its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// An account, by its id.
    User(String),
    /// An order, by its id, with the last state that was answered.
    Order {
        /// The order's id.
        id: String,
        /// Its state, as answered.
        state: String,
    },
    /// A refund of this many cents.
    Refund {
        /// The refund's id.
        id: String,
        /// How much.
        cents: u64,
    },
}

/// How orders and what came after them ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Outcomes {
    /// Paid at first; some were cancelled or refunded later.
    pub paid: u64,
    /// The bank said no.
    pub declined: u64,
    /// Not enough in stock.
    pub out_of_stock: u64,
    /// Ended without payment because a service could not be reached.
    pub unavailable: u64,
    /// Cancelled by the shopper.
    pub cancelled: u64,
    /// Refunds, most of them partial.
    pub refunds: u64,
    /// Delivered.
    pub delivered: u64,
}

/// One kind of request.
#[derive(Clone)]
pub struct OperationFigures {
    /// Which.
    pub operation: Operation,
    /// How long answers took, whatever they said. Without an answer nothing is counted here.
    pub latency: Histogram,
    /// Requests that failed: no answer in time, or a 5xx.
    pub failures: u64,
    /// Requests that were asked to come back later (429, or 503 from a full queue).
    pub throttled: u64,
}

/// What was seen so far.
#[derive(Clone)]
pub struct Figures {
    /// How orders ended.
    pub outcomes: Outcomes,
    /// Each kind of request that was made.
    pub operations: Vec<OperationFigures>,
    /// From sending an order to knowing how it ended, retries and all.
    pub order_latency: Histogram,
    /// Failures while an instance was known to be down.
    pub failures_in_outages: u64,
    /// Failures that nothing explains.
    pub failures_unexpected: u64,
    /// A few of these in words.
    pub samples: Vec<String>,
    /// When the first order was completed, on the clock's monotonic time.
    pub first_order: Option<Duration>,
}

impl Figures {
    /// All answers.
    pub fn requests(&self) -> u64 {
        self.operations.iter().map(|row| row.latency.count()).sum()
    }

    /// All requests that were asked to come back later.
    pub fn throttled(&self) -> u64 {
        self.operations.iter().map(|row| row.throttled).sum()
    }

    /// Orders whose end is known: paid or declined.
    pub fn orders(&self) -> u64 {
        self.outcomes.paid + self.outcomes.declined
    }

    /// The latency of all answers together.
    pub fn latency(&self) -> Histogram {
        let mut all = Histogram::default();
        for row in &self.operations {
            all.add(&row.latency);
        }
        all
    }
}

struct Failure {
    operation: Operation,
    from: Duration,
    to: Duration,
    why: String,
}

#[derive(Default)]
struct State {
    operations: BTreeMap<Operation, OperationState>,
    outcomes: Outcomes,
    order_latency: Histogram,
    failures: Vec<Failure>,
    failures_beyond: u64,
    acknowledged: Vec<Acknowledged>,
    first_order: Option<Duration>,
}

#[derive(Default)]
struct OperationState {
    latency: Histogram,
    failures: u64,
    throttled: u64,
}

/// Shared by all shoppers of a run.
pub(super) struct Recorder {
    pub(super) clock: Clock,
    outages: Arc<Outages>,
    state: Mutex<State>,
}

impl Recorder {
    pub(super) fn new(clock: Clock, outages: Arc<Outages>) -> Self {
        Self {
            clock,
            outages,
            state: Mutex::default(),
        }
    }

    pub(super) fn answered(&self, operation: Operation, took: Duration) {
        self.state
            .lock()
            .operations
            .entry(operation)
            .or_default()
            .latency
            .record(took);
    }

    pub(super) fn throttled(&self, operation: Operation) {
        self.state
            .lock()
            .operations
            .entry(operation)
            .or_default()
            .throttled += 1;
    }

    /// Something failed that began at `from`.
    pub(super) fn failed(&self, operation: Operation, from: Duration, why: String) {
        let to = self.clock.monotonic();
        let mut state = self.state.lock();
        state.operations.entry(operation).or_default().failures += 1;
        if state.failures.len() < MAX_FAILURES {
            state.failures.push(Failure {
                operation,
                from,
                to,
                why,
            });
        } else {
            state.failures_beyond += 1;
        }
    }

    pub(super) fn order_took(&self, took: Duration) {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        state.order_latency.record(took);
        state.first_order.get_or_insert(now);
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Outcomes)) {
        change(&mut self.state.lock().outcomes);
    }

    pub(super) fn acknowledge(&self, what: Acknowledged) {
        let mut state = self.state.lock();
        if state.acknowledged.len() < MAX_ACKNOWLEDGED {
            state.acknowledged.push(what);
        }
    }

    pub(super) fn acknowledged(&self) -> Vec<Acknowledged> {
        self.state.lock().acknowledged.clone()
    }

    /// Failures are judged only now: an outage is known a little later than its first victim.
    pub(super) fn figures(&self) -> Figures {
        let state = self.state.lock();
        let mut samples = Vec::new();
        let mut in_outages = 0;
        let mut unexpected = state.failures_beyond;
        for failure in &state.failures {
            if self.outages.cover(failure.from, failure.to) {
                in_outages += 1;
            } else {
                unexpected += 1;
                if samples.len() < 10 {
                    samples.push(format!("{}: {}", failure.operation.name(), failure.why));
                }
            }
        }
        let operations = state
            .operations
            .iter()
            .map(|(operation, of)| OperationFigures {
                operation: *operation,
                latency: of.latency.clone(),
                failures: of.failures,
                throttled: of.throttled,
            });
        Figures {
            outcomes: state.outcomes.clone(),
            operations: operations.collect(),
            order_latency: state.order_latency.clone(),
            failures_in_outages: in_outages,
            failures_unexpected: unexpected,
            samples,
            first_order: state.first_order,
        }
    }
}
