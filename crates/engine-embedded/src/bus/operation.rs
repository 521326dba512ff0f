//! What the bus's part of a record says.
//!
//! A part is a list of operations, each a tag and its fields as LEB128 numbers and strings with
//! their lengths. A record is atomic: a dead letter is a publish and a settlement in one part. A
//! reader that does not know a tag stops.

use bytes::{BufMut as _, Bytes};
use sinew_core::{Name, Timestamp};
use sinew_engine::bus::{GroupConfig, Position, TopicConfig, group};

use super::{
    bytes::{Malformed, Put as _, Take},
    config,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    TopicMade {
        topic: u64,
        name: Name,
        config: TopicConfig,
    },
    TopicConfigured {
        topic: u64,
        config: TopicConfig,
    },
    TopicDeleted {
        topic: u64,
    },
    /// The time, and each message.
    Published {
        topic: u64,
        now: Timestamp,
        messages: Vec<(To, Bytes)>,
    },
    /// Scheduled messages that entered: their places in the schedule and in the topic.
    Entered {
        topic: u64,
        now: Timestamp,
        messages: Vec<(Due, Position)>,
    },
    Settled {
        topic: u64,
        group: u64,
        positions: Vec<Position>,
    },
    GroupMade {
        topic: u64,
        group: u64,
        name: Name,
        config: GroupConfig,
        starts: Vec<u64>,
    },
    GroupConfigured {
        topic: u64,
        group: u64,
        config: GroupConfig,
    },
    GroupDeleted {
        topic: u64,
        group: u64,
    },
    Sought {
        topic: u64,
        group: u64,
        positions: Vec<Position>,
    },
    /// The new first positions, and what the messages before them weighed.
    Trimmed {
        topic: u64,
        weight: u64,
        firsts: Vec<Position>,
    },
    /// Written when something else is.
    Retried {
        topic: u64,
        group: u64,
        position: Position,
        retry: group::Retry,
    },
}

/// A place in a topic's schedule: in the order of due times, then of publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: Timestamp,
    pub(super) number: u64,
}

/// Where a published message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Log(Position),
    Schedule(Due),
}

const TOPIC_MADE: u8 = 1;
const TOPIC_CONFIGURED: u8 = 2;
const TOPIC_DELETED: u8 = 3;
const PUBLISHED: u8 = 4;
const ENTERED: u8 = 5;
const SETTLED: u8 = 6;
const GROUP_MADE: u8 = 7;
const GROUP_CONFIGURED: u8 = 8;
const GROUP_DELETED: u8 = 9;
const SOUGHT: u8 = 10;
const TRIMMED: u8 = 11;
const RETRIED: u8 = 12;

impl Operation {
    pub(super) fn put(&self, part: &mut Vec<u8>) {
        match self {
            Self::TopicMade {
                topic,
                name,
                config,
            } => {
                begin(part, TOPIC_MADE, &[*topic]);
                part.string(name.as_str().as_bytes());
                config::put_topic(part, config);
            }
            Self::TopicConfigured { topic, config } => {
                begin(part, TOPIC_CONFIGURED, &[*topic]);
                config::put_topic(part, config);
            }
            Self::TopicDeleted { topic } => begin(part, TOPIC_DELETED, &[*topic]),
            Self::Published {
                topic,
                now,
                messages,
            } => {
                let each = messages.iter().map(|(to, body)| (*to, &body[..]));
                put_published(part, *topic, *now, messages.len(), each);
            }
            Self::Entered {
                topic,
                now,
                messages,
            } => {
                begin(part, ENTERED, &[*topic, now.0, messages.len() as u64]);
                for (due, position) in messages {
                    part.number(due.at.0);
                    part.number(due.number);
                    put_position(part, *position);
                }
            }
            Self::Settled {
                topic,
                group,
                positions,
            } => put_positions(part, SETTLED, &[*topic, *group], positions),
            Self::GroupMade {
                topic,
                group,
                name,
                config,
                starts,
            } => {
                begin(part, GROUP_MADE, &[*topic, *group]);
                part.string(name.as_str().as_bytes());
                config::put_group(part, config);
                part.number(starts.len() as u64);
                for start in starts {
                    part.number(*start);
                }
            }
            Self::GroupConfigured {
                topic,
                group,
                config,
            } => {
                begin(part, GROUP_CONFIGURED, &[*topic, *group]);
                config::put_group(part, config);
            }
            Self::GroupDeleted { topic, group } => begin(part, GROUP_DELETED, &[*topic, *group]),
            Self::Sought {
                topic,
                group,
                positions,
            } => put_positions(part, SOUGHT, &[*topic, *group], positions),
            Self::Trimmed {
                topic,
                weight,
                firsts,
            } => put_positions(part, TRIMMED, &[*topic, *weight], firsts),
            Self::Retried {
                topic,
                group,
                position,
                retry,
            } => {
                begin(part, RETRIED, &[*topic, *group]);
                put_position(part, *position);
                part.number(u64::from(retry.attempts));
                config::put_time(part, retry.wait);
            }
        }
    }

    /// Reads the next operation of a part. Bodies share memory with it.
    fn take(take: &mut Take<'_>, part: &Bytes) -> Result<Self, Malformed> {
        let tag = take.byte()?;
        let topic = take.number()?;
        Ok(match tag {
            TOPIC_MADE => Self::TopicMade {
                topic,
                name: config::take_name(take)?,
                config: config::take_topic(take)?,
            },
            TOPIC_CONFIGURED => Self::TopicConfigured {
                topic,
                config: config::take_topic(take)?,
            },
            TOPIC_DELETED => Self::TopicDeleted { topic },
            PUBLISHED => {
                let now = Timestamp(take.number()?);
                let messages = list(take, |take| {
                    let to = match take.byte()? {
                        0 => To::Log(take_position(take)?),
                        1 => To::Schedule(take_due(take)?),
                        _ => return Err(Malformed),
                    };
                    Ok((to, part.slice_ref(take.string()?)))
                })?;
                Self::Published {
                    topic,
                    now,
                    messages,
                }
            }
            ENTERED => Self::Entered {
                topic,
                now: Timestamp(take.number()?),
                messages: list(take, |take| Ok((take_due(take)?, take_position(take)?)))?,
            },
            SETTLED => Self::Settled {
                topic,
                group: take.number()?,
                positions: list(take, take_position)?,
            },
            GROUP_MADE => Self::GroupMade {
                topic,
                group: take.number()?,
                name: config::take_name(take)?,
                config: config::take_group(take)?,
                starts: list(take, Take::number)?,
            },
            GROUP_CONFIGURED => Self::GroupConfigured {
                topic,
                group: take.number()?,
                config: config::take_group(take)?,
            },
            GROUP_DELETED => Self::GroupDeleted {
                topic,
                group: take.number()?,
            },
            SOUGHT => Self::Sought {
                topic,
                group: take.number()?,
                positions: list(take, take_position)?,
            },
            TRIMMED => Self::Trimmed {
                topic,
                weight: take.number()?,
                firsts: list(take, take_position)?,
            },
            RETRIED => Self::Retried {
                topic,
                group: take.number()?,
                position: take_position(take)?,
                retry: group::Retry {
                    attempts: take.small()?,
                    wait: config::take_time(take)?,
                },
            },
            _ => return Err(Malformed),
        })
    }
}

/// The operations of a part, in order.
pub(super) fn operations(part: &Bytes) -> impl Iterator<Item = Result<Operation, Malformed>> {
    let mut take = Take(part);
    std::iter::from_fn(move || (!take.is_empty()).then(|| Operation::take(&mut take, part)))
        // After a malformed one nothing is known.
        .scan(false, |is_over, operation| {
            let last = std::mem::replace(is_over, operation.is_err());
            (!last).then_some(operation)
        })
}

/// [`Operation::Published`] without a list in between.
pub(super) fn put_published<'a>(
    part: &mut Vec<u8>,
    topic: u64,
    now: Timestamp,
    count: usize,
    messages: impl Iterator<Item = (To, &'a [u8])>,
) {
    begin(part, PUBLISHED, &[topic, now.0, count as u64]);
    for (to, body) in messages {
        match to {
            To::Log(position) => {
                part.put_u8(0);
                put_position(part, position);
            }
            To::Schedule(due) => {
                part.put_u8(1);
                part.number(due.at.0);
                part.number(due.number);
            }
        }
        part.string(body);
    }
}

fn begin(part: &mut Vec<u8>, tag: u8, numbers: &[u64]) {
    part.put_u8(tag);
    for number in numbers {
        part.number(*number);
    }
}

fn put_position(part: &mut Vec<u8>, position: Position) {
    part.number(u64::from(position.partition));
    part.number(position.offset);
}

fn put_positions(part: &mut Vec<u8>, tag: u8, numbers: &[u64], positions: &[Position]) {
    begin(part, tag, numbers);
    part.number(positions.len() as u64);
    for position in positions {
        put_position(part, *position);
    }
}

fn take_position(take: &mut Take<'_>) -> Result<Position, Malformed> {
    Ok(Position {
        partition: take.small()?,
        offset: take.number()?,
    })
}

fn take_due(take: &mut Take<'_>) -> Result<Due, Malformed> {
    Ok(Due {
        at: Timestamp(take.number()?),
        number: take.number()?,
    })
}

fn list<'a, T>(
    take: &mut Take<'a>,
    item: impl Fn(&mut Take<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = take.size()?;
    (0..count).map(|_| item(take)).collect()
}
