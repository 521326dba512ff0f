use std::{
    collections::VecDeque,
    ops::Range,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Error, Result};
use tokio::sync::mpsc;

use super::{Face, Faces, Hold, TURN_BYTES, TURN_COMMANDS, record};
use crate::log::Sequence;

/// A face on the commit thread, and what waits for it.
pub(crate) struct Slot<F: Face> {
    face: F,
    hold: Hold,
    queue: mpsc::Receiver<F::Command>,
    waiting: VecDeque<F::Command>,
    arriving: Vec<F::Command>,
    part: Vec<u8>,
    /// Where the part lies in the record of this turn.
    place: Range<usize>,
}

impl<F: Face> Slot<F> {
    /// `hold` is the one that the face shares.
    pub(crate) fn new(face: F, hold: Hold, queue: mpsc::Receiver<F::Command>) -> Self {
        Self {
            face,
            hold,
            queue,
            waiting: VecDeque::new(),
            arriving: Vec::new(),
            part: Vec::new(),
            place: 0..0,
        }
    }
}

impl<F: Face> Faces for Slot<F> {
    fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let room = TURN_COMMANDS.saturating_sub(self.waiting.len());
        if room == 0 {
            return Poll::Ready(true);
        }
        let polled = self.queue.poll_recv_many(context, &mut self.arriving, room);
        self.waiting.extend(self.arriving.drain(..));
        match polled {
            _ if !self.waiting.is_empty() => Poll::Ready(true),
            Poll::Ready(count) => Poll::Ready(count > 0),
            Poll::Pending => Poll::Pending,
        }
    }

    fn close(&mut self) {
        self.queue.close();
    }

    fn deadline(&self) -> Option<Duration> {
        self.face.deadline()
    }

    fn stage(&mut self, now: Duration) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.face.due(now, &mut self.part);
        }
        while self.part.len() < TURN_BYTES
            && let Some(command) = self.waiting.pop_front()
        {
            self.face.stage(command, &mut self.part);
        }
    }

    fn makes_room(&self) -> bool {
        self.part.is_empty() || self.face.makes_room()
    }

    fn put_parts(&mut self, to: &mut Vec<u8>) {
        self.place = 0..0;
        if !self.part.is_empty() {
            self.place = record::put(to, F::TAG, &self.part);
        }
        self.part.clear();
        // One large command must not keep its memory for ever.
        self.part.shrink_to(TURN_BYTES);
    }

    fn durable(&mut self, sequence: Sequence, record: &Bytes) {
        let part = record.slice(self.place.clone());
        if !part.is_empty() {
            self.hold.wrote(sequence);
        }
        self.face.durable(sequence, part);
    }

    fn refused(&mut self, error: &Error) {
        self.face.refused(error);
    }

    fn next(&self) -> Sequence {
        self.face.next()
    }

    fn replay(&mut self, sequence: Sequence, tag: u8, part: Bytes) -> Result<bool> {
        if tag != F::TAG {
            return Ok(false);
        }
        if sequence >= self.face.next() {
            self.hold.wrote(sequence);
            self.face.replay(sequence, part)?;
        }
        Ok(true)
    }

    fn replayed(&mut self) {
        self.hold.settle(self.face.next());
        self.face.replayed();
    }
}

/// What concerns two faces at once: it checks both and then stages in both, or in none.
pub(crate) type Unit<A, B> = Box<dyn FnMut(Staging<'_, A>, Staging<'_, B>) -> Outcome + Send>;

/// What became of a unit that was to be staged.
pub(crate) enum Outcome {
    /// It cannot be in this turn, and is asked again in the next one.
    Later,
    /// It is done with; the answer is given when the turn is durable, in both faces, or refused.
    Done(UnitAnswer),
}

/// Gives a unit's answer.
pub(crate) type UnitAnswer = Box<dyn FnOnce(Result<(), &Error>) + Send>;

/// A face and its part of the record, as a [`Unit`] gets them.
pub(crate) struct Staging<'s, F> {
    pub(crate) face: &'s mut F,
    pub(crate) part: &'s mut Vec<u8>,
}

/// Two faces of one log.
pub(crate) struct Pair<A: Face, B: Face> {
    first: Slot<A>,
    second: Slot<B>,
    units: mpsc::Receiver<Unit<A, B>>,
    waiting: VecDeque<Unit<A, B>>,
    /// Of the units of this turn.
    answers: Vec<UnitAnswer>,
}

impl<A: Face, B: Face> Pair<A, B> {
    pub(crate) fn new(first: Slot<A>, second: Slot<B>, units: mpsc::Receiver<Unit<A, B>>) -> Self {
        Self {
            first,
            second,
            units,
            waiting: VecDeque::new(),
            answers: Vec::new(),
        }
    }

    fn poll_units(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        while self.waiting.len() < TURN_COMMANDS {
            match self.units.poll_recv(context) {
                Poll::Ready(Some(unit)) => self.waiting.push_back(unit),
                Poll::Ready(None) if self.waiting.is_empty() => return Poll::Ready(false),
                Poll::Pending if self.waiting.is_empty() => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(true)
    }
}

impl<A: Face, B: Face> Faces for Pair<A, B> {
    fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        // All are asked, so that each can wake the thread.
        let arrivals = [
            self.first.poll_arrival(context),
            self.second.poll_arrival(context),
            self.poll_units(context),
        ];
        if arrivals.contains(&Poll::Ready(true)) {
            Poll::Ready(true)
        } else if arrivals.contains(&Poll::Pending) {
            Poll::Pending
        } else {
            Poll::Ready(false)
        }
    }

    fn close(&mut self) {
        self.first.close();
        self.second.close();
        self.units.close();
    }

    fn deadline(&self) -> Option<Duration> {
        let deadlines = [self.first.deadline(), self.second.deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn stage(&mut self, now: Duration) {
        self.first.stage(now);
        self.second.stage(now);
        while self.first.part.len().max(self.second.part.len()) < TURN_BYTES
            && let Some(mut unit) = self.waiting.pop_front()
        {
            let first = Staging {
                face: &mut self.first.face,
                part: &mut self.first.part,
            };
            let second = Staging {
                face: &mut self.second.face,
                part: &mut self.second.part,
            };
            match unit(first, second) {
                Outcome::Done(answer) => self.answers.push(answer),
                Outcome::Later => {
                    self.waiting.push_front(unit);
                    return;
                }
            }
        }
    }

    fn makes_room(&self) -> bool {
        self.first.makes_room() && self.second.makes_room()
    }

    fn put_parts(&mut self, record: &mut Vec<u8>) {
        self.first.put_parts(record);
        self.second.put_parts(record);
    }

    fn durable(&mut self, sequence: Sequence, record: &Bytes) {
        self.first.durable(sequence, record);
        self.second.durable(sequence, record);
        for answer in self.answers.drain(..) {
            answer(Ok(()));
        }
    }

    fn refused(&mut self, error: &Error) {
        self.first.refused(error);
        self.second.refused(error);
        for answer in self.answers.drain(..) {
            answer(Err(error));
        }
    }

    fn next(&self) -> Sequence {
        self.first.next().min(self.second.next())
    }

    fn replay(&mut self, sequence: Sequence, tag: u8, part: Bytes) -> Result<bool> {
        match tag {
            tag if tag == A::TAG => self.first.replay(sequence, tag, part),
            _ => self.second.replay(sequence, tag, part),
        }
    }

    fn replayed(&mut self) {
        self.first.replayed();
        self.second.replayed();
    }
}
