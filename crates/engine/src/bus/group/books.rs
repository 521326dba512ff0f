//! The books that the machine keeps of its messages, and looking things up in them.

use std::time::Duration;

use super::{ConsumerId, Group, Position, State, Tracked, index};

impl Group {
    /// Takes a message out of every book, and lets the next of its key come.
    pub(super) fn forget(&mut self, position: Position, now: Duration) {
        let Some(tracked) = self.messages.get(&position) else {
            return;
        };
        match tracked.state {
            State::Ready { turn } => drop(self.ready.remove(&(turn, position))),
            State::InFlight { consumer, .. } => {
                self.clear_timer(position);
                self.forget_delivery(consumer, position);
            }
            State::Waiting { .. } => self.clear_timer(position),
            State::Blocked { .. } | State::Settling { .. } => {}
        }
        let key = self
            .messages
            .remove(&position)
            .and_then(|tracked| tracked.key);
        let Some(key) = key else {
            return;
        };
        let place = (position.partition, key);
        if let Some(queue) = self.keys.get_mut(&place) {
            queue.retain(|offset| *offset != position.offset);
            match queue.front().copied() {
                None => drop(self.keys.remove(&place)),
                Some(offset) => self.unblock(Position { offset, ..position }, now),
            }
        }
    }

    /// Takes a message out of every book but that of keys.
    pub(super) fn drop_silently(&mut self, position: Position) {
        let Some(tracked) = self.messages.remove(&position) else {
            return;
        };
        match tracked.state {
            State::Ready { turn } => drop(self.ready.remove(&(turn, position))),
            State::InFlight {
                consumer, deadline, ..
            } => {
                self.timers.remove(&(deadline, position));
                self.forget_delivery(consumer, position);
            }
            State::Waiting { until, .. } => drop(self.timers.remove(&(until, position))),
            State::Blocked { .. } | State::Settling { .. } => {}
        }
    }

    /// What is tracked of a partition below an offset.
    pub(super) fn tracked_in(&self, partition: u32, below: u64) -> Vec<Position> {
        let range = Position {
            partition,
            offset: 0,
        }..Position {
            partition,
            offset: below,
        };
        self.messages
            .range(range)
            .map(|(position, _)| *position)
            .collect()
    }

    /// Moves the cursor up to the oldest message that is not settled.
    pub(super) fn advance(&mut self, partition: u32) {
        let start = Position {
            partition,
            offset: 0,
        };
        let oldest = self
            .messages
            .range(start..)
            .next()
            .map(|(position, _)| *position);
        let oldest = oldest.filter(|position| position.partition == partition);
        self.partitions[index(partition)].advance(oldest.map(|position| position.offset));
    }

    pub(super) fn is_known_settled(&self, position: Position) -> bool {
        self.partitions
            .get(index(position.partition))
            .is_some_and(|progress| progress.is_settled(position.offset))
    }

    /// Whether an [`super::Effect::Settle`] or [`super::Effect::DeadLetter`] still waits for
    /// [`super::Input::Settled`]. A seek or a trim ends the wait.
    pub fn is_settling(&self, position: Position, token: u64) -> bool {
        let state = self.messages.get(&position).map(|tracked| &tracked.state);
        matches!(state, Some(State::Settling { token: current, .. }) if *current == token)
    }

    pub(super) fn clear_timer(&mut self, position: Position) {
        let state = self.messages.get(&position).map(|tracked| &tracked.state);
        if let Some(State::InFlight { deadline: at, .. } | State::Waiting { until: at, .. }) = state
        {
            self.timers.remove(&(*at, position));
        }
    }

    pub(super) fn forget_delivery(&mut self, consumer: ConsumerId, position: Position) {
        if let Some(with) = self.in_flight.get_mut(&consumer) {
            with.remove(&position);
            if with.is_empty() {
                self.in_flight.remove(&consumer);
            }
        }
    }

    pub(super) fn tracked(&mut self, position: Position) -> &mut Tracked {
        self.messages
            .get_mut(&position)
            .expect("the caller has just seen it in a book")
    }
}
