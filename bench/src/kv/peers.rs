//! The other stores, each behind one thread that writes what waits as one transaction.

use std::{path::Path, thread};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{mpsc, oneshot};

use super::stores::{Store, Transaction};

/// Transactions in one group, at most.
const GROUP: usize = 2048;
const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");

type Answer = oneshot::Sender<bool>;
pub(super) type Queue = mpsc::Sender<(Transaction, Answer)>;

/// Starts the thread: `write` gets what waits, and tells of each transaction whether it was written.
pub(super) fn writer(
    mut write: impl FnMut(&mut [(Transaction, Answer)]) -> Result<Vec<bool>> + Send + 'static,
) -> Queue {
    let (queue, mut waiting) = mpsc::channel(2 * GROUP);
    thread::spawn(move || {
        let mut group = Vec::new();
        while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
            match write(&mut group) {
                Ok(written) => {
                    for ((_, answer), written) in group.drain(..).zip(written) {
                        let _ = answer.send(written);
                    }
                }
                Err(error) => {
                    eprintln!("error: {error:#}");
                    return;
                }
            }
        }
    });
    queue
}

pub(super) async fn ask(queue: &Queue, transaction: Transaction) -> Result<()> {
    let (answer, answered) = oneshot::channel();
    let sent = queue.send((transaction, answer)).await;
    sent.ok().context("its writer has ended")?;
    if !answered.await.context("its writer has ended")? {
        bail!("a conflict");
    }
    Ok(())
}

pub(crate) struct Redb {
    database: std::sync::Arc<Database>,
    queue: Queue,
}

impl Redb {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut builder = Database::builder();
        // What Sinew may use, and the kernel caches too.
        builder.set_cache_size(128 << 20);
        let database = std::sync::Arc::new(builder.create(folder.join("redb"))?);
        let writing = std::sync::Arc::clone(&database);
        let queue = writer(move |group| {
            let mut transaction = writing.begin_write()?;
            transaction.set_two_phase_commit(true);
            let mut answers = Vec::new();
            {
                let mut table = transaction.open_table(TABLE)?;
                for (one, _) in &*group {
                    let mut holds = true;
                    for (key, there) in &one.checks {
                        holds &= table.get(&key[..])?.is_some() == *there;
                    }
                    if holds {
                        for (key, value) in &one.puts {
                            table.insert(&key[..], &value[..])?;
                        }
                    }
                    answers.push(holds);
                }
            }
            transaction.commit()?;
            Ok(answers)
        });
        Ok(Self { database, queue })
    }
}

#[async_trait]
impl Store for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn durability(&self) -> &'static str {
        "two-phase, synced"
    }

    async fn commit(&self, transaction: Transaction) -> Result<()> {
        ask(&self.queue, transaction).await
    }

    async fn get(&self, key: &[u8]) -> Result<bool> {
        let transaction = self.database.begin_read()?;
        let value = transaction.open_table(TABLE)?.get(key)?;
        Ok(value.is_some_and(|value| !value.value().to_vec().is_empty()))
    }
}

pub(crate) struct Sqlite {
    reading: Mutex<Connection>,
    queue: Queue,
}

impl Sqlite {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let open = || -> Result<Connection> {
            let connection = Connection::open(folder.join("sqlite"))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // 64 MiB; the kernel caches too.
            connection.pragma_update(None, "cache_size", -65_536)?;
            Ok(connection)
        };
        let writing = open()?;
        writing.execute_batch(
            "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        )?;
        let queue = writer(move |group| {
            writing.execute_batch("BEGIN IMMEDIATE")?;
            let mut answers = Vec::new();
            for (one, _) in &*group {
                let mut check = writing.prepare_cached("SELECT 1 FROM entries WHERE key = ?1")?;
                let mut put =
                    writing.prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2)")?;
                let mut holds = true;
                for (key, there) in &one.checks {
                    holds &= check.exists([key])? == *there;
                }
                if holds {
                    for (key, value) in &one.puts {
                        put.execute([key, value])?;
                    }
                }
                answers.push(holds);
            }
            writing.execute_batch("COMMIT")?;
            Ok(answers)
        });
        Ok(Self {
            reading: Mutex::new(open()?),
            queue,
        })
    }
}

#[async_trait]
impl Store for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn durability(&self) -> &'static str {
        "WAL, synchronous=FULL"
    }

    async fn commit(&self, transaction: Transaction) -> Result<()> {
        ask(&self.queue, transaction).await
    }

    async fn get(&self, key: &[u8]) -> Result<bool> {
        let reading = self.reading.lock();
        let mut get = reading.prepare_cached("SELECT value FROM entries WHERE key = ?1")?;
        let value: Option<Vec<u8>> = get.query_row([key], |row| row.get(0)).optional()?;
        Ok(value.is_some())
    }
}
