//! The calls of the trait.

use std::sync::{Arc, Mutex, atomic::Ordering};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use sinew_core::{Error, Name, Result};
use sinew_engine::bus::{
    Bus, Capability, Consumer, GroupState, Message, Position, Published, Record, Seek, Start,
    Subscription, TopicConfig, TopicState, group_invalid, position_unknown, topic_exists,
    topic_invalid, unsupported,
};

use super::{
    CAPABILITY, ENGINE, RabbitBus, catalogue,
    consumer::RabbitConsumer,
    link::Lines,
    locked,
    progress::{Answer, Request},
    register, streams,
};

async fn starts(lines: &Lines, streams: &[String], start: Start) -> Result<Vec<u64>> {
    let starts = streams.iter().map(async |stream| match start {
        Start::Earliest => Ok(streams::extent(lines, stream).await?.range.start),
        Start::Latest => streams::end(lines, stream).await,
        Start::At(time) => streams::since(lines, stream, time).await,
    });
    try_join_all(starts).await
}

#[async_trait]
impl Bus for RabbitBus {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        CAPABILITY.limits.check_topic(&config)?;
        self.shared
            .with_catalogue(async |lines, held| match held.catalogue.topics.get(topic) {
                Some(before) if before.config() == config => Ok(false),
                Some(_) => Err(topic_exists(topic)),
                None => self.shared.make_topic(lines, held, topic, &config).await,
            })
            .await
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        CAPABILITY.limits.check_topic(&config)?;
        self.shared
            .with_catalogue(async |_, held| {
                let before = held.catalogue.topic_mut(topic)?;
                if before.partitions() != config.partitions {
                    return Err(topic_invalid("the number of partitions cannot be changed"));
                }
                if before.config().retention != config.retention {
                    return Err(unsupported(ENGINE, "changing what a topic keeps"));
                }
                before.set_config(&config);
                held.save().await
            })
            .await
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        let found = self.shared.look(topic).await?;
        let streams = found.streams(&self.shared.namespace, topic);
        let extents = self.shared.extents(&streams).await?;
        let weight = |extent: &streams::Extent| {
            (extent.range.end - extent.range.start).saturating_mul(extent.first_bytes)
        };
        Ok(TopicState {
            config: found.config(),
            bytes: extents.iter().map(weight).sum(),
            partitions: extents.into_iter().map(|extent| extent.range).collect(),
            scheduled: 0,
        })
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        self.shared
            .with_catalogue(async |_, held| Ok(held.catalogue.topics.keys().cloned().collect()))
            .await
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        let shared = &self.shared;
        locked(&shared.topics).remove(topic);
        shared
            .with_catalogue(async |lines, held| {
                let Some(gone) = held.catalogue.topics.remove(topic) else {
                    return Ok(());
                };
                let mut queues = gone.streams(&shared.namespace, topic);
                for (name, group) in &gone.groups {
                    queues.extend(group.queues(&shared.namespace, name));
                }
                held.catalogue.note_debris(&queues);
                held.save().await?;
                held.clear(lines).await
            })
            .await
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        CAPABILITY.limits.check_messages(&messages)?;
        let now = self.shared.clock.now();
        if messages
            .iter()
            .any(|message| message.due.is_some_and(|due| due > now))
        {
            self.shared.known(topic).await?;
            return Err(unsupported(ENGINE, "messages with a due time"));
        }
        self.shared.publish(topic, &messages).await
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        CAPABILITY.limits.check_subscription(&subscription)?;
        let shared = &self.shared;
        let config = subscription.group;
        let (found, is_changed) = shared
            .with_catalogue(async |lines, held| {
                let found = held.catalogue.topic(topic)?;
                if config
                    .dead_letter
                    .as_ref()
                    .is_some_and(|dead| dead.topic == *topic)
                {
                    return Err(group_invalid("a topic cannot take its own dead letters"));
                }
                let is_new = !found.groups.contains_key(group);
                let starts = if is_new {
                    let streams = found.streams(&shared.namespace, topic);
                    starts(lines, &streams, config.start).await?
                } else {
                    Vec::new()
                };
                if let Some(dead) = &config.dead_letter {
                    let usual = TopicConfig::default();
                    shared.make_topic(lines, held, &dead.topic, &usual).await?;
                }
                if is_new {
                    let member = catalogue::Group::new(&config, starts);
                    let queues = member.queues(&shared.namespace, group);
                    held.catalogue.note_debris(&queues);
                    held.save().await?;
                    let channel = lines.channel().await?;
                    for queue in &queues {
                        register::make(&channel, queue).await?;
                    }
                    held.catalogue.call_off(&queues);
                    let groups = &mut held.catalogue.topic_mut(topic)?.groups;
                    groups.insert(group.clone(), member);
                    held.save().await?;
                }
                let found = held.catalogue.topic_mut(topic)?;
                let is_changed = found.change_group(group, &config);
                let found = found.clone();
                if is_changed {
                    held.save().await?;
                }
                Ok((found, is_changed))
            })
            .await?;
        let host = shared.host(topic, &found, group)?;
        if is_changed {
            shared.spread_config(&host, found.group(group)?).await?;
        }
        Ok(Arc::new(RabbitConsumer {
            shared: Arc::clone(shared),
            id: host.join(),
            host,
            topic: topic.clone(),
            topic_id: found.id,
            group: group.clone(),
            in_flight: subscription.in_flight,
            turn: Mutex::new(0),
        }))
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        let found = self.shared.look(topic).await?;
        let config = found.group(group)?.config.config();
        let host = self.shared.host(topic, &found, group)?;
        let requests = (0..host.seats.len()).map(|partition| (partition, Request::State));
        let answers = self.shared.ask(&host, requests.collect()).await?;
        let sum = |of: fn(&Answer) -> u64| answers.iter().map(of).sum();
        Ok(GroupState {
            config,
            cursors: answers.iter().map(|answer| answer.cursor).collect(),
            lag: sum(|answer| answer.lag),
            in_flight: sum(|answer| answer.in_flight),
            waiting: sum(|answer| answer.waiting),
            lost: sum(|answer| answer.lost),
            consumers: host.consumers.load(Ordering::Relaxed),
        })
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        Ok(self.shared.look(topic).await?.groups.into_keys().collect())
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        let shared = &self.shared;
        let found = shared.look(topic).await?;
        found.group(group)?;
        let streams = found.streams(&shared.namespace, topic);
        let targets: Vec<(usize, u64)> = match seek {
            Seek::To(position) => {
                let partition = self.held(&streams, position).await?;
                vec![(partition, position.offset)]
            }
            Seek::Earliest | Seek::Latest => {
                let extents = shared.extents(&streams).await?;
                let place = |extent: &streams::Extent| match seek {
                    Seek::Earliest => extent.range.start,
                    _ => extent.range.end,
                };
                extents.iter().map(place).enumerate().collect()
            }
            Seek::Time(time) => {
                let lines = shared.link.lines().await?;
                let found = starts(&lines, &streams, Start::At(time));
                shared
                    .link
                    .within(found)
                    .await?
                    .into_iter()
                    .enumerate()
                    .collect()
            }
        };
        let host = shared.host(topic, &found, group)?;
        let requests = targets
            .into_iter()
            .map(|(partition, offset)| (partition, Request::Seek(offset)));
        shared.ask(&host, requests.collect()).await.map(drop)
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        let shared = &self.shared;
        shared
            .with_catalogue(async |lines, held| {
                let Some(gone) = held.catalogue.topic_mut(topic)?.groups.remove(group) else {
                    return Ok(());
                };
                held.catalogue
                    .note_debris(&gone.queues(&shared.namespace, group));
                held.save().await?;
                held.clear(lines).await
            })
            .await
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        let shared = &self.shared;
        let most = most.clamp(1, CAPABILITY.limits.read_messages);
        let known = shared.known(topic).await?;
        let partition = match self.held(&known.streams, from).await {
            Ok(partition) => partition,
            Err(error) => return Err(self.unless_gone(topic, error).await),
        };
        let lines = shared.link.lines().await?;
        let reading = streams::read(&lines, &known.streams[partition], from, most);
        shared.link.within(reading).await
    }
}

impl RabbitBus {
    /// Checks that a topic holds a place, or ends there.
    async fn held(&self, streams: &[String], position: Position) -> Result<usize> {
        let unknown = || position_unknown(position);
        let partition = usize::try_from(position.partition).map_err(|_| unknown())?;
        let stream = streams.get(partition).ok_or_else(unknown)?;
        let lines = self.shared.link.lines().await?;
        let extent = self
            .shared
            .link
            .within(streams::extent(&lines, stream))
            .await?;
        let range = extent.range;
        if (range.start..=range.end).contains(&position.offset) {
            Ok(partition)
        } else {
            Err(unknown())
        }
    }

    /// The error of a call that knew a topic of old.
    async fn unless_gone(&self, topic: &Name, error: Error) -> Error {
        match self.shared.look(topic).await {
            Ok(_) => error,
            Err(gone) => gone,
        }
    }
}
