//! The time in which this node holds a seat: it runs the group's machine over the stream, and writes what is settled.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sinew_core::{Error, Result};
use sinew_engine::bus::group::Input;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    ENGINE, Shared,
    host::{SeatRegister, Task, closed},
    link::Lines,
    progress::{Answer, Progress, Request},
    register::{self, Asker, Entry, Found, Heard},
    streams::{self, From, Reader},
};
use crate::fault;

/// Entries that may be on their way to the register.
const UNDER_WAY: usize = 8;
/// After so many entries the whole value is written, and the old ones are acknowledged.
const ENTRIES: usize = 64;
/// Records that are read ahead of the machine.
const STASH: usize = 256;
/// How long an entry may take to come back.
pub(super) const LOST: Duration = Duration::from_secs(5);
/// How long the broker may take for what a session asks of it.
const STEP: Duration = Duration::from_secs(10);
/// A stream from which nothing came for so long is looked at.
const QUIET: Duration = Duration::from_secs(30);
/// How long a task sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// An entry did not come back: the queue had no leader and lost it. Holding the register anew writes it again.
pub(super) fn lost() -> Error {
    fault::unavailable(ENGINE, "an entry was lost")
}

/// The time in which this node holds a seat.
pub(super) struct Session<'a> {
    shared: &'a Arc<Shared>,
    lines: &'a Arc<Lines>,
    task: &'a Task,
    register: SeatRegister,
    epoch: u64,
    /// Of the next entry.
    number: u64,
    /// Of the last entry that counts.
    counted: Option<u64>,
    /// Of entries that count, oldest first.
    tags: Vec<u64>,
    /// Who waits for an entry to count.
    asked: VecDeque<(u64, u64, Asker)>,
    feed: Option<Reader>,
    /// What was read and did not fit.
    stash: VecDeque<(u64, streams::Read)>,
    /// When an entry of ours came back last, or one was written after a pause.
    counted_at: Instant,
    /// When the stream was heard of last, or looked at.
    read_at: Instant,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        lines: &'a Arc<Lines>,
        task: &'a Task,
        register: SeatRegister,
        epoch: u64,
    ) -> Self {
        Self {
            shared,
            lines,
            task,
            register,
            epoch,
            number: 0,
            counted: None,
            tags: Vec::new(),
            asked: VecDeque::new(),
            feed: None,
            stash: VecDeque::new(),
            counted_at: Instant::now(),
            read_at: Instant::now(),
        }
    }

    /// Lets the next in line hold.
    pub(super) async fn release(self) {
        self.register.release().await;
    }

    /// Begins an epoch with what was found. False when the queue was deleted meanwhile.
    pub(super) async fn take_over(&mut self, found: Found<Progress, Request>) -> Result<bool> {
        let Found {
            entries,
            tags,
            requests,
        } = found;
        let is_ours = entries
            .last()
            .is_some_and(|last| last.by == self.task.writer);
        let base = Progress::fold(self.task.seat.start, entries);
        self.append(Progress::whole(&base)).await?;
        let mut waiting = requests;
        while self.counted.is_none() {
            match self.register.next().await? {
                Heard::Entry { tag, entry } if self.is_mine(&entry) => {
                    self.counted = Some(entry.number);
                    self.tags.push(tag);
                }
                Heard::Entry { tag, .. } => self.register.acknowledge(&[tag]).await?,
                Heard::Request {
                    tag,
                    request,
                    asker,
                } => waiting.push((tag, request, asker)),
                Heard::Probe(_) => {}
                Heard::End => return Ok(false),
            }
        }
        self.register.acknowledge(&tags).await?;
        self.task.seat.resume(is_ours, base, self.epoch);
        for (tag, request, asker) in waiting {
            self.asked(tag, request, asker).await?;
        }
        Ok(true)
    }

    fn is_mine(&self, entry: &Entry<Progress>) -> bool {
        entry.epoch == self.epoch && entry.by == self.task.writer
    }

    /// Of the entry that is to come back next.
    fn awaited(&self) -> u64 {
        self.counted.map_or(0, |number| number + 1)
    }

    fn is_waiting(&self) -> bool {
        self.awaited() < self.number
    }

    async fn append(&mut self, body: Progress) -> Result<()> {
        if !self.is_waiting() {
            self.counted_at = Instant::now();
        }
        let number = self.number;
        self.number += 1;
        let entry = Entry {
            epoch: self.epoch,
            number,
            by: self.task.writer.clone(),
            body,
        };
        self.register.append(entry).await
    }

    /// Serves until the seat is not needed any more; false when the queue is gone.
    pub(super) async fn run(&mut self, closing: &mut watch::Receiver<bool>) -> Result<bool> {
        loop {
            within(self.lines, async {
                self.write().await?;
                self.load().await
            })
            .await?;
            let now = self.task.seat.clock.monotonic();
            let timer = {
                let state = self.task.seat.lock();
                state
                    .machine
                    .as_ref()
                    .and_then(|machine| machine.next_timer())
            };
            let due = timer.map_or(IDLE, |at| at.saturating_sub(now)).min(IDLE);
            let until = Instant::now() + due;
            let is_waiting = self.is_waiting();
            let is_hungry = self.stash.is_empty();
            let is_reading = is_hungry && self.feed.is_some();
            tokio::select! {
                heard = self.register.next() => {
                    if !within(self.lines, self.heard(heard?)).await? {
                        return Ok(false);
                    }
                }
                read = next(&mut self.feed), if is_hungry => {
                    self.read_at = Instant::now();
                    self.stash.push_back(read?);
                    while self.stash.len() < STASH
                        && let Some(feed) = &mut self.feed
                        && let Some(read) = feed.next_now()?
                    {
                        self.stash.push_back(read);
                    }
                }
                () = self.task.seat.wake.notified() => {}
                () = time::sleep_until(until) => self.tick(),
                () = closed(closing) => return Ok(true),
                () = time::sleep_until(self.counted_at + LOST), if is_waiting => {
                    if !self.lines.is_blocked() {
                        return Err(lost());
                    }
                    self.counted_at = Instant::now();
                }
                () = time::sleep_until(self.read_at + QUIET), if is_reading => within(self.lines, self.look()).await?,
            }
        }
    }

    fn tick(&self) {
        let seat = &self.task.seat;
        seat.step(&mut seat.lock(), Input::Tick);
        seat.tell();
    }

    /// Handles what came from the register; false when the queue is gone.
    async fn heard(&mut self, heard: Heard<Progress, Request>) -> Result<bool> {
        match heard {
            Heard::Entry { tag, entry } if self.is_mine(&entry) => {
                // Those that were written before it lie before it, or are lost.
                if entry.number != self.awaited() {
                    return Err(lost());
                }
                (self.counted, self.counted_at) = (Some(entry.number), Instant::now());
                self.task.seat.counts(entry.number);
                if entry.body.is_whole() {
                    let old = std::mem::take(&mut self.tags);
                    self.register.acknowledge(&old).await?;
                }
                self.tags.push(tag);
                while let Some((number, _, _)) = self.asked.front()
                    && *number <= entry.number
                    && let Some((_, tag, asker)) = self.asked.pop_front()
                {
                    register::answer(self.register.channel(), &asker, &Answer::default()).await?;
                    self.register.acknowledge(&[tag]).await?;
                }
            }
            // Of a holder that was replaced: it was too late.
            Heard::Entry { tag, .. } => self.register.acknowledge(&[tag]).await?,
            Heard::Request {
                tag,
                request,
                asker,
            } => self.asked(tag, request, asker).await?,
            Heard::Probe(_) => {}
            Heard::End => return Ok(false),
        }
        Ok(true)
    }

    async fn asked(&mut self, tag: u64, request: Request, asker: Asker) -> Result<()> {
        let seat = &self.task.seat;
        match request {
            Request::State => {
                self.register.acknowledge(&[tag]).await?;
                let (lines, seat) = (Arc::clone(self.lines), Arc::clone(seat));
                let channel = self.register.channel().clone();
                // Looking for the end of the stream takes a moment.
                tokio::spawn(async move {
                    let answer = async {
                        let end = streams::end(&lines, &seat.stream).await?;
                        register::answer(&channel, &asker, &seat.answer(end)).await
                    };
                    if let Err(error) = answer.await {
                        tracing::debug!(engine = ENGINE, detail = error.detail(), "no answer");
                    }
                });
            }
            Request::Progress => {
                let answer = Answer {
                    progress: Some(seat.progress()),
                    ..Answer::default()
                };
                register::answer(self.register.channel(), &asker, &answer).await?;
                self.register.acknowledge(&[tag]).await?;
            }
            Request::Seek(offset) => {
                seat.seek(offset);
                (self.feed, self.stash) = (None, VecDeque::new());
                let whole = seat.lock().whole(seat.clock.monotonic());
                self.asked.push_back((self.number, tag, asker));
                self.append(whole).await?;
                seat.tell();
            }
            Request::Configure(version, config) => {
                seat.configure(version, config.config());
                self.register.acknowledge(&[tag]).await?;
            }
        }
        Ok(())
    }

    /// Writes what the outbox holds.
    async fn write(&mut self) -> Result<()> {
        let seat = &self.task.seat;
        let (entry, dead) = {
            let mut state = seat.lock();
            let dead = std::mem::take(&mut state.outbox.dead);
            let is_empty = state.outbox.settled.is_empty() && state.outbox.retries.is_empty();
            let entry = if is_empty || state.under_way.len() >= UNDER_WAY {
                None
            } else if self.tags.len() >= ENTRIES {
                // With what the outbox held, which `entry` has put under way.
                state.entry(self.number);
                Some(state.whole(seat.clock.monotonic()))
            } else {
                Some(state.entry(self.number))
            };
            (entry, dead)
        };
        for letter in dead {
            let (shared, seat) = (Arc::clone(self.shared), Arc::clone(seat));
            tokio::spawn(async move {
                let sent = shared.bury(&letter.topic, letter.message).await;
                if let Err(error) = &sent {
                    tracing::warn!(engine = ENGINE, topic = %letter.topic, detail = error.detail(), "a dead letter was not taken; trying again");
                }
                seat.buried(letter.offset, letter.token, sent.is_ok());
            });
        }
        match entry {
            Some(entry) => {
                if seat.lock().under_way.len() <= 1 {
                    self.counted_at = Instant::now();
                }
                self.append(entry).await
            }
            None => Ok(()),
        }
    }

    /// Feeds the machine while there are consumers.
    async fn load(&mut self) -> Result<()> {
        let seat = &self.task.seat;
        if self.feed.is_none() && self.task.consumers.load(Ordering::Relaxed) > 0 {
            let from = From::Before(seat.wanted());
            let reader = Reader::open(self.lines, &seat.stream, seat.partition, from).await?;
            self.feed = Some(reader);
            self.read_at = Instant::now();
        }
        if let Some(feed) = &mut self.feed {
            let mut known = None;
            loop {
                let before = self.stash.len();
                let (last, gap) = seat.load(&mut self.stash, known);
                if let Some(tag) = last {
                    feed.handled(tag, before - self.stash.len()).await?;
                }
                if gap.is_none() {
                    break;
                }
                known = gap;
                let first = streams::extent(self.lines, &seat.stream).await?.range.start;
                if first > seat.wanted() {
                    seat.trim(first);
                }
            }
        }
        Ok(())
    }

    /// Nothing came from the stream for a while. If there is more in it, the broker has forgotten that we read it.
    async fn look(&mut self) -> Result<()> {
        let seat = &self.task.seat;
        self.read_at = Instant::now();
        if streams::end(self.lines, &seat.stream).await? > seat.wanted() {
            tracing::debug!(
                engine = ENGINE,
                stream = seat.stream,
                "reading anew what does not come"
            );
            self.feed = None;
        }
        Ok(())
    }

    /// Writes the rest and waits until it counts.
    pub(super) async fn finish(&mut self) -> Result<()> {
        loop {
            self.write().await?;
            let is_done = {
                let state = self.task.seat.lock();
                state.under_way.is_empty()
                    && state.outbox.settled.is_empty()
                    && state.outbox.retries.is_empty()
            };
            if is_done {
                return Ok(());
            }
            let heard = self.register.next().await?;
            if !self.heard(heard).await? {
                return Ok(());
            }
        }
    }
}

async fn next(feed: &mut Option<Reader>) -> Result<(u64, streams::Read)> {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}

/// Lets the broker take its time, but not for ever, unless it has said that it takes nothing now.
async fn within<T>(lines: &Lines, step: impl Future<Output = Result<T>>) -> Result<T> {
    let mut step = pin!(step);
    loop {
        match time::timeout(STEP, &mut step).await {
            Ok(answer) => return answer,
            Err(_) if lines.is_blocked() && lines.is_alive() => {}
            Err(_) => return Err(fault::timeout(ENGINE, STEP)),
        }
    }
}
