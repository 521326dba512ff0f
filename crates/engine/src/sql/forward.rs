//! A shared database is a database, so that `&Arc<dyn Sql>` goes wherever `&dyn Sql` does.

use std::sync::Arc;

use async_trait::async_trait;
use sinew_core::Result;
use tokio::sync::watch;

use super::{
    Begin, Branch, BranchId, Capability, Executed, Freshness, Prepared, Read, Row, Rows, Settled,
    Sql, Statement, Statistics, Transaction,
};
use crate::Health;

#[async_trait]
impl<S: Sql + ?Sized> Sql for Arc<S> {
    fn capability(&self) -> &Capability {
        (**self).capability()
    }

    async fn execute(&self, statement: Statement) -> Result<Executed> {
        (**self).execute(statement).await
    }

    async fn query(&self, statement: Statement) -> Result<Vec<Row>> {
        (**self).query(statement).await
    }

    async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Executed>> {
        (**self).batch(statements).await
    }

    async fn read(&self, statement: Statement, freshness: Freshness) -> Result<Read> {
        (**self).read(statement, freshness).await
    }

    async fn stream(&self, statement: Statement, freshness: Freshness) -> Result<Box<dyn Rows>> {
        (**self).stream(statement, freshness).await
    }

    async fn begin(&self, options: Begin) -> Result<Box<dyn Transaction>> {
        (**self).begin(options).await
    }

    async fn begin_branch(&self, id: BranchId, options: Begin) -> Result<Box<dyn Branch>> {
        (**self).begin_branch(id, options).await
    }

    async fn commit_prepared(&self, id: &BranchId) -> Result<Settled> {
        (**self).commit_prepared(id).await
    }

    async fn rollback_prepared(&self, id: &BranchId) -> Result<Settled> {
        (**self).rollback_prepared(id).await
    }

    async fn prepared(&self) -> Result<Vec<Prepared>> {
        (**self).prepared().await
    }

    fn health(&self) -> watch::Receiver<Health> {
        (**self).health()
    }

    fn statistics(&self) -> Statistics {
        (**self).statistics()
    }

    async fn close(&self) {
        (**self).close().await;
    }
}
