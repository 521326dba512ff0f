//! The errors that every engine answers in the same words.

use sinew_core::{Error, Kind, Name, Retry};

use super::{Position, Receipt};

/// There is no such topic.
pub fn topic_unknown(topic: &Name) -> Error {
    Error::new(
        Kind::NotFound,
        "bus.topic_unknown",
        format!("there is no topic {topic}"),
    )
}

/// There is such a topic, of another kind.
pub fn topic_exists(topic: &Name) -> Error {
    let message = format!("the topic {topic} exists, with another configuration");
    Error::new(Kind::AlreadyExists, "bus.topic_exists", message)
}

/// No topic can be so.
pub fn topic_invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "bus.topic_invalid", message)
}

/// There is no such group.
pub fn group_unknown(group: &Name) -> Error {
    Error::new(
        Kind::NotFound,
        "bus.group_unknown",
        format!("the topic has no group {group}"),
    )
}

/// No group can be so.
pub fn group_invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "bus.group_invalid", message)
}

/// No message can be so.
pub fn message_invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "bus.message_invalid", message)
}

/// The topic has no room.
pub fn full(topic: &Name) -> Error {
    Error::new(
        Kind::ResourceExhausted,
        "bus.full",
        format!("the topic {topic} is full of messages that its groups have not settled"),
    )
    .with_retry(Retry::Yes)
}

/// The delivery is over.
pub fn receipt_stale(receipt: &Receipt) -> Error {
    let Position { partition, offset } = receipt.position;
    Error::new(
        Kind::FailedPrecondition,
        "bus.receipt_stale",
        format!(
            "the delivery of message {offset} of partition {partition} is over; it was or will be \
             delivered again"
        ),
    )
}

/// The topic holds no such place.
pub fn position_unknown(position: Position) -> Error {
    let Position { partition, offset } = position;
    Error::new(
        Kind::OutOfRange,
        "bus.position_unknown",
        format!("the topic does not hold offset {offset} of partition {partition}"),
    )
}

/// The engine cannot do it.
pub fn unsupported(engine: &str, what: &str) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "bus.unsupported",
        format!("the bus engine {engine} cannot do this: {what}"),
    )
}
