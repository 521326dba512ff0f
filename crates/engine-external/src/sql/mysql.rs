//! MariaDB and MySQL. Branches are XA transactions: `xid = 'transaction','namespace:part',0x53494E57`.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture, stream::BoxStream};
use sinew_core::{Error, Result};
use sinew_engine::sql::{
    Begin, BranchId, Column, Dialect as Language, Executed, Isolation, Prepared, Row,
    fault as sql_fault,
};
use sqlx::{
    AssertSqlSafe, Executor, MySql, MySqlConnection, Row as _,
    error::DatabaseError,
    mysql::{MySqlArguments, MySqlDatabaseError, MySqlQueryResult, MySqlRow},
};

use super::dialect::{Answer, Connection, Dialect, Position, Unsettled};
use crate::fault;

mod values;

pub(super) struct Maria;

/// "SINW": marks the branches of Sinew among all of a server.
const FORMAT: u32 = 0x5349_4E57;
/// The longest namespace that fits into a branch's name beside its part.
pub(super) const NAMESPACE: usize = 64 - 1 - BranchId::PART;

// https://mariadb.com/kb/en/mariadb-error-code-reference/
const XA_UNKNOWN: u16 = 1397;
const XA_TAKEN: u16 = 1440;
const XA_WRONG_STATE: u16 = 1399;

fn number(error: &dyn DatabaseError) -> u16 {
    error
        .try_downcast_ref::<MySqlDatabaseError>()
        .map_or(0, MySqlDatabaseError::number)
}

fn level(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "READ COMMITTED",
        Isolation::RepeatableRead => "REPEATABLE READ",
        Isolation::Serializable => "SERIALIZABLE",
    }
}

impl Dialect for Maria {
    type Db = MySql;

    const NAME: &'static str = "mysql";
    const LANGUAGE: Language = Language::Mysql;
    const PARAMETERS: usize = 65_535;
    const BRANCHES: bool = true;
    const BRANCH_HOLDS_SESSION: bool = true;
    const REPLICAS: bool = true;

    fn bind(
        parameters: Vec<sinew_engine::sql::Value>,
        _text: &mut String,
    ) -> Result<MySqlArguments> {
        values::bind(parameters)
    }

    fn run(
        connection: &mut MySqlConnection,
        text: String,
        arguments: Option<MySqlArguments>,
    ) -> BoxStream<'_, Answer<Self>> {
        connection.fetch_many((AssertSqlSafe(text), arguments))
    }

    fn row(row: &MySqlRow, columns: &mut Option<Arc<[Column]>>) -> Result<Row> {
        values::row(row, columns)
    }

    fn executed(result: &MySqlQueryResult) -> Executed {
        let id = result.last_insert_id();
        Executed {
            affected: result.rows_affected(),
            last_id: i64::try_from(id).ok().filter(|id| *id != 0),
        }
    }

    fn fault(error: &dyn DatabaseError, limit: Duration) -> Option<Error> {
        let number = number(error);
        let state = error.code().unwrap_or_default().into_owned();
        let context = format!("error {number}, SQLSTATE {state}");
        Some(match number {
            1022 | 1062 | 1169 | 1586 => sql_fault::unique(key(error.message())),
            1216 | 1217 | 1451 | 1452 => sql_fault::foreign_key(None),
            1048 | 1364 => sql_fault::not_null(None),
            3819 => sql_fault::check(None),
            4025 if state == "23000" => sql_fault::check(None),
            // Deadlock, lock wait, certification, snapshot, and the same as branches tell them.
            1205 | 1213 | 1020 | 1614 | 1613 | 1402 => sql_fault::conflict(context),
            1792 | 1290 | 1836 => sql_fault::read_only(),
            1021 | 1114 | 1041 | 1037 | 1038 => sql_fault::full(context),
            1049 => fault::unsuitable(Self::NAME, "the database that its URL names is not there"),
            1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 => fault::denied(Self::NAME, context),
            1040 | 1203 | 1226 => fault::unavailable(Self::NAME, context),
            1969 | 3024 => fault::timeout(Self::NAME, limit),
            1034 | 1035 | 126 | 127 | 144 | 1194 | 1712 => sql_fault::damaged(context),
            // Ended by an administrator or a shutdown: how far it came is not told.
            1053 | 1317 | 1927 | 1152 | 1077 | 1079 => return None,
            1054 | 1064 | 1146 | 1149 | 1305 | 1210 | 1295 => {
                // These quote the text of the statement, which holds no values.
                sql_fault::statement_invalid(format!("error {number}: see the log"))
                    .with_context(error.message().to_owned())
            }
            XA_WRONG_STATE => sql_fault::transaction_failed(),
            _ => match state.get(..2) {
                Some("42" | "21" | "0A") => {
                    sql_fault::statement_invalid(format!("the statement is refused ({context})"))
                }
                Some("22") => {
                    sql_fault::value_invalid(format!("a value does not fit its place ({context})"))
                }
                _ if matches!(number, 1264 | 1265 | 1292 | 1366 | 1406) => {
                    sql_fault::value_invalid(format!("a value does not fit its place ({context})"))
                }
                _ => fault::unexpected(Self::NAME, context),
            },
        })
    }

    fn settle(
        connection: &mut Connection<Self>,
        limit: Duration,
    ) -> BoxFuture<'_, sqlx::Result<()>> {
        // Without these two modes, quotes mean what the reading of statements takes them for; strict, values are never cut silently.
        let locks = limit.as_secs().max(1);
        let millis = limit.as_millis();
        let text = format!(
            "SET SESSION innodb_lock_wait_timeout = {locks}, \
             /*M!100101 max_statement_time = {:.3}, */ /*!50708 {} */ \
             sql_mode = CONCAT(REPLACE(REPLACE(REPLACE(@@sql_mode, 'ANSI_QUOTES', ''), 'NO_BACKSLASH_ESCAPES', ''), \
             'STRICT_TRANS_TABLES', ''), ',STRICT_TRANS_TABLES')",
            limit.as_secs_f64(),
            mysql_only(millis)
        );
        async move { connection.execute(AssertSqlSafe(text)).await.map(drop) }.boxed()
    }

    fn begin(options: &Begin) -> String {
        let how = if options.read_only { " READ ONLY" } else { "" };
        let level = level(options.isolation);
        format!("SET TRANSACTION ISOLATION LEVEL {level}; START TRANSACTION{how}")
    }

    fn unlimited() -> Option<(&'static str, &'static str)> {
        // Each of the two runs one of the comments, as in `settle`.
        Some((
            "SET @sinew_limit = /*M!100101 @@max_statement_time, max_statement_time = 0 */ \
             /*!50708 @@max_execution_time, max_execution_time = 0 */",
            "SET /*M!100101 max_statement_time */ /*!50708 max_execution_time */ = @sinew_limit",
        ))
    }

    fn branch(namespace: &str, id: &BranchId) -> String {
        format!(
            "'{}','{namespace}:{}',{FORMAT}",
            id.transaction(),
            id.part()
        )
    }

    fn begin_branch<'a>(
        connection: &'a mut MySqlConnection,
        branch: &'a str,
        options: &'a Begin,
    ) -> BoxFuture<'a, sqlx::Result<bool>> {
        let read_only = if options.read_only { ", READ ONLY" } else { "" };
        let level = level(options.isolation);
        let text = format!("SET TRANSACTION ISOLATION LEVEL {level}{read_only}; XA START {branch}");
        started(connection, text).boxed()
    }

    fn prepare(branch: &str) -> String {
        format!("XA END {branch}; XA PREPARE {branch}")
    }

    fn rollback_branch(branch: &str) -> String {
        format!("XA END {branch}; XA ROLLBACK {branch}")
    }

    fn commit_prepared(branch: &str) -> String {
        format!("XA COMMIT {branch}")
    }

    fn rollback_prepared(branch: &str) -> String {
        format!("XA ROLLBACK {branch}")
    }

    fn is_taken(error: &dyn DatabaseError) -> bool {
        number(error) == XA_TAKEN
    }

    fn unsettled(error: &dyn DatabaseError) -> Unsettled {
        match number(error) {
            // A branch whose session lives is "unknown" too; `is_absent` tells them apart.
            XA_UNKNOWN => Unsettled::Unknown,
            XA_WRONG_STATE => Unsettled::Busy,
            // The branch had been rolled back by the server: settled, as a rollback.
            _ => Unsettled::Other,
        }
    }

    fn is_absent<'a>(
        connection: &'a mut MySqlConnection,
        branch: &'a str,
    ) -> BoxFuture<'a, sqlx::Result<bool>> {
        // A name can only be taken while no other session has it, prepared or not.
        let probe = format!("XA START {branch}");
        async move {
            if !started(&mut *connection, probe).await? {
                return Ok(false);
            }
            let undo = Self::rollback_branch(branch);
            connection.execute(AssertSqlSafe(undo)).await?;
            Ok(true)
        }
        .boxed()
    }

    fn prepared<'a>(
        connection: &'a mut MySqlConnection,
        namespace: &'a str,
    ) -> BoxFuture<'a, sqlx::Result<Vec<Prepared>>> {
        async move {
            let rows = connection.fetch_all(AssertSqlSafe("XA RECOVER")).await?;
            let mut prepared = Vec::new();
            for row in rows {
                let format: i64 = row.try_get_unchecked(0)?;
                let length: i64 = row.try_get_unchecked(1)?;
                let data: Vec<u8> = row.try_get_unchecked(3)?;
                let ours = format == i64::from(FORMAT);
                if let Some(id) = ours.then(|| read_xid(&data, length, namespace)).flatten() {
                    prepared.push(Prepared { id, since: None });
                }
            }
            Ok(prepared)
        }
        .boxed()
    }

    fn written(connection: &mut MySqlConnection) -> BoxFuture<'_, sqlx::Result<Position>> {
        position(connection, "SELECT @@gtid_binlog_pos").boxed()
    }

    fn applied(connection: &mut MySqlConnection) -> BoxFuture<'_, sqlx::Result<Position>> {
        position(connection, "SELECT @@gtid_slave_pos").boxed()
    }
}

/// MySQL 5.7.8 and later, but not MariaDB, know this name; MariaDB skips comments of 5.7 and later.
fn mysql_only(millis: u128) -> String {
    format!("max_execution_time = {millis},")
}

async fn started(connection: &mut MySqlConnection, text: String) -> sqlx::Result<bool> {
    match connection.execute(AssertSqlSafe(text)).await {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if number(&*error) == XA_TAKEN => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key that "Duplicate entry '…' for key '…'" names; the entry before it is data and stays out.
fn key(message: &str) -> Option<&str> {
    let key = message.strip_suffix('\'')?.rsplit_once("' for key '")?.1;
    (!key.contains('\'')).then_some(key)
}

fn read_xid(data: &[u8], length: i64, namespace: &str) -> Option<BranchId> {
    let (transaction, part) = data.split_at_checked(usize::try_from(length).ok()?)?;
    let part = part
        .strip_prefix(namespace.as_bytes())?
        .strip_prefix(b":")?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    BranchId::new(text(transaction)?, text(part)?).ok()
}

async fn position(connection: &mut MySqlConnection, text: &'static str) -> sqlx::Result<Position> {
    let row = connection.fetch_one(text).await?;
    let text: String = row.try_get_unchecked(0)?;
    Ok(read_gtid(&text))
}

/// `domain-server-sequence`, a list of them with commas: how far each domain is.
fn read_gtid(text: &str) -> Position {
    let one = |gtid: &str| {
        let mut numbers = gtid.trim().split('-').map(str::parse::<u64>);
        match (
            numbers.next(),
            numbers.next(),
            numbers.next(),
            numbers.next(),
        ) {
            (Some(Ok(domain)), Some(Ok(_)), Some(Ok(sequence)), None) => Some((domain, sequence)),
            _ => None,
        }
    };
    // One that cannot be read proves nothing.
    let all: Option<Vec<_>> = text.split(',').map(one).collect();
    Position(all.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_key_is_taken_from_a_message() {
        let message = "Duplicate entry 'it' for key 'secret' for key 'users.name'";
        assert_eq!(key(message), Some("users.name"));
        assert_eq!(key("Duplicate entry"), None);
    }

    #[test]
    fn only_branches_of_the_namespace_are_read() {
        let id = BranchId::new("order-1", "bank");
        assert_eq!(read_xid(b"order-1shop:bank", 7, "shop"), id.ok());
        assert_eq!(read_xid(b"order-1shop:bank", 7, "sho"), None);
        assert_eq!(read_xid(b"order-1shop:bank", 8, "shop"), None);
        assert_eq!(read_xid(b"order-1shop:bank", 99, "shop"), None);
    }

    #[test]
    fn positions_are_read_whole_or_not_at_all() {
        assert_eq!(read_gtid("0-1-7,3-1-9").0, [(0, 7), (3, 9)]);
        assert_eq!(read_gtid("").0, []);
        assert_eq!(read_gtid("0-1-7,x").0, []);
    }
}
