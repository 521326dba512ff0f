//! Opening a database file and bringing its schema up to date.

use std::{fs::OpenOptions, io, path::Path, thread::sleep, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use sinew_core::Kind;

use super::{Migration, failed};
use crate::fault::{Fault, Result};

/// How often, and how many times, a lock is asked for that another process holds: 5 s in all.
/// SQLite's own busy timeout waits up to 100 ms between tries, far longer than a commit lasts.
const LOCK_RETRY: Duration = Duration::from_millis(1);
const LOCK_TRIES: i32 = 5_000;

pub(super) fn open(path: &Path, writes: bool) -> Result<Connection> {
    let unusable =
        |cause: String| failed(&format!("{} cannot be opened", path.display())).with_source(cause);
    if writes {
        make(path).map_err(|error| unusable(error.to_string()))?;
    }
    let mut tries = 0;
    loop {
        match try_open(path, writes) {
            // Switching to WAL needs a lock for which SQLite asks no busy handler.
            Err(error) if is_busy(&error) && tries < LOCK_TRIES => {
                tries += 1;
                sleep(LOCK_RETRY);
            }
            Err(error) => return Err(unusable(error.to_string())),
            Ok(connection) => return Ok(connection),
        }
    }
}

/// Makes the file, so that only its owner can read it: it holds password hashes, addresses, orders.
/// SQLite gives the files beside it the same mode. A file that is there must not be opened here:
/// closing it would drop the locks that this process has on it (SQLite, "How to corrupt", §2.2).
fn make(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    matches!(
        error.sqlite_error_code(),
        Some(Code::DatabaseBusy | Code::DatabaseLocked)
    )
}

fn try_open(path: &Path, writes: bool) -> rusqlite::Result<Connection> {
    // A reader in WAL mode needs to write the shared-memory file; `query_only` keeps it honest.
    let access = OpenFlags::SQLITE_OPEN_READ_WRITE;
    // Each connection stays on one thread, so SQLite needs no mutex of its own.
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_handler(Some(|tries| {
        sleep(LOCK_RETRY);
        tries < LOCK_TRIES
    }))?;
    // FULL: the log is synced at each commit. The cache is kept small, a service is idle mostly.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA cache_size = -1024;
         PRAGMA temp_store = MEMORY;
         PRAGMA journal_size_limit = 8388608;",
    )?;
    if !writes {
        connection.execute_batch("PRAGMA query_only = ON")?;
    }
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Runs the migrations that the file has not seen, all in one transaction.
pub(super) fn migrate(connection: &mut Connection, migrations: &[Migration]) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let known: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let seen = usize::try_from(known).unwrap_or(0);
    let Some(missing) = migrations.get(seen..) else {
        return Err(Fault::new(
            Kind::FailedPrecondition,
            "shop.store_version",
            format!(
                "the database has schema version {known}, this program knows {}: use a newer one",
                migrations.len()
            ),
        ));
    };
    for migration in missing {
        match migration {
            Migration::Sql(sql) => transaction.execute_batch(sql)?,
            Migration::Code(code) => code(&transaction)?,
        }
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {}", migrations.len()))?;
    transaction.commit()?;
    Ok(())
}
