//! sqlx by itself, with a pool of its own.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use sinew_testbed::Server;
use sqlx::{
    PgPool, Row, SqlitePool,
    pool::PoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    CONNECTIONS, CONTENT, FILL, INSERT, ROWS, SELECT, TABLES, UPDATE,
    sides::{Database, POSTGRES, SQLITE},
};

pub(crate) struct Lite {
    pool: SqlitePool,
    server: Option<Arc<Server>>,
}

pub(crate) struct Postgres {
    pool: PgPool,
    server: Option<Arc<Server>>,
}

/// As Sinew opens it.
pub(crate) async fn sqlite(file: &str) -> Result<Lite> {
    let connect = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = PoolOptions::new()
        .max_connections(CONNECTIONS)
        .test_before_acquire(false);
    Ok(Lite {
        pool: pool.connect_with(connect).await?,
        server: None,
    })
}

pub(crate) async fn postgres(url: &str, server: &Arc<Server>) -> Result<Postgres> {
    let pool = PoolOptions::new()
        .max_connections(CONNECTIONS)
        .test_before_acquire(false);
    // Another database, so that the tables may have the same names.
    sqlx::query("CREATE DATABASE plain")
        .execute(&PgPool::connect(url).await?)
        .await?;
    let url = format!("postgres://sinew@{}/plain", server.address());
    Ok(Postgres {
        pool: pool.connect(&url).await?,
        server: Some(Arc::clone(server)),
    })
}

/// The same for both, which have no type in common.
macro_rules! database {
    ($kind:ty, $name:literal, $durability:expr) => {
        #[async_trait]
        impl Database for $kind {
            fn name(&self) -> &'static str {
                $name
            }

            fn durability(&self) -> &'static str {
                $durability
            }

            fn server(&self) -> Option<u32> {
                self.server.as_ref().and_then(|server| server.pid())
            }

            async fn fill(&self) -> Result<()> {
                for table in TABLES {
                    sqlx::query(table).execute(&self.pool).await?;
                }
                let mut transaction = self.pool.begin().await?;
                for row in 0..ROWS as i64 {
                    let fill = sqlx::query(FILL).bind(row).bind(0_i64).bind(CONTENT);
                    fill.execute(&mut *transaction).await?;
                }
                Ok(transaction.commit().await?)
            }

            async fn insert(&self) -> Result<()> {
                let insert = sqlx::query(INSERT).bind(7_i64).bind(CONTENT);
                insert.execute(&self.pool).await?;
                Ok(())
            }

            async fn select(&self, row: i64) -> Result<usize> {
                let select = sqlx::query(SELECT).bind(row);
                let row = select.fetch_one(&self.pool).await?;
                let (_, _): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
                Ok(row.try_get::<String, _>(2)?.len())
            }

            async fn transaction(&self, row: i64) -> Result<()> {
                let mut transaction = self.pool.begin().await?;
                let update = sqlx::query(UPDATE).bind(row);
                update.execute(&mut *transaction).await?;
                let select = sqlx::query(SELECT).bind(row);
                let found = select.fetch_one(&mut *transaction).await?;
                let _: String = found.try_get(2)?;
                let insert = sqlx::query(INSERT).bind(row).bind(CONTENT);
                insert.execute(&mut *transaction).await?;
                Ok(transaction.commit().await?)
            }
        }
    };
}

database!(Lite, "sqlx, sqlite", SQLITE);
database!(Postgres, "sqlx, postgres", POSTGRES);
