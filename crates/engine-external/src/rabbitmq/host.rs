//! What runs a group on this node: its seats, and a task for each that stands in line for its register.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{options::BasicConsumeOptions, types::FieldTable};
use sinew_core::{Backoff, Error, Kind, Result};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    ENGINE, Shared,
    intake::Intake,
    link::Lines,
    progress::{Answer, Progress, Request},
    register::{self, Register},
    seat::{Seat, Seats},
    session::{self, Session},
};
use crate::fault;

pub(super) type SeatRegister = Register<Progress, Request>;

/// How long a seat that is left waits for what it has written.
const FAREWELL: Duration = Duration::from_secs(2);
/// When a node in line asks the holder for the first time, and when one that did not answer is asked again.
const ASK_SOON: Duration = Duration::from_secs(3);
/// How often it asks after that.
const ASK: Duration = Duration::from_secs(20);
/// A session that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(10);

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

pub(super) struct Task {
    shared: Weak<Shared>,
    pub(super) seat: Arc<Seat>,
    closing: watch::Receiver<bool>,
    pub(super) consumers: Arc<AtomicU64>,
    /// Signs what this seat writes.
    pub(super) writer: String,
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
            let mut closing = self.closing.clone();
            let lines = tokio::select! {
                lines = shared.link.ready() => lines,
                () = closed(&mut closing) => return,
            };
            let begun = Instant::now();
            let ended = self.session(&shared, &lines).await;
            drop(shared);
            if begun.elapsed() > GOOD {
                backoff.reset();
            }
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
            return self.missing(shared).await;
        };
        let mut closing = self.closing.clone();
        let found = tokio::select! {
            found = register.hold() => found?,
            error = self.watch(shared, lines) => return Err(error),
            () = closed(&mut closing) => {
                register.release().await;
                return Ok(End::Left);
            }
        };
        let Some(found) = found else {
            return self.why_ended(shared).await;
        };
        let epoch = found.next_epoch();
        let mut session = Session::new(shared, lines, self, register, epoch);
        let begun = time::timeout(session::LOST, session.take_over(found)).await;
        let begun = begun.unwrap_or_else(|_| Err(session::lost()));
        if !begun? {
            return self.why_ended(shared).await;
        }
        self.seat.set_held(true);
        if !session.run(&mut closing).await? {
            return self.why_ended(shared).await;
        }
        self.seat.set_held(false);
        let farewell = time::timeout(FAREWELL, session.finish()).await;
        if !matches!(farewell, Ok(Ok(()))) {
            tracing::debug!(engine = ENGINE, queue = self.seat.queue, "left in a hurry");
        }
        session.release().await;
        Ok(End::Left)
    }

    /// While another node holds the register: asks it how far it is, so that what is with consumers here does not stay with
    /// them for ever. Answers when nobody is there who answers.
    async fn watch(&self, shared: &Shared, lines: &Lines) -> Error {
        let (mut pause, mut silent) = (ASK_SOON, 0);
        loop {
            time::sleep(pause).await;
            let asking = ask(shared, &self.seat.queue, &Request::Progress);
            match time::timeout(shared.link.timeout, asking).await {
                Ok(Ok(Answer {
                    progress: Some(progress),
                    ..
                })) => {
                    self.seat.stand_by(progress.snapshot(self.seat.start));
                    (pause, silent) = (ASK, 0);
                }
                // Nobody is to blame.
                _ if lines.is_blocked() => {}
                _ => (pause, silent) = (ASK_SOON, silent + 1),
            }
            if silent == 2 {
                return fault::unavailable(ENGINE, "nobody holds the register");
            }
        }
    }

    /// The consumer was cancelled: the queue was deleted, or the connection is going. Only the catalogue is asked: a broker
    /// that is asked for a queue which it is just deleting may end the connection.
    async fn why_ended(&self, shared: &Arc<Shared>) -> Result<End> {
        if self.is_deleted(shared).await? {
            return Ok(End::Deleted);
        }
        Err(fault::unavailable(ENGINE, "the register was taken away"))
    }

    /// There is no such queue. That the group was deleted is for the catalogue to say.
    async fn missing(&self, shared: &Arc<Shared>) -> Result<End> {
        if self.is_deleted(shared).await? {
            return Ok(End::Deleted);
        }
        let why = "the queue of a group is not there, though the group is";
        tracing::warn!(engine = ENGINE, queue = self.seat.queue, "{why}");
        Err(fault::unavailable(ENGINE, why))
    }

    async fn is_deleted(&self, shared: &Arc<Shared>) -> Result<bool> {
        let seat = &self.seat;
        match shared.look(&seat.topic).await {
            Ok(topic) => Ok(!topic.group(&seat.group).is_ok_and(|group| {
                let queues = group.queues(&shared.namespace, &seat.group);
                queues.contains(&seat.queue)
            })),
            Err(error) if error.kind() == Kind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = closing.wait_for(|closing| *closing).await;
}
