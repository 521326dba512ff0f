//! The tables of one store, made and checked by whoever connects first.
//!
//! ```text
//! head      one row: the store's revision, and the version that every writer must find as it read it
//! entries   the present
//! changes   the past: what each commit changed, with what was there before
//! leases    which leases there are
//! writers   the last batch of each instance, so that a lost answer can be found out
//! renewals  how often each lease was kept alive       (unlogged: no durable write)
//! warden    which instance ends the leases            (unlogged)
//! ```
//! A server that was killed empties unlogged tables; what that means is said in `leases.rs`.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::server::Trouble;

/// The version of the tables that this Sinew writes.
pub(super) const FORMAT: i32 = 1;

/// Only these characters come into SQL as text: a namespace is a `Name`.
pub(super) fn name(namespace: &str) -> String {
    format!("sinew_{namespace}")
}

const TABLES: &str = r"
CREATE TABLE head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    format integer NOT NULL,
    store uuid NOT NULL DEFAULT gen_random_uuid(),
    version bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0,
    floor bigint NOT NULL DEFAULT 0,
    history_bytes bigint NOT NULL DEFAULT 0,
    last_lease bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
CREATE TABLE entries (
    key bytea PRIMARY KEY,
    value bytea NOT NULL,
    revision bigint NOT NULL,
    lease bigint
) WITH (fillfactor = 85);
CREATE INDEX entries_lease ON entries (lease) WHERE lease IS NOT NULL;
CREATE TABLE changes (
    revision bigint NOT NULL,
    key bytea NOT NULL,
    value bytea,
    lease bigint,
    before_revision bigint,
    before_value bytea,
    before_lease bigint,
    PRIMARY KEY (revision, key)
);
CREATE TABLE leases (lease bigint PRIMARY KEY, ttl bigint NOT NULL);
CREATE TABLE writers (
    node bigint PRIMARY KEY,
    batch bigint NOT NULL,
    at timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE renewals (
    lease bigint PRIMARY KEY,
    count bigint NOT NULL,
    ttl bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE warden (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    node bigint NOT NULL,
    beat bigint NOT NULL
) WITH (fillfactor = 10);
";

/// Makes the tables if they are not there, and refuses those of a newer Sinew. Safe when many do it at once.
pub(super) async fn prepare(connection: &mut PgConnection, namespace: &str) -> Result<(), Trouble> {
    if let Some(format) = format(connection, namespace).await? {
        return check(format);
    }
    let schema = name(namespace);
    let mut transaction = connection.begin().await?;
    // One after the other; `CREATE … IF NOT EXISTS` alone fails when two do it in the same moment.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(&schema)
        .execute(&mut *transaction)
        .await?;
    if let Some(format) = format(&mut transaction, namespace).await? {
        return check(format);
    }
    let exists = sqlx::query("SELECT FROM pg_namespace WHERE nspname = $1")
        .bind(&schema)
        .fetch_optional(&mut *transaction)
        .await?;
    if exists.is_none() {
        let make = format!("CREATE SCHEMA \"{schema}\"");
        sqlx::raw_sql(AssertSqlSafe(make))
            .execute(&mut *transaction)
            .await?;
    }
    sqlx::raw_sql(TABLES).execute(&mut *transaction).await?;
    sqlx::query("INSERT INTO head (format) VALUES ($1)")
        .bind(FORMAT)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// The version of the tables; `None` when there are none.
async fn format(connection: &mut PgConnection, namespace: &str) -> Result<Option<i32>, Trouble> {
    // `to_regclass` would answer from what this session remembers.
    let there = sqlx::query(
        "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = 'head'",
    )
    .bind(name(namespace))
    .fetch_optional(&mut *connection)
    .await?;
    if there.is_none() {
        return Ok(None);
    }
    let head = sqlx::query("SELECT format FROM head")
        .fetch_optional(connection)
        .await?;
    match head {
        Some(head) => Ok(Some(head.try_get(0)?)),
        None => Err(Trouble::Unsuitable(format!(
            "the schema {} has a table head, but nothing in it",
            name(namespace)
        ))),
    }
}

fn check(format: i32) -> Result<(), Trouble> {
    if format == FORMAT {
        return Ok(());
    }
    Err(Trouble::Unsuitable(format!(
        "its tables have the version {format}, and this Sinew knows version {FORMAT} only; use a newer Sinew"
    )))
}
