//! Transactions and branches: one connection each, from their beginning to their end.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::Result;
use sinew_engine::sql::{
    Begin, Branch, BranchId, Executed, Row, Session, Statement, Transaction, fault as sql_fault,
};
use tokio::{sync::Mutex, task::AbortHandle};

use super::{
    dialect::Dialect,
    pool::{Lent, Outcome, Ready, Stakes, command, meaning, run},
    text,
};

/// A transaction that is open.
pub(super) struct Open<D: Dialect> {
    /// Empty when it failed so that the connection had to be closed, or ran out of time.
    slot: Arc<Mutex<Option<Lent<D>>>>,
    /// Closes the connection when the time is over.
    watchdog: AbortHandle,
    /// A statement failed: only rolling back is left.
    failed: bool,
    limit: Duration,
    rows: usize,
    read_only: bool,
}

impl<D: Dialect> Open<D> {
    /// `lent` has just begun a transaction, and is not in order until that ends.
    pub(super) fn new(lent: Lent<D>, options: &Begin, limit: Duration, rows: usize) -> Self {
        let slot = Arc::new(Mutex::new(Some(lent)));
        let held = Arc::clone(&slot);
        let time = options.timeout;
        let watchdog = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            held.lock().await.take();
        });
        Self {
            slot,
            watchdog: watchdog.abort_handle(),
            failed: false,
            limit,
            rows,
            read_only: options.read_only,
        }
    }

    async fn run(&mut self, statement: Statement, wants_rows: bool) -> Result<Outcome> {
        let mut slot = self.slot.lock().await;
        let Some(lent) = slot.as_mut().filter(|_| !self.failed) else {
            return Err(sql_fault::transaction_failed());
        };
        // True until it is known to be well: the future may be dropped.
        self.failed = true;
        let ready = Ready::new(statement, self.limit, self.rows)?;
        if text::commits_implicitly(&ready.keyword, D::LANGUAGE) {
            return Err(sql_fault::statement_invalid(format!(
                "{} would commit the transaction; run it outside",
                ready.keyword
            )));
        }
        if self.read_only && !text::only_reads(&ready.keyword) {
            return Err(sql_fault::read_only());
        }
        let outcome = run(lent, ready, wants_rows, Stakes::Undone).await?;
        self.failed = false;
        Ok(outcome)
    }

    /// The connection, for the end. `None` when it has gone.
    async fn take(&mut self) -> Option<Lent<D>> {
        let lent = self.slot.lock().await.take();
        self.watchdog.abort();
        lent
    }

    /// Ends it with this text.
    async fn undo(&mut self, text: String) {
        if let Some(mut lent) = self.take().await
            && command(&mut lent, text, self.limit).await.is_ok()
        {
            lent.done();
        }
        // Otherwise the connection is closed, which rolls back too.
    }
}

impl<D: Dialect> Drop for Open<D> {
    fn drop(&mut self) {
        self.watchdog.abort();
    }
}

#[async_trait]
impl<D: Dialect> Session for Open<D> {
    async fn execute(&mut self, statement: Statement) -> Result<Executed> {
        Ok(self.run(statement, false).await?.executed)
    }

    async fn query(&mut self, statement: Statement) -> Result<Vec<Row>> {
        Ok(self.run(statement, true).await?.rows)
    }
}

#[async_trait]
impl<D: Dialect> Transaction for Open<D> {
    async fn commit(mut self: Box<Self>) -> Result<()> {
        if self.failed {
            self.undo("ROLLBACK".into()).await;
            return Err(sql_fault::transaction_failed());
        }
        let Some(mut lent) = self.take().await else {
            return Err(sql_fault::transaction_failed());
        };
        match command(&mut lent, "COMMIT".into(), self.limit).await {
            Ok(()) => {
                lent.done();
                Ok(())
            }
            // A commit that is refused may leave the transaction open; the connection goes with it.
            Err(error) => Err(meaning::<D>(&error, self.limit, Stakes::Happened).0),
        }
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        self.undo("ROLLBACK".into()).await;
        Ok(())
    }
}

/// A branch that is open.
pub(super) struct OpenBranch<D: Dialect> {
    pub(super) open: Open<D>,
    pub(super) id: BranchId,
    /// Its name as a literal.
    pub(super) name: String,
}

#[async_trait]
impl<D: Dialect> Session for OpenBranch<D> {
    async fn execute(&mut self, statement: Statement) -> Result<Executed> {
        self.open.execute(statement).await
    }

    async fn query(&mut self, statement: Statement) -> Result<Vec<Row>> {
        self.open.query(statement).await
    }
}

#[async_trait]
impl<D: Dialect> Branch for OpenBranch<D> {
    fn id(&self) -> &BranchId {
        &self.id
    }

    async fn prepare(mut self: Box<Self>) -> Result<()> {
        if self.open.failed {
            self.open.undo(D::rollback_branch(&self.name)).await;
            return Err(sql_fault::transaction_failed());
        }
        let Some(mut lent) = self.open.take().await else {
            return Err(sql_fault::transaction_failed());
        };
        let limit = self.open.limit;
        match command(&mut lent, D::prepare(&self.name), limit).await {
            Ok(()) if D::BRANCH_HOLDS_SESSION => {
                // Nobody else could settle it before this session has gone.
                lent.close().await;
                Ok(())
            }
            Ok(()) => {
                lent.done();
                Ok(())
            }
            Err(sqlx::Error::Database(error)) if D::is_taken(&*error) => {
                Err(sql_fault::branch_exists(&self.id))
            }
            Err(error) => Err(meaning::<D>(&error, limit, Stakes::Happened).0),
        }
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        self.open.undo(D::rollback_branch(&self.name)).await;
        Ok(())
    }
}
