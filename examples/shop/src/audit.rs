//! Does it all add up? Read from the services' own databases, side by side, without their help.
//!
//! Every check compares what one database says with what another says, or with what a service once
//! promised to a shopper ([`Acknowledged`]). The checks hold once every order has come to rest; while
//! some are at work, [`unsettled`] counts them.

mod checks;
mod promises;
#[cfg(test)]
mod tests;

use std::{fmt::Write, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};
use sinew_core::{Error, Kind, Result};

use crate::shoppers::Acknowledged;

/// The databases, by the names under which the checks know them.
const DATABASES: [&str; 5] = ["users", "products", "carts", "orders", "payments"];
/// A service that is still writing may hold a database for a moment.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What should hold.
    pub what: String,
    /// What one side says.
    pub expected: String,
    /// What the other side says.
    pub actual: String,
    /// How many rows (products, orders, payments) break it. The sums above can agree by chance;
    /// these cannot.
    pub wrong: u64,
    /// Some of these, by id.
    pub examples: Vec<String>,
}

impl Check {
    /// Whether it holds.
    pub fn ok(&self) -> bool {
        self.wrong == 0 && self.expected == self.actual
    }
}

/// All checks.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Audit {
    /// In the order in which they read best.
    pub checks: Vec<Check>,
}

impl Audit {
    /// Whether everything holds.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(Check::ok)
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let width = |of: fn(&Check) -> &str, title: &str| {
            let widest = self
                .checks
                .iter()
                .map(|check| of(check).chars().count())
                .max();
            widest.unwrap_or(0).max(title.len())
        };
        let what = width(|check| &check.what, "check");
        let expected = width(|check| &check.expected, "expected");
        let actual = width(|check| &check.actual, "actual");
        let mut text = String::new();
        let mut line = |a: &str, b: &str, c: &str, d: &str| {
            let _ = writeln!(text, "{a:<what$}  {b:>expected$}  {c:>actual$}  {d}");
        };
        line("check", "expected", "actual", "");
        for check in &self.checks {
            let verdict = match check.wrong {
                _ if check.ok() => "ok".to_owned(),
                0 => "WRONG".to_owned(),
                wrong => format!("WRONG: {wrong} ({})", check.examples.join(", ")),
            };
            line(&check.what, &check.expected, &check.actual, &verdict);
        }
        text
    }
}

/// Reads the databases in `folder` and checks everything, including that what was acknowledged is
/// there.
///
/// # Errors
/// `shop.audit_unreadable` when a database is missing or cannot be read.
pub fn audit(folder: &Path, acknowledged: &[Acknowledged]) -> Result<Audit> {
    let connection = open(folder, &DATABASES)?;
    let unreadable = |error| unreadable(folder, error);
    let mut checks = checks::all(&connection).map_err(unreadable)?;
    checks.extend(promises::all(&connection, acknowledged).map_err(unreadable)?);
    Ok(Audit { checks })
}

/// How many orders have not come to rest. May be asked while the services run.
///
/// # Errors
/// `shop.audit_unreadable` as for [`audit`].
pub fn unsettled(folder: &Path) -> Result<u64> {
    let connection = open(folder, &["orders"])?;
    let query = "SELECT count(*) FROM orders.orders WHERE resting = 0";
    let count = connection.query_row(query, [], |row| row.get::<_, i64>(0));
    count
        .map(i64::unsigned_abs)
        .map_err(|error| unreadable(folder, error))
}

/// One connection that sees all databases, each by its service's name, and can write to none.
fn open(folder: &Path, names: &[&str]) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let attach = || {
        let connection = Connection::open_with_flags(":memory:", flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        for name in names {
            let address = address(&folder.join(format!("{name}.db")));
            connection.execute("ATTACH ?1 AS ?2", [&address, *name])?;
        }
        Ok(connection)
    };
    attach().map_err(|error| unreadable(folder, error))
}

/// The address of a file that is only to be read (<https://www.sqlite.org/uri.html>).
fn address(path: &Path) -> String {
    let mut address = "file:".to_owned();
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => address.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => address.push(byte.into()),
            _ => {
                let _ = write!(address, "%{byte:02X}");
            }
        }
    }
    address + "?mode=ro"
}

fn unreadable(folder: &Path, error: rusqlite::Error) -> Error {
    let text = "the shop's databases cannot be read";
    Error::new(Kind::Unavailable, "shop.audit_unreadable", text)
        .with_context(folder.display().to_string())
        .with_source(error)
}
