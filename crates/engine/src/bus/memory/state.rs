use std::{collections::BTreeMap, time::Duration};

use sinew_core::{Name, Result, Timestamp};

use super::topic::Topic;
use crate::bus::{
    Delivery, GroupConfig, Receipt, Seek, TopicConfig, dead_letter,
    group::{ConsumerId, Effect, Input, Rules},
    group_invalid, topic_exists, topic_unknown,
};

/// The time, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: Timestamp,
    pub(super) monotonic: Duration,
}

/// The whole bus as a plain value.
#[derive(Default)]
pub(super) struct State {
    topics: BTreeMap<Name, Topic>,
    last_consumer: ConsumerId,
}

/// What a step of a group came to.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) is_stale: bool,
}

impl State {
    pub(super) fn topic_mut(&mut self, topic: &Name) -> Result<&mut Topic> {
        self.topics
            .get_mut(topic)
            .ok_or_else(|| topic_unknown(topic))
    }

    pub(super) fn topics(&self) -> Vec<Name> {
        self.topics.keys().cloned().collect()
    }

    pub(super) fn create_topic(&mut self, topic: &Name, config: TopicConfig) -> Result<bool> {
        match self.topics.get(topic) {
            Some(before) if before.has(&config) => Ok(false),
            Some(_) => Err(topic_exists(topic)),
            None => {
                self.topics.insert(topic.clone(), Topic::new(config));
                Ok(true)
            }
        }
    }

    pub(super) fn delete_topic(&mut self, topic: &Name) {
        self.topics.remove(topic);
    }

    /// Does everything that is due; tells whether there was anything.
    pub(super) fn settle_time(&mut self, now: Now) -> bool {
        let mut anything = false;
        for topic in self.topics.values_mut() {
            anything |= topic.enter_due(now.wall);
            topic.forget_ids(now.wall);
            topic.trim(0, now);
        }
        let groups: Vec<(Name, Name)> = self
            .topics
            .iter()
            .flat_map(|(topic, groups)| {
                groups
                    .groups()
                    .into_iter()
                    .map(move |group| (topic.clone(), group))
            })
            .collect();
        for (topic, group) in groups {
            let is_due = self.topics[&topic]
                .timer(&group)
                .is_some_and(|at| at <= now.monotonic);
            anything |= is_due;
            let ticked = self.step(&topic, &group, Input::Tick, now);
            ticked.expect("a group that was just listed is there");
        }
        anything
    }

    /// How long it is until something is due.
    pub(super) fn next_wait(&self, now: Now) -> Option<Duration> {
        self.topics
            .values()
            .filter_map(|topic| topic.next_wait(now))
            .min()
    }

    pub(super) fn subscribe(
        &mut self,
        topic: &Name,
        group: &Name,
        config: GroupConfig,
        now: Now,
    ) -> Result<ConsumerId> {
        self.topic_mut(topic)?;
        if let Some(dead) = &config.dead_letter {
            if dead.topic == *topic {
                return Err(group_invalid("a topic cannot take its own dead letters"));
            }
            self.dead_letters(&dead.topic.clone());
        }
        self.last_consumer += 1;
        let consumer = self.last_consumer;
        let rules = Rules::from(&config);
        self.topic_mut(topic)?.join(group, config, rules, consumer);
        self.step(topic, group, Input::Configure { rules }, now)?;
        Ok(consumer)
    }

    pub(super) fn seek(&mut self, topic: &Name, group: &Name, seek: Seek, now: Now) -> Result<()> {
        let topic_now = self.topic_mut(topic)?;
        topic_now.member(group)?;
        for position in topic_now.targets(seek)? {
            self.step(topic, group, Input::Seek { position }, now)?;
        }
        Ok(())
    }

    /// The topic for dead letters, which is made when it does not exist.
    fn dead_letters(&mut self, topic: &Name) -> &mut Topic {
        self.topics
            .entry(topic.clone())
            .or_insert_with(|| Topic::new(TopicConfig::default()))
    }

    pub(super) fn check_consumer(
        &mut self,
        topic: &Name,
        group: &Name,
        consumer: ConsumerId,
    ) -> Result<()> {
        self.topic_mut(topic)?.check_consumer(group, consumer)
    }

    /// How many messages a consumer may be given.
    pub(super) fn room(
        &mut self,
        topic: &Name,
        group: &Name,
        consumer: ConsumerId,
        in_flight: usize,
    ) -> Result<usize> {
        let with = self
            .topic_mut(topic)?
            .member(group)?
            .machine
            .in_flight_with(consumer);
        Ok(in_flight.saturating_sub(with))
    }

    pub(super) fn leave(
        &mut self,
        topic: &Name,
        group: &Name,
        consumer: ConsumerId,
        now: Now,
    ) -> Result<()> {
        self.topic_mut(topic)?.leave(group, consumer);
        self.step(topic, group, Input::Leave { consumer }, now)
            .map(drop)
    }

    /// Passes an input to a group, and carries out what it asks for until it asks for nothing more.
    pub(super) fn step(
        &mut self,
        topic: &Name,
        group: &Name,
        input: Input,
        now: Now,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut inputs = vec![input];
        loop {
            let fed = self.topic_mut(topic)?.feed(group)?;
            let Some(input) = fed.or_else(|| inputs.pop()) else {
                return Ok(outcome);
            };
            let member = self.topic_mut(topic)?.member(group)?;
            let dead_topic = member
                .config
                .dead_letter
                .as_ref()
                .map(|dead| dead.topic.clone());
            for effect in member.machine.step(input, now.monotonic) {
                match effect {
                    Effect::Deliver {
                        position,
                        attempt,
                        token,
                    } => {
                        let record = self.topic_mut(topic)?.record(position);
                        let record = record.expect("the group has heard of what was trimmed");
                        let receipt = Receipt { position, token };
                        outcome.deliveries.push(Delivery {
                            record,
                            attempt,
                            receipt,
                        });
                    }
                    Effect::Settle { position, token } => {
                        inputs.push(Input::Settled { position, token });
                    }
                    Effect::DeadLetter {
                        position,
                        token,
                        attempts,
                        reason,
                    } => {
                        let record = self.topic_mut(topic)?.record(position);
                        if let (Some(dead), Some(record)) = (&dead_topic, record) {
                            let message = dead_letter(topic, group, &record, attempts, reason);
                            self.dead_letters(dead).enter(message, now.wall);
                        }
                        inputs.push(Input::Settled { position, token });
                    }
                    Effect::Retry(..) => {}
                    Effect::Stale { .. } => outcome.is_stale = true,
                }
            }
        }
    }
}
