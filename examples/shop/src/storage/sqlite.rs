//! A SQLite database behind an async door.
//!
//! One thread owns the connection that writes, two own connections that read; closures go to them
//! through bounded queues, so no async thread ever blocks on the disk, and a full queue answers
//! `shop.store_busy` instead of growing. Replicas of a service open the same file: SQLite's own lock
//! lets one of them write at a time.
//!
//! The writer takes all that is queued into one transaction, each closure in a savepoint of its own:
//! it fails alone, and one fsync makes all of them durable. Nobody is answered before that fsync.
//! (The alternative, a transaction each, is bound by the disk's fsyncs per second.)

mod connection;
mod jobs;
#[cfg(test)]
mod tests;

use std::{path::Path, time::Duration};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::Connection;
use sinew_core::{Error, Kind};
use tokio::sync::oneshot;

use crate::fault::{Fault, Result};
use jobs::{Job, Pending};

/// How many closures may wait for each of writing and reading.
const QUEUE: usize = 512;
/// How many of them one transaction takes at most.
const GROUP: usize = 64;
const READERS: usize = 2;

/// A handle to one database; clones share its threads, which end when the last clone is gone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    writes: Sender<Box<dyn Job>>,
    reads: Sender<Box<dyn Job>>,
}

impl Store {
    /// Opens the database at `path`, makes it when it is not there, and brings its schema up to the
    /// last of `migrations`; any number of processes may do so at once. Blocks. A migration is never
    /// changed once it was released: a change is one more migration.
    ///
    /// Errors: `shop.store_version` when a newer version of the shop wrote it, `shop.store_failed`.
    pub(crate) fn open(path: &Path, migrations: &[Migration]) -> Result<Self> {
        let mut writer = connection::open(path, true)?;
        connection::migrate(&mut writer, migrations)?;
        let (writes, queue) = bounded(QUEUE);
        start("store-write", move || write_loop(&writer, &queue))?;
        let (reads, queue) = bounded(QUEUE);
        for _ in 0..READERS {
            let (reader, queue) = (connection::open(path, false)?, queue.clone());
            start("store-read", move || read_loop(&reader, &queue))?;
        }
        Ok(Self { writes, reads })
    }

    /// Runs `work` in a transaction that is on disk when this answers. An error takes back what the
    /// closure did. When the caller stops waiting, it may or may not have happened.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run(&self.writes, work).await
    }

    /// Runs `work` on one consistent state of the database. It cannot write.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run(&self.reads, work).await
    }
}

/// One step of a schema: SQL, or code for what SQL cannot say.
pub(crate) enum Migration {
    Sql(&'static str),
    Code(fn(&Connection) -> Result<()>),
}

async fn run<T: Send + 'static>(
    queue: &Sender<Box<dyn Job>>,
    work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, result) = oneshot::channel();
    match queue.try_send(Box::new(Pending::new(work, reply))) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return Err(busy("too many requests wait for it")),
        Err(TrySendError::Disconnected(_)) => return Err(stopped()),
    }
    result.await.unwrap_or_else(|_| Err(stopped()))
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| failed("its threads cannot be started").with_source(error))
}

fn write_loop(connection: &Connection, queue: &Receiver<Box<dyn Job>>) {
    while let Ok(first) = queue.recv() {
        let mut group = vec![first];
        group.extend(queue.try_iter().take(GROUP - 1));
        let outcome = write_group(connection, &mut group);
        if outcome.is_err() && !connection.is_autocommit() {
            // Without effect when SQLite has already rolled back by itself.
            let _ = connection.execute_batch("ROLLBACK");
        }
        for job in group {
            job.answer(outcome.as_ref().err().map(Fault::from));
        }
    }
}

fn write_group(connection: &Connection, group: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    let run = |sql: &str| connection.prepare_cached(sql)?.execute([]).map(drop);
    run("BEGIN IMMEDIATE")?;
    for job in group {
        run("SAVEPOINT job")?;
        if !job.run(connection) {
            run("ROLLBACK TO job")?;
        }
        run("RELEASE job")?;
    }
    run("COMMIT")
}

fn read_loop(connection: &Connection, queue: &Receiver<Box<dyn Job>>) {
    while let Ok(mut job) = queue.recv() {
        let outcome = connection.unchecked_transaction().map(|_transaction| {
            job.run(connection);
        });
        job.answer(outcome.as_ref().err().map(Fault::from));
    }
}

fn busy(reason: &str) -> Fault {
    Fault::unavailable(
        "shop.store_busy",
        format!("the database is busy, {reason}; try again in a moment"),
        Duration::from_secs(1),
    )
}

fn stopped() -> Fault {
    Fault::unavailable(
        "shop.store_busy",
        "the database is shutting down",
        Duration::from_secs(1),
    )
}

fn failed(reason: &str) -> Fault {
    Fault::new(
        Kind::Internal,
        "shop.store_failed",
        format!("the database does not work: {reason}"),
    )
}

impl From<&rusqlite::Error> for Fault {
    fn from(error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        match error.sqlite_error_code() {
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
                busy("another process writes").with_source(error.to_string())
            }
            Some(Code::DiskFull) => {
                Error::new(Kind::Unavailable, "shop.store_full", "the disk is full").into()
            }
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Error::new(
                Kind::DataLoss,
                "shop.store_corrupt",
                "the database is damaged",
            )
            .with_source(error.to_string())
            .into(),
            _ => failed("see the log").with_source(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::from(&error)
    }
}
