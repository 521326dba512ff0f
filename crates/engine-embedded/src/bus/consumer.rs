use std::sync::Arc;

use async_trait::async_trait;
use sinew_core::Result;
use sinew_engine::bus::{
    Consumer, Delivery, Position, Receipt, Redeliver,
    group::{Effect, Input},
    receipt_stale,
};

use super::{
    CAPABILITY, Caller,
    command::{Command, Seat},
    fault,
    files::Segment,
    message::Stored,
    state::State,
    topic::{Found, Held},
};

/// Messages of one partition that a group loads from memory before it looks at the next.
const LOAD_AT_ONCE: u64 = 64;

pub(super) struct EmbeddedConsumer {
    pub(super) caller: Caller,
    pub(super) seat: Seat,
    pub(super) in_flight: usize,
}

/// What a look for deliveries came to.
enum Look {
    Deliver(Vec<Effect>, Vec<(Position, Stored)>),
    /// This must be read first.
    Read(Position, Segment),
    Wait,
}

impl EmbeddedConsumer {
    /// Takes what can be delivered. A message is taken only when its content is at hand, so that a
    /// consumer that goes away while a file is read has nothing.
    fn look(&self, most: usize, held: Option<&Held>) -> Result<Look> {
        let shared = &self.caller.shared;
        let now = shared.clock.monotonic();
        let mut state = shared.state.lock();
        state.check(&self.seat)?;
        let Seat {
            topic,
            group,
            consumer,
            ..
        } = self.seat;
        let before = state.wake;
        state.run_elsewhere(topic, group, Input::Tick, now);
        let unread = self.feed(&mut state, held, now);
        let member = state.check(&self.seat)?;
        let with = member.machine.in_flight_with(consumer);
        let most = most.min(self.in_flight.saturating_sub(with));
        let mut found = Vec::new();
        let mut missing = None;
        if let Some(topic) = state.topics.get(&topic) {
            for position in member.machine.ready().take(most) {
                match topic.find(position, &shared.files, held) {
                    Found::Here(message) => found.push((position, message)),
                    Found::In(segment) => {
                        missing = Some((position, segment));
                        break;
                    }
                    Found::Nowhere => break,
                }
            }
        }
        let look = if found.is_empty() {
            // With no room in flight there is no hurry to read.
            match missing.or(unread).filter(|_| most > 0) {
                Some((position, segment)) => Look::Read(position, segment),
                None => Look::Wait,
            }
        } else {
            let take = Input::Take {
                consumer,
                most: found.len(),
            };
            let (_, deliveries) = state.run_elsewhere(topic, group, take, now);
            Look::Deliver(deliveries, found)
        };
        let is_asked = state.wake < before || !state.outbox.is_empty();
        drop(state);
        if is_asked {
            shared.nudge();
        }
        Ok(look)
    }

    /// Lets the group hear of what it owes: after a restart, waits that were asked for begin now and
    /// not when somebody first looks.
    pub(super) async fn prepare(&self) -> Result<()> {
        /// So many blocks of files are read for it; what waits is rarely behind them.
        const BLOCKS: usize = 8;
        let mut held = None;
        for _ in 0..BLOCKS {
            let unread = {
                let shared = &self.caller.shared;
                let mut state = shared.state.lock();
                state.check(&self.seat)?;
                let before = state.wake;
                let unread = self.feed(&mut state, held.as_ref(), shared.clock.monotonic());
                let is_asked = state.wake < before || !state.outbox.is_empty();
                drop(state);
                if is_asked {
                    shared.nudge();
                }
                unread
            };
            let Some((position, segment)) = unread else {
                return Ok(());
            };
            held = match self.read(position, segment).await {
                Ok(block) => Some(block),
                // Whoever asks for messages hears of it.
                Err(_) => return Ok(()),
            };
        }
        Ok(())
    }

    /// Lets the group hear of what has entered, as far as it takes more. Answers what must be read
    /// for it to hear more.
    fn feed(
        &self,
        state: &mut State,
        held: Option<&Held>,
        now: std::time::Duration,
    ) -> Option<(Position, Segment)> {
        let files = &self.caller.shared.files;
        loop {
            let topic = state.topics.get(&self.seat.topic)?;
            let machine = &topic.groups.get(&self.seat.group)?.machine;
            let room = machine.room() as u64;
            if room == 0 {
                return None;
            }
            // The partition that it holds least of, so that none takes the whole window.
            let held_of = |partition| machine.wanted(partition) - machine.cursor(partition);
            let behind = topic
                .numbered()
                .filter(|(partition, log)| machine.wanted(*partition) < log.edges.end);
            let (partition, log) = behind.min_by_key(|(partition, _)| held_of(*partition))?;
            let from = machine.wanted(partition).max(log.edges.first);
            let most = room.min(LOAD_AT_ONCE);
            let until = log.edges.end.min(from + most);
            let mut messages = Vec::new();
            for offset in from..until {
                let position = Position { partition, offset };
                match topic.find(position, files, held) {
                    Found::Here(message) => messages.push((offset, message.key())),
                    Found::In(segment) if messages.is_empty() => return Some((position, segment)),
                    _ => break,
                }
            }
            let until = messages.last().map(|(offset, _)| offset + 1)?;
            let load = Input::Load {
                partition,
                messages,
                until,
            };
            state.run_elsewhere(self.seat.topic, self.seat.group, load, now);
        }
    }

    async fn read(&self, position: Position, segment: Segment) -> Result<Held> {
        let place = super::files::Place {
            topic: self.seat.topic,
            partition: position.partition,
        };
        let shared = Arc::clone(&self.caller.shared);
        let read = move || shared.files.block(place, &segment, position.offset);
        let read = tokio::task::spawn_blocking(read).await;
        let block =
            read.map_err(|cause| fault::unavailable("a read broke off").with_source(cause))??;
        Ok(Held { place, block })
    }

    /// Whether messages were trimmed while their file was looked for.
    fn is_gone(&self, position: Position) -> bool {
        let state = self.caller.shared.state.lock();
        let topic = state.topics.get(&self.seat.topic);
        let log = topic.and_then(|topic| topic.partition(position.partition));
        log.is_none_or(|log| position.offset < log.edges.first)
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next_many(&self, most: usize) -> Result<Vec<Delivery>> {
        let mut held = None;
        loop {
            let news = self.seat.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            match self.look(most.max(1), held.as_ref())? {
                Look::Deliver(effects, found) => return deliveries(effects, found),
                Look::Read(position, segment) => {
                    held = match self.read(position, segment).await {
                        Ok(block) => Some(block),
                        Err(_) if self.is_gone(position) => None,
                        Err(error) => return Err(error),
                    };
                }
                Look::Wait => {
                    held = None;
                    news.await;
                }
            }
        }
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        if receipts.is_empty() {
            return Ok(());
        }
        let (seat, receipts) = (self.seat.clone(), receipts.to_vec());
        self.caller
            .ask(|answer| Command::Ack {
                seat,
                receipts,
                answer,
            })
            .await
    }

    async fn nack(&self, receipt: &Receipt, redeliver: Redeliver) -> Result<()> {
        if let Redeliver::After(delay) = redeliver {
            CAPABILITY.limits.check_delay(delay)?;
        }
        let (seat, receipt) = (self.seat.clone(), *receipt);
        self.caller
            .ask(|answer| Command::Nack {
                seat,
                receipt,
                redeliver,
                answer,
            })
            .await
    }

    async fn extend(&self, receipt: &Receipt, time: std::time::Duration) -> Result<()> {
        CAPABILITY.limits.check_delay(time)?;
        let Receipt { position, token } = *receipt;
        let shared = &self.caller.shared;
        let mut state = shared.state.lock();
        state.check(&self.seat)?;
        let before = state.wake;
        let extend = Input::Extend {
            position,
            token,
            time,
        };
        let now = shared.clock.monotonic();
        let (is_stale, _) = state.run_elsewhere(self.seat.topic, self.seat.group, extend, now);
        let is_asked = state.wake < before || !state.outbox.is_empty();
        drop(state);
        if is_asked {
            shared.nudge();
        }
        if is_stale {
            return Err(receipt_stale(receipt));
        }
        Ok(())
    }
}

fn deliveries(effects: Vec<Effect>, found: Vec<(Position, Stored)>) -> Result<Vec<Delivery>> {
    // In the same order, as long as the group is of its own mind.
    let mut found = found.into_iter();
    let mut deliveries = Vec::with_capacity(effects.len());
    for effect in effects {
        let Effect::Deliver {
            position,
            attempt,
            token,
        } = effect
        else {
            continue;
        };
        let message = found.find(|(at, _)| *at == position);
        let (_, message) =
            message.ok_or_else(|| fault::malformed("a delivery without its message"))?;
        let record = message
            .record(position)
            .map_err(|_| fault::malformed("a message of a topic"))?;
        deliveries.push(Delivery {
            record,
            attempt,
            receipt: Receipt { position, token },
        });
    }
    Ok(deliveries)
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let shared = &self.caller.shared;
        let now = shared.clock.monotonic();
        let mut state = shared.state.lock();
        let Seat {
            topic,
            group,
            consumer,
            ..
        } = self.seat;
        let Some(member) = state.member_mut(topic, group) else {
            return;
        };
        member.consumers.remove(&consumer);
        state.run_elsewhere(topic, group, Input::Leave { consumer }, now);
        self.seat.news.notify_waiters();
        let is_asked = !state.outbox.is_empty();
        drop(state);
        if is_asked {
            shared.nudge();
        }
    }
}
