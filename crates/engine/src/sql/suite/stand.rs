//! What every case works with: a database, and short ways to use it.

use std::{sync::Arc, time::Duration};

use sinew_core::Kind;

use super::{Harness, Opening, Subject};
use crate::sql::{Begin, BranchId, Dialect, Executed, Row, Session, Sql, Statement, Value};

pub(super) struct Stand {
    harness: Arc<dyn Harness>,
    pub(super) subject: Box<dyn Subject>,
}

impl Stand {
    pub(super) async fn new(harness: Arc<dyn Harness>) -> Self {
        let subject = harness.create().await;
        Self { harness, subject }
    }

    /// Another database, on the same server.
    pub(super) async fn another(&self) -> Self {
        Self::new(self.harness.clone()).await
    }

    pub(super) fn sql(&self) -> Arc<dyn Sql> {
        self.subject.sql()
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.sql().capability().dialect
    }

    /// The same database through the network that can be cut.
    pub(super) async fn distant(&self, statement: Duration) -> Arc<dyn Sql> {
        self.subject
            .open(Opening {
                statement: Some(statement),
                pool_wait: Some(statement),
                distant: true,
                ..Opening::default()
            })
            .await
    }

    pub(super) async fn execute(&self, statement: impl Into<Statement>) -> Executed {
        self.sql().execute(statement.into()).await.unwrap()
    }

    pub(super) async fn query(&self, statement: impl Into<Statement>) -> Vec<Row> {
        self.sql().query(statement.into()).await.unwrap()
    }

    /// The only value of the only row.
    pub(super) async fn value(&self, statement: impl Into<Statement>) -> Value {
        only(self.query(statement).await)
    }

    pub(super) async fn count(&self, table: &str) -> i64 {
        let counted = self.value(format!("select count(*) from {table}")).await;
        counted.as_i64().unwrap()
    }

    /// A table `accounts (id, balance)` with accounts 1 to `accounts` of 100 each.
    pub(super) async fn accounts(&self, accounts: i64) {
        self.execute("create table accounts (id integer primary key, balance integer not null)")
            .await;
        for id in 1..=accounts {
            self.execute(Statement::new("insert into accounts values ($1, 100)").bind(id))
                .await;
        }
    }

    pub(super) async fn balance(&self, id: i64) -> i64 {
        balance(&*self.sql(), id).await
    }
}

pub(super) async fn balance(sql: &dyn Sql, id: i64) -> i64 {
    let statement = Statement::new("select balance from accounts where id = $1").bind(id);
    let rows = sql.query(statement).await.unwrap();
    only(rows).as_i64().unwrap()
}

/// Adds to a balance.
pub(super) fn add(id: i64, amount: i64) -> Statement {
    Statement::new("update accounts set balance = balance + $2 where id = $1")
        .bind(id)
        .bind(amount)
}

pub(super) async fn balance_in<S: Session + ?Sized>(session: &mut S, id: i64) -> i64 {
    let statement = Statement::new("select balance from accounts where id = $1").bind(id);
    only(session.query(statement).await.unwrap())
        .as_i64()
        .unwrap()
}

pub(super) fn only(rows: Vec<Row>) -> Value {
    assert_eq!(rows.len(), 1, "{rows:?}");
    let values = rows.into_iter().next().unwrap().into_values();
    assert_eq!(values.len(), 1, "{values:?}");
    values.into_iter().next().unwrap()
}

pub(super) fn branch(name: &str) -> BranchId {
    BranchId::new(name, "a").unwrap()
}

pub(super) fn long() -> Begin {
    Begin::default()
}

/// Asks until it is so; a case that waits for ever is stopped from outside.
macro_rules! until {
    ($so:expr) => {
        while !$so {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
}
pub(super) use until;

/// Checks an error's kind and code.
#[track_caller]
pub(super) fn fails<T>(result: sinew_core::Result<T>, kind: Kind, code: &str) {
    match result {
        Ok(_) => panic!("should have failed with {code}"),
        Err(error) => assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}"),
    }
}
