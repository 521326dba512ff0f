//! What is measured, behind one trait, and Sinew's.

use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use sinew_engine::sql::{Begin, Sql, Statement, Value};
use sinew_testbed::Server;

use super::{CONNECTIONS, CONTENT, FILL, INSERT, ROWS, SELECT, TABLES, UPDATE};

pub(crate) const SQLITE: &str = "WAL, synchronous=FULL";
pub(crate) const POSTGRES: &str = "fsync, synchronous_commit=on";

#[async_trait]
pub(crate) trait Database: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn durability(&self) -> &'static str;

    /// The process that leads its server.
    fn server(&self) -> Option<u32>;

    /// Makes the tables and the rows.
    async fn fill(&self) -> Result<()>;

    async fn insert(&self) -> Result<()>;

    /// The length of what the row holds.
    async fn select(&self, row: i64) -> Result<usize>;

    /// Reads a row, changes it, and inserts another.
    async fn transaction(&self, row: i64) -> Result<()>;
}

pub(crate) struct OverSql {
    name: &'static str,
    durability: &'static str,
    sql: Arc<dyn Sql>,
    server: Option<Arc<Server>>,
}

impl OverSql {
    pub(crate) fn open(
        name: &'static str,
        durability: &'static str,
        url: &str,
        server: Option<&Arc<Server>>,
    ) -> Result<Self> {
        let url = format!("{url}?pool={CONNECTIONS}&timeout=30s");
        Ok(Self {
            name,
            durability,
            sql: sinew_engine_external::sql::open(&url)?,
            server: server.map(Arc::clone),
        })
    }
}

#[async_trait]
impl Database for OverSql {
    fn name(&self) -> &'static str {
        self.name
    }

    fn durability(&self) -> &'static str {
        self.durability
    }

    fn server(&self) -> Option<u32> {
        self.server.as_ref().and_then(|server| server.pid())
    }

    async fn fill(&self) -> Result<()> {
        for table in TABLES {
            self.sql.execute(table.into()).await?;
        }
        let mut transaction = self.sql.begin(Begin::default()).await?;
        for row in 0..ROWS as i64 {
            let fill = Statement::new(FILL).bind(row).bind(0_i64).bind(CONTENT);
            transaction.execute(fill).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn insert(&self) -> Result<()> {
        let insert = Statement::new(INSERT).bind(7_i64).bind(CONTENT);
        self.sql.execute(insert).await?;
        Ok(())
    }

    async fn select(&self, row: i64) -> Result<usize> {
        length(&self.sql.query(Statement::new(SELECT).bind(row)).await?)
    }

    async fn transaction(&self, row: i64) -> Result<()> {
        let mut transaction = self.sql.begin(Begin::default()).await?;
        let update = Statement::new(UPDATE).bind(row);
        transaction.execute(update).await?;
        let select = Statement::new(SELECT).bind(row);
        length(&transaction.query(select).await?)?;
        let insert = Statement::new(INSERT).bind(row).bind(CONTENT);
        transaction.execute(insert).await?;
        Ok(transaction.commit().await?)
    }
}

fn length(rows: &[sinew_engine::sql::Row]) -> Result<usize> {
    let row = rows.first().context("no such row")?;
    match row.values().last() {
        Some(Value::Text(text)) => Ok(text.len()),
        other => anyhow::bail!("not a text: {other:?}"),
    }
}
