//! What goes into the machine, and what comes out.

use std::time::Duration;

use bytes::Bytes;

use super::Retry;
use crate::bus::{GroupConfig, Position, Redeliver};

/// Names a consumer within its group.
pub type ConsumerId = u64;

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed. Every other input implies it.
    Tick,
    /// The next messages of a partition: offsets, which grow, and keys. Whatever lies below `until` and is
    /// not among them does not exist.
    Load {
        /// The partition.
        partition: u32,
        /// The messages, from [`super::Group::wanted`] on.
        messages: Vec<(u64, Option<Bytes>)>,
        /// The next offset to load.
        until: u64,
    },
    /// A consumer can take up to `most` messages more.
    Take {
        /// The consumer.
        consumer: ConsumerId,
        /// How many.
        most: usize,
    },
    /// A consumer is done with a delivery.
    Ack {
        /// The message.
        position: Position,
        /// The delivery.
        token: u64,
    },
    /// A consumer gives a delivery back.
    Nack {
        /// The message.
        position: Position,
        /// The delivery.
        token: u64,
        /// When it shall come again.
        redeliver: Redeliver,
    },
    /// A consumer needs more time: the delivery ends at the earliest so long from now.
    Extend {
        /// The message.
        position: Position,
        /// The delivery.
        token: u64,
        /// From now.
        time: Duration,
    },
    /// A consumer is gone.
    Leave {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// What [`Effect::Settle`] or [`Effect::DeadLetter`] asked for is durable.
    Settled {
        /// The message.
        position: Position,
        /// The effect's token.
        token: u64,
    },
    /// It could not be made durable and did not happen.
    Refused {
        /// The message.
        position: Position,
        /// The effect's token.
        token: u64,
    },
    /// The group goes on here. Durable before it is passed.
    Seek {
        /// Where.
        position: Position,
    },
    /// The topic no longer holds what lies below.
    Trim {
        /// The first position that it holds.
        first: Position,
    },
    /// The group behaves otherwise from now on.
    Configure {
        /// How.
        rules: Rules,
    },
}

/// What the shell shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand the message to the consumer that took.
    Deliver {
        /// The message.
        position: Position,
        /// Which delivery of it this is, from 1.
        attempt: u32,
        /// Names the delivery.
        token: u64,
    },
    /// Make durable that the message is settled, then pass [`Input::Settled`].
    Settle {
        /// The message.
        position: Position,
        /// To pass back.
        token: u64,
    },
    /// Append the message to the dead-letter topic and settle it, in one step; then pass
    /// [`Input::Settled`].
    DeadLetter {
        /// The message.
        position: Position,
        /// To pass back.
        token: u64,
        /// Deliveries that failed.
        attempts: u32,
        /// Why the last one did.
        reason: &'static str,
    },
    /// The message will be delivered again: record it when it costs nothing.
    Retry(Position, Retry),
    /// The receipt is not of a current delivery, and the message is not settled.
    Stale {
        /// The message.
        position: Position,
    },
}

/// How a group behaves: what the machine needs of a [`GroupConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a delivery may take.
    pub ack_timeout: Duration,
    /// The delay after the first nack.
    pub backoff: Duration,
    /// The longest.
    pub backoff_most: Duration,
    /// After how many failed deliveries a message is a dead letter.
    pub dead_after: Option<u32>,
    /// Messages tracked, at most.
    pub window: usize,
}

impl From<&GroupConfig> for Rules {
    fn from(config: &GroupConfig) -> Self {
        Self {
            ack_timeout: config.ack_timeout,
            backoff: config.backoff,
            backoff_most: config.backoff_most,
            dead_after: config.dead_letter.as_ref().map(|dead| dead.after),
            window: config.window,
        }
    }
}

impl Rules {
    /// How long a message waits after so many failed deliveries.
    pub(super) fn delay(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        self.backoff
            .saturating_mul(1 << doublings)
            .min(self.backoff_most)
    }
}
