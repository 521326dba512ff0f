use std::time::Duration;

use sinew_core::Result;

use super::{
    GroupConfig, Message, Subscription, TopicConfig, group_invalid, message_invalid, topic_invalid,
};

/// What bounds an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The heaviest message ([`Message::weight`]), bytes.
    pub message_bytes: u64,
    /// The longest key, bytes.
    pub key_bytes: usize,
    /// The longest id, bytes.
    pub id_bytes: usize,
    /// Headers of a message.
    pub headers: usize,
    /// Messages in one publish.
    pub publish_messages: usize,
    /// What they may weigh, bytes.
    pub publish_bytes: u64,
    /// Partitions of a topic.
    pub partitions: u32,
    /// The longest memory for ids.
    pub deduplication: Duration,
    /// Messages with one consumer.
    pub in_flight: usize,
    /// The largest window of a group.
    pub window: usize,
    /// The shortest ack timeout.
    pub ack_timeout_minimum: Duration,
    /// The longest delay of a redelivery, and the longest ack timeout.
    pub delay: Duration,
    /// Messages in one read.
    pub read_messages: usize,
}

impl Limits {
    /// Checks a publish; `bus.message_invalid` (InvalidArgument).
    pub fn check_messages(&self, messages: &[Message]) -> Result<()> {
        if messages.len() > self.publish_messages {
            let (most, count) = (self.publish_messages, messages.len());
            return Err(message_invalid(format!(
                "one call may publish {most} messages, not {count}; split it"
            )));
        }
        messages
            .iter()
            .try_for_each(|message| self.check_message(message))?;
        let weight: u64 = messages.iter().map(Message::weight).sum();
        if weight > self.publish_bytes {
            let most = self.publish_bytes;
            return Err(message_invalid(format!(
                "one call may publish {most} bytes, not {weight}; split it"
            )));
        }
        Ok(())
    }

    fn check_message(&self, message: &Message) -> Result<()> {
        let name_is_good = |name: &str| {
            (1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let most = |what: &str, most: u64, found: u64| {
            let message = format!("{what} may have {most} bytes, not {found}");
            if found <= most {
                Ok(())
            } else {
                Err(message_invalid(message))
            }
        };
        most("a message", self.message_bytes, message.weight())?;
        let key = message.key.as_ref().map_or(0, |key| key.len());
        most("a key", self.key_bytes as u64, key as u64)?;
        if let Some(id) = &message.id {
            most("an id", self.id_bytes as u64, id.len() as u64)?;
            if id.is_empty() {
                return Err(message_invalid("an id must not be empty"));
            }
        }
        if message.headers.len() > self.headers {
            let (most, count) = (self.headers, message.headers.len());
            return Err(message_invalid(format!(
                "a message may have {most} headers, not {count}"
            )));
        }
        match message.headers.iter().find(|(name, _)| !name_is_good(name)) {
            None => Ok(()),
            Some(_) => Err(message_invalid(
                "the name of a header must be 1 to 128 printable ASCII characters without spaces",
            )),
        }
    }

    /// Checks a topic's configuration; `bus.topic_invalid` (InvalidArgument).
    pub fn check_topic(&self, config: &TopicConfig) -> Result<()> {
        if !(1..=self.partitions).contains(&config.partitions) {
            let (most, count) = (self.partitions, config.partitions);
            return Err(topic_invalid(format!(
                "a topic has 1 to {most} partitions, not {count}"
            )));
        }
        if config.deduplication > self.deduplication {
            let most = self.deduplication;
            return Err(topic_invalid(format!(
                "ids are remembered for {most:?} at most"
            )));
        }
        if config
            .retention
            .bytes
            .is_some_and(|bytes| bytes < self.message_bytes)
        {
            let least = self.message_bytes;
            return Err(topic_invalid(format!(
                "a topic must keep at least {least} bytes, the weight of the heaviest message"
            )));
        }
        if config
            .retention
            .age
            .is_some_and(|age| age < Duration::from_secs(1))
        {
            return Err(topic_invalid(
                "a topic must keep messages for at least a second",
            ));
        }
        Ok(())
    }

    /// Checks how a consumer wants to join; `bus.group_invalid` (InvalidArgument).
    pub fn check_subscription(&self, subscription: &Subscription) -> Result<()> {
        let GroupConfig {
            ack_timeout,
            backoff,
            backoff_most,
            window,
            ..
        } = subscription.group;
        if !(1..=self.in_flight).contains(&subscription.in_flight) {
            let most = self.in_flight;
            return Err(group_invalid(format!(
                "a consumer has 1 to {most} messages in flight"
            )));
        }
        if !(1..=self.window).contains(&window) {
            let most = self.window;
            return Err(group_invalid(format!(
                "the window of a group is 1 to {most} messages"
            )));
        }
        if !(self.ack_timeout_minimum..=self.delay).contains(&ack_timeout) {
            let (least, most) = (self.ack_timeout_minimum, self.delay);
            return Err(group_invalid(format!(
                "an ack timeout is {least:?} to {most:?}"
            )));
        }
        if backoff > backoff_most || backoff_most > self.delay {
            let most = self.delay;
            return Err(group_invalid(format!(
                "the backoff grows from the first delay to the longest, {most:?} at most"
            )));
        }
        if subscription
            .group
            .dead_letter
            .as_ref()
            .is_some_and(|dead| dead.after == 0)
        {
            return Err(group_invalid(
                "a message must be delivered once before it is a dead letter",
            ));
        }
        Ok(())
    }

    /// Checks the delay of a redelivery or an extension; `bus.group_invalid` (InvalidArgument).
    pub fn check_delay(&self, delay: Duration) -> Result<()> {
        if delay <= self.delay {
            return Ok(());
        }
        Err(group_invalid(format!(
            "a delivery may be put off by {:?} at most",
            self.delay
        )))
    }
}
