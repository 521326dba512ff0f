//! The one task of an instance that writes: it takes what waits, reads what that needs to know, judges
//! it, and writes what follows, in one transaction for all.
//!
//! Several instances write by the rules of optimistic concurrency control (Kung and Robinson, "On
//! Optimistic Methods for Concurrency Control", 1981): the row `head` has a version that every batch
//! counts up, and a batch is written by one statement, if the version is still the one that was read. So
//! no lock is held while the database waits for an instance, and one that stands still stops nobody.
//! Who lost a race takes the row's lock first for the next batches: locks are granted in turn,
//! so that a far instance gets its turn beside near ones.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use sinew_core::{Backoff, Result};
use sqlx::{PgConnection, Row};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    Shared,
    command::{Command, Reply, Request},
    feed::Commit,
    judge::{Questions, Staged, judge},
    server::Trouble,
    statement::{self, BatchId},
};

/// What one batch may hold; the first command is always taken.
const BATCH_COMMANDS: usize = 2048;
const BATCH_OPERATIONS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;
/// For so many batches after a lost race the lock is taken first.
const CAUTIOUS: u32 = 16;
/// So often a batch is tried anew when the server said that nothing happened.
const ATTEMPTS: u32 = 10;

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
    /// Taken from the queue, not fitting into the last batch.
    waiting: VecDeque<Command>,
    connection: Option<PgConnection>,
    node: i64,
    batch: i64,
    cautious: u32,
}

/// What became of an attempt.
enum Fate {
    /// Done, or nothing had to be done.
    Written(Vec<Result<Reply>>, Staged),
    /// Another writer came first.
    Raced,
    /// Nothing was written.
    Failed(Trouble),
    /// Nobody knows yet.
    Unknown(Trouble, Vec<Result<Reply>>, Staged),
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Command>, node: i64) -> Self {
        Self {
            shared,
            queue,
            waiting: VecDeque::new(),
            connection: None,
            node,
            batch: 0,
            cautious: 0,
        }
    }

    pub(super) async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            self.write(batch).await;
        }
    }

    /// What waits, as much as fits; waits for the first. `None` when the store is closed.
    async fn next_batch(&mut self) -> Option<Vec<Command>> {
        if self.waiting.is_empty() {
            let command = self.queue.recv().await?;
            self.waiting.push_back(command);
        }
        while self.waiting.len() < BATCH_COMMANDS
            && let Ok(command) = self.queue.try_recv()
        {
            self.waiting.push_back(command);
        }
        let (mut batch, mut bytes, mut operations) = (Vec::new(), 0, 0);
        while let Some(command) = self.waiting.front() {
            bytes += command.bytes;
            operations += command.operations();
            let is_full = batch.len() >= BATCH_COMMANDS
                || bytes > BATCH_BYTES
                || operations > BATCH_OPERATIONS;
            if is_full && !batch.is_empty() {
                break;
            }
            batch.extend(self.waiting.pop_front());
        }
        Some(batch)
    }

    /// Sees a batch to its end.
    async fn write(&mut self, mut batch: Vec<Command>) {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        loop {
            // Who has given up was told that the fate is unknown: "nothing happened" is a true one.
            batch.retain(|command| !command.is_given_up());
            if batch.is_empty() {
                return;
            }
            let trouble = match self.attempt(&batch).await {
                Fate::Written(replies, staged) => return self.finish(batch, replies, staged),
                Fate::Raced => {
                    self.cautious = CAUTIOUS;
                    continue;
                }
                Fate::Unknown(trouble, replies, staged) => {
                    tracing::debug!(reason = trouble.reason(), "finding out a batch's fate");
                    match self.find_out(&batch).await {
                        Some(true) => return self.finish(batch, replies, staged),
                        Some(false) => trouble,
                        None => return,
                    }
                }
                Fate::Failed(trouble) => trouble,
            };
            for command in &batch {
                command.set_sent(false);
            }
            let can_be_tried = match trouble {
                // Until the callers have given up.
                Trouble::Away(_) => true,
                Trouble::Again(_) => backoff.attempts() < ATTEMPTS,
                _ => false,
            };
            if !can_be_tried {
                for command in batch {
                    command.answer(Err(trouble.error()));
                }
                return;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn finish(&mut self, batch: Vec<Command>, replies: Vec<Result<Reply>>, staged: Staged) {
        let revision = staged.revision;
        let has_changes = !staged.changes.is_empty();
        for (command, reply) in batch.into_iter().zip(replies) {
            command.answer(reply);
        }
        if !has_changes {
            return;
        }
        if !self.shared.feed.publish(Commit::of(staged)) {
            self.shared.fetch.notify_one();
        }
        self.shared.committed(revision);
    }

    async fn attempt(&mut self, batch: &[Command]) -> Fate {
        let requests = || batch.iter().map(|command| &command.request);
        let questions = Questions::of(requests());
        // The renewals of leases that end must stand still from the reading to the writing.
        let is_cautious = self.cautious > 0 || !questions.expiring.is_empty();
        self.cautious = self.cautious.saturating_sub(1);
        let limit = self.shared.server.timeout;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.shared.server.connect().await {
                Ok(connection) => connection,
                Err(trouble) => return Fate::Failed(trouble),
            },
        };
        let reading = async {
            if is_cautious {
                lock(&mut connection, &questions).await?;
            }
            statement::view(&mut connection, &questions).await
        };
        let view = match timeout(limit, reading).await {
            Ok(Ok(view)) => view,
            // The connection is dropped, and with it the transaction.
            Ok(Err(trouble)) => return Fate::Failed(trouble),
            Err(_) => return Fate::Failed(no_answer()),
        };
        let (replies, staged) = judge(&view, requests());
        if !staged.is_empty() {
            for command in batch {
                command.set_sent(true);
            }
        }
        self.batch += 1;
        let id = BatchId {
            node: self.node,
            batch: self.batch,
        };
        let writing = async {
            let written = staged.is_empty()
                || statement::apply(&mut connection, view.version, id, &staged).await?;
            if is_cautious {
                let end = if written { "COMMIT" } else { "ROLLBACK" };
                sqlx::raw_sql(end).execute(&mut connection).await?;
            }
            Ok::<bool, Trouble>(written)
        };
        let trouble = match timeout(limit, writing).await {
            Ok(Ok(written)) => {
                self.connection = Some(connection);
                if written {
                    return Fate::Written(replies, staged);
                }
                return Fate::Raced;
            }
            Ok(Err(trouble)) => trouble,
            Err(_) => no_answer(),
        };
        if staged.is_empty() {
            return Fate::Failed(trouble);
        }
        match trouble {
            Trouble::Away(_) => Fate::Unknown(trouble, replies, staged),
            // The server said that the statement failed, and with it the transaction.
            trouble => Fate::Failed(trouble),
        }
    }

    /// Whether the last batch was written, after the connection broke in the middle of it. `None` when
    /// nobody waits for it any more.
    ///
    /// The statement may still be under way, in the server or before it. So the version is counted up
    /// first: that waits for a statement that has begun, and one that comes later finds another version.
    async fn find_out(&mut self, batch: &[Command]) -> Option<bool> {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        while batch.iter().any(|command| !command.is_given_up()) {
            let asking = async {
                let mut connection = self.shared.server.connect().await?;
                sqlx::raw_sql("UPDATE head SET version = version + 1")
                    .execute(&mut connection)
                    .await?;
                let row = sqlx::query("SELECT batch FROM writers WHERE node = $1")
                    .bind(self.node)
                    .fetch_optional(&mut connection)
                    .await?;
                let last = row.map(|row| row.try_get::<i64, _>(0)).transpose()?;
                Ok::<_, Trouble>((connection, last == Some(self.batch)))
            };
            match timeout(self.shared.server.timeout, asking).await {
                Ok(Ok((connection, written))) => {
                    self.connection = Some(connection);
                    return Some(written);
                }
                Ok(Err(trouble)) => {
                    tracing::debug!(reason = trouble.reason(), "a batch's fate is still unknown");
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        None
    }
}

/// Begins a transaction that nobody else can write beside.
async fn lock(connection: &mut PgConnection, questions: &Questions) -> Result<(), Trouble> {
    sqlx::raw_sql("BEGIN; SELECT FROM head FOR NO KEY UPDATE")
        .execute(&mut *connection)
        .await?;
    if !questions.expiring.is_empty() {
        let leases: Vec<i64> = questions.expiring.iter().copied().collect();
        sqlx::query("SELECT FROM renewals WHERE lease = ANY($1) ORDER BY lease FOR UPDATE")
            .bind(leases)
            .execute(connection)
            .await?;
    }
    Ok(())
}

fn no_answer() -> Trouble {
    Trouble::Away("no answer in time".to_owned())
}

/// Passes a request to the writer and waits for its answer.
pub(super) async fn ask(shared: &Shared, request: Request, bytes: usize) -> Result<Reply> {
    use sinew_core::{Error, Kind};

    let until = Instant::now() + shared.server.timeout;
    let queued = async {
        let bytes = bytes.min(super::QUEUE_BYTES);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let budget = Arc::clone(&shared.budget);
        let budget = budget.acquire_many_owned(permits).await.ok()?;
        let commands = shared.commands()?;
        let place = commands.reserve_owned().await.ok()?;
        let (command, pending) = Command::new(request, bytes, budget);
        place.send(command);
        Some(pending)
    };
    let mut pending = match tokio::time::timeout_at(until, queued).await {
        Ok(Some(pending)) => pending,
        Ok(None) => return Err(super::feed::closed()),
        Err(_) if shared.server.health().borrow().is_up() => {
            return Err(Error::new(
                Kind::ResourceExhausted,
                "kv.overloaded",
                "the store has more to write than it can; nothing was written, try again later",
            ));
        }
        Err(_) => return Err(shared.server.gave_up()),
    };
    match tokio::time::timeout_at(until, &mut pending.answer).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err(super::feed::closed())),
        Err(_) if pending.was_sent() => Err(crate::fault::timeout(
            super::server::ENGINE,
            shared.server.timeout,
        )),
        Err(_) => Err(shared.server.gave_up()),
    }
}
