//! The calls of the trait.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use sinew_core::{Name, Result};
use sinew_engine::bus::{
    Bus, Capability, Consumer, GroupState, Message, Position, Published, Record, Retention, Seek,
    Subscription, TopicConfig, TopicState, group_invalid, topic_exists, topic_invalid, unsupported,
};

use super::{
    Shared, Shell,
    backend::{Appended, Entry, Log},
    consumer::ShellConsumer,
    groups::check,
    local::Ended,
    lock,
    records::config_key,
};

/// How often room is made for a message: others may take it.
const TRIES: usize = 20;

impl Shared {
    /// The partition of a message. The same id without a key always has the same, so that it can be known again.
    pub(super) fn place(&self, log: &Log, message: &Message) -> u32 {
        let count = log.config.partitions;
        match (&message.key, &message.id) {
            (Some(key), _) => crc32c::crc32c(key) % count,
            (None, Some(id)) => crc32c::crc32c(id.as_bytes()) % count,
            (None, None) => self.next_partition.fetch_add(1, Ordering::Relaxed) % count,
        }
    }

    /// Appends, and makes room where the topic needs it.
    pub(super) async fn append(&self, log: &Log, entries: Vec<Entry>) -> Vec<Result<Appended>> {
        let mut results = self.backend.append(log, entries.clone()).await;
        for (result, entry) in results.iter_mut().zip(entries) {
            let mut tries = TRIES;
            while matches!(result, Err(error) if error.code() == "bus.full") && tries > 0 {
                tries -= 1;
                match self.make_room(log, entry.message.weight()).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        *result = Err(error);
                        break;
                    }
                }
                let again = self.backend.append(log, vec![entry.clone()]).await.pop();
                *result = again.expect("one entry has one answer");
            }
        }
        results
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        let mut log = self.log(topic).await?;
        let mut answers = Vec::with_capacity(messages.len());
        let mut rest = messages.into_iter().map(Arc::new).peekable();
        // Messages go out together until a key comes again: its second must not be there without its first.
        while rest.peek().is_some() {
            let mut keys = HashSet::new();
            let mut entries: Vec<Entry> = Vec::new();
            while let Some(message) = rest.peek() {
                if message
                    .key
                    .as_ref()
                    .is_some_and(|key| !keys.insert(key.clone()))
                {
                    break;
                }
                let partition = self.place(&log, message);
                entries.extend(rest.next().map(|message| Entry {
                    partition,
                    message,
                    once: None,
                }));
            }
            let mut results = self.append(&log, entries.clone()).await;
            let unknown = |result: &Result<Appended>| matches!(result, Err(error) if error.code() == "bus.topic_unknown");
            if results.iter().all(unknown) {
                // It may have been made again: nothing went to the old one.
                log = self.look(topic).await?;
                for entry in &mut entries {
                    entry.partition = self.place(&log, &entry.message);
                }
                results = self.append(&log, entries.clone()).await;
            }
            for (entry, result) in entries.iter().zip(results) {
                answers.push(match result? {
                    Appended::Duplicate => Published::Duplicate,
                    Appended::At(offset) => Published::At(Position {
                        partition: entry.partition,
                        offset,
                    }),
                });
            }
        }
        Ok(answers)
    }
}

#[async_trait]
impl Bus for Shell {
    fn capability(&self) -> &Capability {
        self.guard.0.backend.capability()
    }

    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        let shared = &self.guard.0;
        self.capability().limits.check_topic(&config)?;
        let config = whole(config);
        match shared.backend.create(topic, &config).await? {
            Some(log) => {
                shared.believe(log);
                Ok(true)
            }
            None if shared.look(topic).await?.config == config => Ok(false),
            None => Err(topic_exists(topic)),
        }
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        let shared = &self.guard.0;
        self.capability().limits.check_topic(&config)?;
        let log = shared.look(topic).await?;
        if config.partitions != log.config.partitions {
            return Err(topic_invalid("the number of partitions cannot be changed"));
        }
        shared.backend.configure(&log, &whole(config)).await?;
        shared.look(topic).await.map(drop)
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        let shared = &self.guard.0;
        let log = shared.look(topic).await?;
        let extent = shared.backend.extent(&log).await?;
        Ok(TopicState {
            config: log.config,
            partitions: extent.ranges,
            bytes: extent.bytes,
            scheduled: 0,
        })
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        let mut topics = self.guard.0.backend.topics().await?;
        topics.sort();
        Ok(topics)
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        let shared = &self.guard.0;
        shared.backend.delete(topic).await?;
        shared.gone(topic);
        let locals: Vec<_> = lock(&shared.locals).values().cloned().collect();
        for local in locals.iter().filter(|local| local.log.topic == *topic) {
            shared.backend.hint(&local.log, &local.group).await;
            local.end(Ended::TopicGone);
            shared.forget(local);
        }
        Ok(())
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        let shared = &self.guard.0;
        let capability = self.capability();
        capability.limits.check_messages(&messages)?;
        let now = shared.clock.now();
        if messages
            .iter()
            .any(|message| message.due.is_some_and(|due| due > now))
        {
            shared.log(topic).await?;
            return Err(unsupported(capability.engine, "messages with a due time"));
        }
        if messages.is_empty() {
            return shared.look(topic).await.map(|_| Vec::new());
        }
        shared.publish(topic, messages).await
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        let shared = &self.guard.0;
        self.capability().limits.check_subscription(&subscription)?;
        let log = shared.look(topic).await?;
        if let Some(dead) = &subscription.group.dead_letter {
            if dead.topic == *topic {
                return Err(group_invalid("a topic cannot take its own dead letters"));
            }
            shared.make(&dead.topic).await?;
        }
        let record = shared.make_group(&log, group, &subscription.group).await?;
        let (local, id) = shared.attach(&log, group, &record, subscription.in_flight);
        Ok(Arc::new(ShellConsumer {
            guard: self.guard.clone(),
            local,
            id,
        }))
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        self.guard.0.group(topic, group).await
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        let shared = &self.guard.0;
        let log = shared.look(topic).await?;
        let kept = shared.backend.list(&log, "").await?;
        let mut groups: Vec<Name> = kept
            .iter()
            .filter_map(|kept| kept.key.strip_suffix(".config"))
            .filter_map(|group| group.parse().ok())
            .collect();
        groups.sort();
        Ok(groups)
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        self.guard.0.seek(topic, group, seek).await
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        let shared = &self.guard.0;
        let log = shared.look(topic).await?;
        // The configuration first: without it nothing else counts.
        shared.backend.remove(&log, &config_key(group)).await?;
        shared.backend.remove(&log, &format!("{group}.")).await?;
        shared.backend.hint(&log, group).await;
        if let Some(local) = shared.local(topic, group) {
            local.end(Ended::GroupGone);
            shared.forget(&local);
        }
        Ok(())
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        let shared = &self.guard.0;
        let log = shared.log(topic).await?;
        let extent = shared.backend.extent(&log).await?;
        check(&extent, from)?;
        if from.offset >= extent.ranges[from.partition as usize].end {
            return Ok(Vec::new());
        }
        let most = most.clamp(1, self.capability().limits.read_messages);
        shared.backend.read(&log, from, most).await
    }
}

/// Times to the millisecond, as they are kept.
fn whole(config: TopicConfig) -> TopicConfig {
    let whole = |time: std::time::Duration| {
        std::time::Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    TopicConfig {
        retention: Retention {
            age: config.retention.age.map(whole),
            ..config.retention
        },
        deduplication: whole(config.deduplication),
        ..config
    }
}
