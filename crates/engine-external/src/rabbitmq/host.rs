//! What runs a group on this node: its seats, and a task for each that stands in line for its register.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{options::BasicConsumeOptions, types::FieldTable};
use sinew_core::{Backoff, Result};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    ENGINE, Shared,
    intake::Intake,
    register::{self, Asker, Entry, Found, Heard, Register},
    seat::{Answer, Progress, Request, Seat, Seats},
    streams::{self, From, Reader},
};
use crate::fault;

type SeatRegister = Register<Progress, Request>;

/// Entries that may be on their way to the register.
const UNDER_WAY: usize = 8;
/// After so many entries the whole value is written, and the old ones are acknowledged.
const ENTRIES: usize = 64;
/// Records that are read ahead of the machine.
const STASH: usize = 256;
/// How long a seat that is left waits for what it has written.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long an entry may take to come back.
const LOST: Duration = Duration::from_secs(5);
/// How long a task sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// A group on this node. Its tasks end when it is dropped.
pub(super) struct Host {
    pub(super) seats: Seats,
    pub(super) changed: watch::Sender<()>,
    pub(super) consumers: Arc<AtomicU64>,
    next_consumer: AtomicU64,
    closing: watch::Sender<bool>,
}

impl Host {
    pub(super) fn start(
        shared: &Arc<Shared>,
        seats: Seats,
        changed: watch::Sender<()>,
    ) -> Arc<Self> {
        let (closing, _) = watch::channel(false);
        let consumers = Arc::new(AtomicU64::new(0));
        for seat in &seats {
            let task = Task {
                shared: Arc::downgrade(shared),
                seat: Arc::clone(seat),
                closing: closing.subscribe(),
                consumers: Arc::clone(&consumers),
                writer: super::token(),
            };
            tokio::spawn(task.run());
        }
        Arc::new(Self {
            seats,
            changed,
            consumers,
            next_consumer: AtomicU64::new(1),
            closing,
        })
    }

    pub(super) fn join(&self) -> u64 {
        self.consumers.fetch_add(1, Ordering::Relaxed);
        for seat in &self.seats {
            seat.wake.notify_one();
        }
        self.next_consumer.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn leave(&self, consumer: u64) {
        self.consumers.fetch_sub(1, Ordering::Relaxed);
        for seat in &self.seats {
            seat.leave(consumer);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

/// Asks whoever holds a seat, which may be this node.
pub(super) async fn ask(shared: &Shared, queue: &str, request: &Request) -> Result<Answer> {
    let lines = shared.link.lines().await?;
    let channel = lines.channel().await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let replies = "amq.rabbitmq.reply-to";
    let mut answers = Intake::open(channel, replies, options, FieldTable::default()).await?;
    let correlation = super::token();
    let lives = shared.link.timeout;
    register::ask(&answers.channel, queue, request, Some(&correlation), lives).await?;
    let answer = answers.next().await?;
    let answer = answer.ok_or_else(|| fault::unavailable(ENGINE, "the connection broke"))?;
    answers.close().await;
    serde_json::from_slice(&answer.data)
        .map_err(|why| fault::unexpected(ENGINE, format!("the answer of a seat: {why}")))
}

struct Task {
    shared: Weak<Shared>,
    seat: Arc<Seat>,
    closing: watch::Receiver<bool>,
    consumers: Arc<AtomicU64>,
    /// Signs what this seat writes.
    writer: String,
}

/// Why a session ended.
enum End {
    /// The group, or its topic, was deleted.
    Deleted,
    /// The seat is not needed any more.
    Left,
}

impl Task {
    /// Holds the register, or waits for it, again and again.
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            let session = async {
                let lines = shared.link.connected().await;
                self.session(&shared, &lines).await
            };
            let ended = session.await;
            drop(shared);
            self.seat.set_held(false);
            match ended {
                Ok(End::Left) => return,
                Ok(End::Deleted) => {
                    self.seat.end();
                    return;
                }
                Err(error) => {
                    tracing::debug!(
                        engine = ENGINE,
                        queue = self.seat.queue,
                        detail = error.detail(),
                        "lost"
                    );
                }
            }
            tokio::select! {
                () = time::sleep(backoff.next_delay()) => {}
                () = closed(&mut self.closing) => return,
            }
        }
    }

    async fn session(
        &mut self,
        shared: &Arc<Shared>,
        lines: &Arc<super::link::Lines>,
    ) -> Result<End> {
        let Some(mut register) = SeatRegister::attach(lines, &self.seat.queue).await? else {
            return Ok(End::Deleted);
        };
        let mut closing = self.closing.clone();
        let found = tokio::select! {
            found = register.hold() => found?,
            () = closed(&mut closing) => {
                register.release().await;
                return Ok(End::Left);
            }
        };
        let Some(found) = found else {
            return self.why_ended(lines).await;
        };
        let mut session = Session {
            shared,
            lines,
            task: self,
            epoch: found.next_epoch(),
            number: 0,
            counted: None,
            tags: Vec::new(),
            asked: VecDeque::new(),
            feed: None,
            stash: VecDeque::new(),
            heard_at: Instant::now(),
            register,
        };
        let begun = time::timeout(LOST, session.take_over(found)).await;
        let begun = begun.unwrap_or_else(|_| Err(lost()));
        if !begun? {
            return self.why_ended(lines).await;
        }
        session.task.seat.set_held(true);
        if !session.run(&mut closing).await? {
            return self.why_ended(lines).await;
        }
        session.task.seat.set_held(false);
        let farewell = time::timeout(FAREWELL, session.finish()).await;
        if !matches!(farewell, Ok(Ok(()))) {
            tracing::debug!(
                engine = ENGINE,
                queue = session.task.seat.queue,
                "left in a hurry"
            );
        }
        session.register.release().await;
        Ok(End::Left)
    }

    /// The consumer was cancelled: the queue was deleted, or the connection is going.
    async fn why_ended(&self, lines: &super::link::Lines) -> Result<End> {
        if SeatRegister::attach(lines, &self.seat.queue)
            .await?
            .is_none()
        {
            return Ok(End::Deleted);
        }
        Err(fault::unavailable(ENGINE, "the register was taken away"))
    }
}

/// An entry did not come back: the queue had no leader and lost it. Holding the register anew writes it again.
fn lost() -> sinew_core::Error {
    fault::unavailable(ENGINE, "an entry was lost")
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// The time in which this node holds a seat.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    lines: &'a Arc<super::link::Lines>,
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
    /// When the register was heard of last, or something was written after a pause.
    heard_at: Instant,
}

impl Session<'_> {
    /// Begins an epoch with what was found. False when the queue was deleted meanwhile.
    async fn take_over(&mut self, found: Found<Progress, Request>) -> Result<bool> {
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

    async fn append(&mut self, body: Progress) -> Result<()> {
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
    async fn run(&mut self, closing: &mut watch::Receiver<bool>) -> Result<bool> {
        loop {
            self.write().await?;
            self.load().await?;
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
            let is_waiting = !self.task.seat.lock().under_way.is_empty();
            let is_hungry = self.stash.is_empty();
            tokio::select! {
                heard = self.register.next() => {
                    self.heard_at = Instant::now();
                    if !self.heard(heard?).await? {
                        return Ok(false);
                    }
                }
                read = next(&mut self.feed), if is_hungry => {
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
                () = time::sleep_until(self.heard_at + LOST), if is_waiting => return Err(lost()),
            }
        }
    }

    fn tick(&self) {
        let seat = &self.task.seat;
        seat.step(&mut seat.lock(), sinew_engine::bus::group::Input::Tick);
        seat.changed.send_replace(());
    }

    /// Handles what came from the register; false when the queue is gone.
    async fn heard(&mut self, heard: Heard<Progress, Request>) -> Result<bool> {
        match heard {
            Heard::Entry { tag, entry } if self.is_mine(&entry) => {
                self.counted = Some(entry.number);
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
            Request::Seek(offset) => {
                seat.seek(offset);
                (self.feed, self.stash) = (None, VecDeque::new());
                let whole = seat.lock().whole(seat.clock.monotonic());
                self.asked.push_back((self.number, tag, asker));
                self.append(whole).await?;
                seat.changed.send_replace(());
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
                    self.heard_at = Instant::now();
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

    /// Writes the rest and waits until it counts.
    async fn finish(&mut self) -> Result<()> {
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
