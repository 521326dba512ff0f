//! PostgreSQL. Branches are prepared transactions: `gid = sinew:namespace:transaction:part`.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture, stream::BoxStream};
use sinew_core::{Error, Result, Timestamp};
use sinew_engine::sql::{
    Begin, BranchId, Column, Dialect as Language, Executed, Isolation, Prepared, Row, Value,
    fault as sql_fault,
};
use sqlx::{
    AssertSqlSafe, Executor, PgConnection, Postgres, Row as _,
    error::DatabaseError,
    postgres::{PgArguments, PgDatabaseError, PgQueryResult, PgRow},
};

use super::dialect::{Answer, Connection, Dialect, Position, Unsettled};
use crate::fault;

mod numeric;
mod values;

pub(super) struct Pg;

fn level(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "READ COMMITTED",
        Isolation::RepeatableRead => "REPEATABLE READ",
        Isolation::Serializable => "SERIALIZABLE",
    }
}

impl Dialect for Pg {
    type Db = Postgres;

    const NAME: &'static str = "postgres";
    const LANGUAGE: Language = Language::Postgres;
    const PARAMETERS: usize = 65_535;
    const BRANCHES: bool = true;
    const BRANCH_HOLDS_SESSION: bool = false;
    const REPLICAS: bool = true;

    fn bind(parameters: Vec<Value>, text: &mut String) -> Result<PgArguments> {
        values::bind(parameters, text)
    }

    fn run(
        connection: &mut PgConnection,
        text: String,
        arguments: Option<PgArguments>,
    ) -> BoxStream<'_, Answer<Self>> {
        connection.fetch_many((AssertSqlSafe(text), arguments))
    }

    fn row(row: &PgRow, columns: &mut Option<Arc<[Column]>>) -> Result<Row> {
        values::row(row, columns)
    }

    fn executed(result: &PgQueryResult) -> Executed {
        Executed {
            affected: result.rows_affected(),
            last_id: None,
        }
    }

    fn fault(error: &dyn DatabaseError, limit: Duration) -> Option<Error> {
        let pg = error.try_downcast_ref::<PgDatabaseError>()?;
        let code = pg.code();
        let name = pg.constraint();
        let context = format!("SQLSTATE {code}");
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        Some(match code {
            "23505" | "23P01" => sql_fault::unique(name),
            "23503" | "23001" => sql_fault::foreign_key(name),
            "23502" => sql_fault::not_null(pg.column()),
            "23514" | "23000" => sql_fault::check(name),
            "40001" | "40P01" | "55P03" | "40002" => sql_fault::conflict(context),
            "25006" => sql_fault::read_only(),
            "25P02" | "25P03" | "25P04" => sql_fault::transaction_failed(),
            "53300" | "57P03" => fault::unavailable(Self::NAME, context),
            "57014" => fault::timeout(Self::NAME, limit),
            // Ended by an administrator or another's crash: how far it came is not told.
            "57P01" | "57P02" | "57P05" => return None,
            "42501" => fault::denied(Self::NAME, context),
            "3D000" => {
                fault::unsuitable(Self::NAME, "the database that its URL names is not there")
            }
            "55000" if pg.message().contains("max_prepared_transactions") => fault::unsuitable(
                Self::NAME,
                "two-phase branches need max_prepared_transactions above 0",
            ),
            _ => match code.get(..2) {
                Some("22") => {
                    sql_fault::value_invalid(format!("a value does not fit its place ({context})"))
                }
                Some("42" | "26" | "34" | "3F" | "0A" | "21") => {
                    // These quote names and places of the statement's text, which holds no values.
                    let message = format!("the statement is refused ({context}); see the log");
                    sql_fault::statement_invalid(message).with_context(pg.message().to_owned())
                }
                Some("28") => fault::denied(Self::NAME, context),
                Some("53" | "54") => sql_fault::full(context),
                Some("08") => return None,
                Some("XX") if code != "XX000" => sql_fault::damaged(context),
                _ => fault::unexpected(Self::NAME, context),
            },
        })
    }

    fn settle(
        _connection: &mut Connection<Self>,
        _limit: Duration,
    ) -> BoxFuture<'_, sqlx::Result<()>> {
        // Its settings are part of the connection's first message.
        std::future::ready(Ok(())).boxed()
    }

    fn begin(options: &Begin) -> String {
        let how = if options.read_only { " READ ONLY" } else { "" };
        format!("BEGIN ISOLATION LEVEL {}{how}", level(options.isolation))
    }

    fn unlimited() -> Option<(&'static str, &'static str)> {
        Some(("SET statement_timeout = 0", "RESET statement_timeout"))
    }

    fn branch(namespace: &str, id: &BranchId) -> String {
        format!("'sinew:{namespace}:{}:{}'", id.transaction(), id.part())
    }

    fn begin_branch<'a>(
        connection: &'a mut PgConnection,
        branch: &'a str,
        options: &'a Begin,
    ) -> BoxFuture<'a, sqlx::Result<bool>> {
        // The lock lives as long as the transaction, prepared or not: it is how others see that somebody works on the branch.
        let begin = Self::begin(options);
        let lock = lock(branch);
        async move {
            let row = connection
                .fetch_one(AssertSqlSafe(format!("{begin}; {lock}")))
                .await?;
            let begun: bool = row.try_get(0)?;
            if !begun {
                connection.execute("ROLLBACK").await?;
            }
            Ok(begun)
        }
        .boxed()
    }

    fn prepare(branch: &str) -> String {
        format!("PREPARE TRANSACTION {branch}")
    }

    fn rollback_branch(_branch: &str) -> String {
        "ROLLBACK".into()
    }

    fn commit_prepared(branch: &str) -> String {
        format!("COMMIT PREPARED {branch}")
    }

    fn rollback_prepared(branch: &str) -> String {
        format!("ROLLBACK PREPARED {branch}")
    }

    fn is_taken(error: &dyn DatabaseError) -> bool {
        error.code().as_deref() == Some("42710")
    }

    fn unsettled(error: &dyn DatabaseError) -> Unsettled {
        match error.code().as_deref() {
            Some("42704") => Unsettled::Unknown,
            Some("55000") => Unsettled::Busy,
            _ => Unsettled::Other,
        }
    }

    fn is_absent<'a>(
        connection: &'a mut PgConnection,
        branch: &'a str,
    ) -> BoxFuture<'a, sqlx::Result<bool>> {
        let lock = lock(branch);
        async move {
            let row = connection.fetch_one(AssertSqlSafe(lock)).await?;
            row.try_get(0)
        }
        .boxed()
    }

    fn prepared<'a>(
        connection: &'a mut PgConnection,
        namespace: &'a str,
    ) -> BoxFuture<'a, sqlx::Result<Vec<Prepared>>> {
        async move {
            let prefix = format!("sinew:{namespace}:");
            let rows = connection
                .fetch_all(AssertSqlSafe(format!(
                    "SELECT gid, (extract(epoch FROM prepared) * 1000)::int8::text FROM pg_prepared_xacts \
                     WHERE database = current_database() AND starts_with(gid, '{prefix}')"
                )))
                .await?;
            let mut prepared = Vec::new();
            for row in rows {
                let gid: String = row.try_get_unchecked(0)?;
                let since: String = row.try_get_unchecked(1)?;
                let named = gid.strip_prefix(&prefix).and_then(|rest| rest.split_once(':'));
                if let Some(Ok(id)) = named.map(|(transaction, part)| BranchId::new(transaction, part)) {
                    let since = since.parse().ok().map(Timestamp);
                    prepared.push(Prepared { id, since });
                }
            }
            Ok(prepared)
        }
        .boxed()
    }

    fn written(connection: &mut PgConnection) -> BoxFuture<'_, sqlx::Result<Position>> {
        // The insert position, not the written one: commits without `synchronous_commit` are before it, too.
        position(connection, "pg_current_wal_insert_lsn()").boxed()
    }

    fn applied(connection: &mut PgConnection) -> BoxFuture<'_, sqlx::Result<Position>> {
        let function = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END";
        position(connection, function).boxed()
    }
}

/// Takes the branch's lock until the transaction ends; whether it was free.
fn lock(branch: &str) -> String {
    format!("SELECT pg_try_advisory_xact_lock({})", key(branch))
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): all nodes, of all versions, must come to the same.
fn key(branch: &str) -> i64 {
    let hash = branch
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash.cast_signed()
}

/// A position in the log, with the cluster's identifier as its origin: another cluster's log is no measure.
async fn position(connection: &mut PgConnection, lsn: &str) -> sqlx::Result<Position> {
    let text = format!("SELECT system_identifier::text, ({lsn})::text FROM pg_control_system()");
    let row = connection.fetch_one(AssertSqlSafe(text)).await?;
    let cluster: String = row.try_get_unchecked(0)?;
    let lsn: Option<String> = row.try_get_unchecked(1)?;
    let read = || Some((cluster.parse().ok()?, read_lsn(lsn.as_deref()?)?));
    Ok(Position(read().into_iter().collect()))
}

/// `16/B374D848`: the high and the low half in hexadecimal.
fn read_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |text| u64::from_str_radix(text, 16).ok();
    Some(half(high)? << 32 | half(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_in_the_log_are_numbers() {
        assert_eq!(read_lsn("16/B374D848"), Some(0x16_B374_D848));
        assert_eq!(read_lsn("0/0"), Some(0));
        assert_eq!(read_lsn("x"), None);
    }

    #[test]
    fn the_key_of_a_branch_never_changes() {
        // The published test vector of FNV-1a for "foobar".
        assert_eq!(key("foobar").cast_unsigned(), 0x8594_4171_f739_67e8);
    }
}
