//! The parts of JetStream's API that are used, as they have been since 2.9.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sinew_core::{Name, Timestamp};
use sinew_engine::bus::{Retention, TopicConfig, Unsettled};

pub(super) const NO_STREAM: u64 = 10059;
pub(super) const NO_MESSAGE: u64 = 10037;
pub(super) const NAME_IN_USE: u64 = 10058;
pub(super) const WRONG_SEQUENCE: u64 = 10071;
pub(super) const STORE_FAILED: u64 = 10077;

#[derive(Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: StreamConfig,
    pub(super) state: StreamState,
}

#[derive(Deserialize)]
pub(super) struct StreamConfig {
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Deserialize)]
pub(super) struct StreamState {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) first_seq: u64,
    pub(super) first_ts: String,
    pub(super) last_seq: u64,
}

#[derive(Deserialize)]
pub(super) struct StreamNames {
    pub(super) total: usize,
    #[serde(default)]
    pub(super) streams: Option<Vec<String>>,
}

#[derive(Deserialize)]
pub(super) struct ConsumerInfo {
    pub(super) name: String,
    pub(super) num_pending: u64,
    pub(super) delivered: Delivered,
}

#[derive(Deserialize)]
pub(super) struct Delivered {
    /// What comes first has the next number.
    pub(super) stream_seq: u64,
}

#[derive(Deserialize)]
pub(super) struct Got {
    pub(super) message: GotMessage,
}

#[derive(Deserialize)]
pub(super) struct GotMessage {
    pub(super) seq: u64,
    #[serde(default)]
    pub(super) data: String,
}

/// The answer to a publish. Apart from the others because there are so many of them: read at once.
#[derive(Deserialize)]
pub(super) struct PublishAck {
    #[serde(default)]
    pub(super) seq: u64,
    pub(super) error: Option<BadAnswer>,
    #[serde(default)]
    pub(super) duplicate: bool,
}

/// Why JetStream says no.
#[derive(Deserialize)]
pub(super) struct BadAnswer {
    pub(super) code: u16,
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// Anything that was done.
#[derive(Deserialize)]
pub(super) struct Done {}

/// What stands in the description of a topic's stream.
#[derive(Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) incarnation: String,
    partitions: u32,
    age_ms: Option<u64>,
    bytes: Option<u64>,
    keep: bool,
    deduplication_ms: u64,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(i64::MAX as u64)
}

impl Description {
    pub(super) fn new(incarnation: &str, config: &TopicConfig) -> Self {
        Self {
            incarnation: incarnation.to_owned(),
            partitions: config.partitions,
            age_ms: config.retention.age.map(millis),
            bytes: config.retention.bytes,
            keep: config.retention.unsettled == Unsettled::Keep,
            deduplication_ms: millis(config.deduplication),
        }
    }

    pub(super) fn config(&self) -> TopicConfig {
        let unsettled = if self.keep {
            Unsettled::Keep
        } else {
            Unsettled::Drop
        };
        TopicConfig {
            partitions: self.partitions,
            retention: Retention {
                age: self.age_ms.map(Duration::from_millis),
                bytes: self.bytes,
                unsettled,
            },
            deduplication: Duration::from_millis(self.deduplication_ms),
        }
    }
}

/// Whether the stream itself removes what is too old. It does not remember ids for longer than messages.
pub(super) fn removes_old(config: &TopicConfig) -> bool {
    let age = config.retention.age;
    let remembers = age.is_some_and(|age| age < config.deduplication);
    age.is_none() || (config.retention.unsettled == Unsettled::Drop && !remembers)
}

/// The stream of a topic.
pub(super) fn topic_stream(
    name: &str,
    subject: &str,
    incarnation: &str,
    config: &TopicConfig,
    replicas: usize,
) -> Value {
    let description = serde_json::to_string(&Description::new(incarnation, config));
    let keeps = config.retention.unsettled == Unsettled::Keep;
    let age = config.retention.age.filter(|_| removes_old(config));
    let bytes = config
        .retention
        .bytes
        .and_then(|bytes| i64::try_from(bytes).ok());
    let mut stream = json!({
        "name": name,
        "description": description.expect("a description is plain JSON"),
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "discard": if keeps { "new" } else { "old" },
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": bytes.unwrap_or(-1),
        "max_age": age.map_or(0, nanos),
        "num_replicas": replicas,
    });
    if !config.deduplication.is_zero() {
        stream["duplicate_window"] = nanos(config.deduplication).into();
    }
    stream
}

/// A stream that keeps the last message of each subject.
pub(super) fn record_stream(name: &str, subject: &str, age: Duration, replicas: usize) -> Value {
    json!({
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": 1,
        "max_bytes": -1,
        "max_age": nanos(age),
        "num_replicas": replicas,
    })
}

/// Where a consumer begins.
pub(super) enum From {
    Sequence(u64),
    Time(Timestamp),
    LastOfEach,
}

/// A consumer that reads, settles nothing, and is forgotten soon when nobody asks it.
pub(super) fn consumer(stream: &str, filter: Option<&str>, from: &From) -> Value {
    let mut config = json!({
        "ack_policy": "none",
        "max_deliver": -1,
        "replay_policy": "instant",
        "inactive_threshold": 30_000_000_000_u64,
        "mem_storage": true,
        "num_replicas": 1,
    });
    if let Some(filter) = filter {
        config["filter_subject"] = filter.into();
    }
    match from {
        From::Sequence(sequence) => {
            config["deliver_policy"] = "by_start_sequence".into();
            config["opt_start_seq"] = (*sequence).into();
        }
        From::Time(time) => {
            config["deliver_policy"] = "by_start_time".into();
            config["opt_start_time"] = rfc3339(*time).into();
        }
        From::LastOfEach => config["deliver_policy"] = "last_per_subject".into(),
    }
    json!({ "stream_name": stream, "config": config })
}

pub(super) fn rfc3339(time: Timestamp) -> String {
    let nanos = i128::from(time.as_millis()) * 1_000_000;
    // The years that it cannot write are those after 9999.
    let Ok(time) = async_nats::datetime::from_nanos(nanos) else {
        return "9999-12-31T23:59:59Z".to_owned();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

/// A time as JetStream writes it; none when it is not one.
pub(super) fn read_rfc3339(text: &str) -> Option<Timestamp> {
    let time = async_nats::datetime::parse_rfc3339(text).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000)
        .ok()
        .map(Timestamp)
}

/// The topic that a stream of this name holds, if it is one.
pub(super) fn topic_of(stream: &str, namespace: &Name) -> Option<Name> {
    let topic = stream.strip_prefix(namespace.as_str())?.strip_prefix('_')?;
    topic.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        let time = Timestamp(1_795_000_123_456);
        assert_eq!(rfc3339(time), "2026-11-18T11:08:43.456Z");
        assert_eq!(read_rfc3339(&rfc3339(time)), Some(time));
        let long = read_rfc3339("2026-11-18T11:08:43.456789012Z");
        assert_eq!(long, Some(time));
        assert_eq!(read_rfc3339("soon"), None);
        assert_eq!(rfc3339(Timestamp(u64::MAX)), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn the_description_keeps_the_configuration() {
        let config = TopicConfig::default();
        let description = Description::new("a", &config);
        assert_eq!(description.config(), config);
        let text = serde_json::to_string(&description).unwrap();
        let read: Description = serde_json::from_str(&text).unwrap();
        assert_eq!((read.incarnation.as_str(), read.config()), ("a", config));
    }
}
