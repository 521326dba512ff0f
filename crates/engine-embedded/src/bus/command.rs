//! What callers ask the commit thread for, and what they are answered.

use std::sync::Arc;

use sinew_core::{Error, Name, Result};
use sinew_engine::bus::{
    GroupConfig, Position, Published, Receipt, Redeliver, TopicConfig,
    group::{ConsumerId, Effect},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::message::Draft;

pub(crate) type Answer<T> = oneshot::Sender<Result<T>>;

/// A consumer of a group.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(super) topic: u64,
    pub(super) group: u64,
    pub(super) consumer: ConsumerId,
    /// Of the topic and of the group, for errors.
    pub(super) names: Arc<(Name, Name)>,
    /// Told of what may be delivered.
    pub(super) news: Arc<Notify>,
}

/// Where a group shall go on.
#[derive(Debug)]
pub(crate) enum Target {
    Earliest,
    Latest,
    To(Position),
    /// These offsets, one a partition.
    Offsets(Vec<u64>),
}

pub(crate) enum Command {
    Publish {
        topic: Name,
        drafts: Vec<Draft>,
        answer: Answer<Vec<Published>>,
        /// Room in the queue, given back when the command is staged.
        room: OwnedSemaphorePermit,
    },
    Ack {
        seat: Seat,
        receipts: Vec<Receipt>,
        answer: Answer<()>,
    },
    Nack {
        seat: Seat,
        receipt: Receipt,
        redeliver: Redeliver,
        answer: Answer<()>,
    },
    /// What a group asked for.
    Effect {
        topic: u64,
        group: u64,
        effect: Effect,
    },
    MakeTopic {
        topic: Name,
        config: TopicConfig,
        /// Nobody waits for a topic that dead letters need.
        answer: Option<Answer<bool>>,
    },
    ConfigureTopic {
        topic: Name,
        config: TopicConfig,
        answer: Answer<()>,
    },
    DeleteTopic {
        topic: Name,
        answer: Answer<()>,
    },
    Join {
        topic: Name,
        group: Name,
        config: GroupConfig,
        /// Where a group begins that begins at a time.
        starts: Option<Vec<u64>>,
        answer: Answer<Seat>,
    },
    Seek {
        topic: Name,
        group: Name,
        target: Target,
        answer: Answer<()>,
    },
    DeleteGroup {
        topic: Name,
        group: Name,
        answer: Answer<()>,
    },
    /// Look for what is due.
    Look {
        answer: Option<Answer<()>>,
    },
    /// Make a checkpoint of everything before this.
    Checkpoint {
        answer: Answer<()>,
    },
}

/// An answer that is given when what it rests on is durable.
pub(super) enum Reply {
    Published(Answer<Vec<Published>>, Result<Vec<Published>>),
    Made(Answer<bool>, Result<bool>),
    Done(Answer<()>, Result<()>),
    /// The consumer takes its seat in this group then.
    Joined {
        topic: u64,
        group: u64,
        answer: Answer<Seat>,
    },
    NotJoined(Answer<Seat>, Error),
}

impl Reply {
    pub(super) fn refuse(self, error: &Error) {
        let error = copy(error);
        // Whoever asked may have gone; the answer then concerns nobody.
        match self {
            Self::Published(answer, _) => drop(answer.send(Err(error))),
            Self::Made(answer, _) => drop(answer.send(Err(error))),
            Self::Done(answer, _) => drop(answer.send(Err(error))),
            Self::Joined { answer, .. } | Self::NotJoined(answer, _) => {
                drop(answer.send(Err(error)));
            }
        }
    }
}

/// The same error for each that was refused together.
pub(super) fn copy(error: &Error) -> Error {
    let code = match error.code() {
        "log.full" => "log.full",
        "log.io" => "log.io",
        "bus.disk_full" => "bus.disk_full",
        "bus.overloaded" => "bus.overloaded",
        _ => "log.failed",
    };
    Error::new(error.kind(), code, error.message())
        .with_retry(error.retry())
        .with_context(error.detail())
}
