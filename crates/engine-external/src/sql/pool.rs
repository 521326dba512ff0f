//! Connections: bounded, checked, given back only when they are known to be in order.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use futures_util::StreamExt;
use sinew_core::{Backoff, Error, Result, Retry};
use sinew_engine::{
    Health,
    sql::{Executed, Row, Statement, fault as sql_fault},
};
use sqlx::{
    Connection as _, Either, Pool,
    pool::{PoolConnection, PoolOptions},
};
use tokio::{sync::watch, time::timeout};

use super::{
    Options,
    dialect::{Arguments, Connection, Dialect},
    text::{self, Translated},
};
use crate::fault;

type ConnectOptions<D> = <Connection<D> as sqlx::Connection>::Options;

/// Idle for longer than this, a connection is asked whether it lives before it is used.
const DOUBT: Duration = Duration::from_secs(1);
/// What a client waits beyond the database's own limit, so that the clean answer wins.
const GRACE: Duration = Duration::from_millis(250);

/// A pool over one server.
pub(super) struct Connections<D: Dialect> {
    pub(super) pool: Pool<D::Db>,
    pub(super) limit: Duration,
    health: watch::Receiver<Health>,
}

impl<D: Dialect> Connections<D> {
    pub(super) fn new(
        connect: ConnectOptions<D>,
        options: &Options,
        health: watch::Receiver<Health>,
    ) -> Self {
        let limit = options.statement;
        let pool = PoolOptions::<D::Db>::new()
            .max_connections(options.connections)
            .acquire_timeout(options.pool_wait)
            .idle_timeout(options.idle)
            .max_lifetime(options.lifetime)
            .test_before_acquire(false)
            .before_acquire(|connection, state| {
                Box::pin(async move {
                    if state.idle_for < DOUBT {
                        return Ok(true);
                    }
                    let asked = timeout(Duration::from_secs(1), connection.ping()).await;
                    Ok(matches!(asked, Ok(Ok(()))))
                })
            })
            .after_connect(move |connection, _| D::settle(connection, limit))
            .connect_lazy_with(connect);
        Self {
            pool,
            limit,
            health,
        }
    }

    /// A connection. Nothing was done when there is none.
    pub(super) async fn lend(&self) -> Result<Lent<D>> {
        let wait = self.pool.options().get_acquire_timeout();
        let mut waited = Duration::ZERO;
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(250));
        loop {
            let error = match self.pool.acquire().await {
                Ok(connection) => {
                    return Ok(Lent {
                        connection: Some(connection),
                        in_order: true,
                    });
                }
                Err(sqlx::Error::PoolTimedOut) if self.health.borrow().is_up() => {
                    let connections = self.pool.options().get_max_connections();
                    return Err(sql_fault::pool_exhausted(connections));
                }
                // The library has waited itself, or will not get any further.
                Err(error @ (sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed)) => {
                    return Err(self.away(&error));
                }
                Err(error) => self.away(&error),
            };
            // A server that comes up, or SQLite while another connection changes the file to WAL.
            let delay = backoff.next_delay();
            waited += delay;
            if error.retry() == Retry::No || waited > wait {
                return Err(error);
            }
            tokio::time::sleep(delay).await;
        }
    }

    fn away(&self, error: &sqlx::Error) -> Error {
        match error {
            sqlx::Error::Database(error) => D::fault(&**error, self.limit)
                .unwrap_or_else(|| fault::unavailable(D::NAME, "it ended the connection")),
            sqlx::Error::Configuration(why) | sqlx::Error::Tls(why) => {
                fault::unavailable(D::NAME, why.to_string())
            }
            sqlx::Error::Io(why) => fault::unavailable(D::NAME, why.to_string()),
            _ => fault::unavailable(D::NAME, "no connection in time"),
        }
    }
}

/// A connection of a pool. It goes back when it is dropped in order, and is closed otherwise, which rolls back what it had open.
pub(super) struct Lent<D: Dialect> {
    connection: Option<PoolConnection<D::Db>>,
    in_order: bool,
}

impl<D: Dialect> Lent<D> {
    /// Something begins that must be done before the connection can be used by another.
    pub(super) fn begin(&mut self) {
        self.in_order = false;
    }

    pub(super) fn done(&mut self) {
        self.in_order = true;
    }

    /// Closes it and tells the database so.
    pub(super) async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = timeout(Duration::from_secs(1), connection.close()).await;
        }
    }
}

impl<D: Dialect> Deref for Lent<D> {
    type Target = Connection<D>;

    fn deref(&self) -> &Self::Target {
        self.connection
            .as_ref()
            .expect("it is taken only at the end")
    }
}

impl<D: Dialect> DerefMut for Lent<D> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.connection
            .as_mut()
            .expect("it is taken only at the end")
    }
}

impl<D: Dialect> Drop for Lent<D> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && !self.in_order
        {
            // Without a word: whatever it was busy with would be waited for.
            drop(connection.detach());
        }
    }
}

/// A statement that is ready to run.
pub(super) struct Ready<D: Dialect> {
    text: String,
    arguments: Option<Arguments<D>>,
    pub(super) keyword: String,
    pub(super) limit: Duration,
    pub(super) rows: usize,
}

impl<D: Dialect> Ready<D> {
    pub(super) fn new(statement: Statement, limit: Duration, rows: usize) -> Result<Self> {
        let Statement {
            text,
            parameters,
            timeout,
            rows: asked,
        } = statement;
        if parameters.len() > D::PARAMETERS {
            return Err(sql_fault::statement_invalid(format!(
                "a statement may have {} parameters, not {}",
                D::PARAMETERS,
                parameters.len()
            )));
        }
        let Translated {
            mut text,
            order,
            keyword,
        } = text::translate(&text, D::LANGUAGE, parameters.len())?;
        let parameters = match order {
            // The usual case, without copies: each once and in order.
            Some(order) if !order.iter().copied().eq(0..parameters.len()) => order
                .into_iter()
                .map(|index| parameters[index].clone())
                .collect(),
            _ => parameters,
        };
        // What defines or maintains something is not worth preparing, and cannot always be.
        let plain = parameters.is_empty() && !is_prepared(&keyword);
        let arguments = match plain {
            true => None,
            false => Some(D::bind(parameters, &mut text)?),
        };
        Ok(Self {
            text,
            arguments,
            keyword,
            limit: timeout.map_or(limit, |own| own.min(limit)),
            rows: asked.unwrap_or(rows),
        })
    }
}

impl<D: Dialect> Ready<D> {
    /// The text and what is bound to it.
    pub(super) fn into_parts(self) -> (String, Option<Arguments<D>>) {
        (self.text, self.arguments)
    }
}

fn is_prepared(keyword: &str) -> bool {
    text::only_reads(keyword)
        || matches!(
            keyword,
            "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "MERGE" | "CALL"
        )
}

/// What an error says of the fate of what was under way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stakes {
    /// It may have happened.
    Happened,
    /// It is certainly undone with the connection, or only read.
    Undone,
}

/// What comes back.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) rows: Vec<Row>,
    pub(super) executed: Executed,
}

/// Runs a statement to its end. The connection is in order afterwards when it was before and the database answered.
pub(super) async fn run<D: Dialect>(
    lent: &mut Lent<D>,
    ready: Ready<D>,
    wants_rows: bool,
    stakes: Stakes,
) -> Result<Outcome> {
    let was = lent.in_order;
    lent.begin();
    let limit = ready.limit;
    let waited = limit + GRACE.min(limit);
    let answer = timeout(waited, collect::<D>(lent, ready, wants_rows)).await;
    match answer {
        Ok(Ok(outcome)) => {
            lent.in_order = was;
            outcome
        }
        Ok(Err(error)) => {
            let (error, answered) = meaning::<D>(&error, limit, stakes);
            lent.in_order = was && answered;
            Err(error)
        }
        Err(_) => Err(fault::timeout(D::NAME, limit)),
    }
}

async fn collect<D: Dialect>(
    connection: &mut Connection<D>,
    ready: Ready<D>,
    wants_rows: bool,
) -> sqlx::Result<Result<Outcome>> {
    let mut outcome = Outcome::default();
    let mut columns = None;
    let mut failed = None;
    let most = ready.rows;
    let mut answers = D::run(connection, ready.text, ready.arguments);
    while let Some(answer) = answers.next().await {
        match answer? {
            Either::Left(result) => {
                let one = D::executed(&result);
                outcome.executed.affected += one.affected;
                outcome.executed.last_id = one.last_id.or(outcome.executed.last_id);
            }
            // Read to the end even then, so that the connection stays in order.
            Either::Right(_) if !wants_rows || failed.is_some() => {}
            Either::Right(_) if outcome.rows.len() == most => {
                failed = Some(sql_fault::too_many_rows(most));
            }
            Either::Right(row) => match D::row(&row, &mut columns) {
                Ok(row) => outcome.rows.push(row),
                Err(error) => failed = Some(error),
            },
        }
    }
    drop(answers);
    Ok(failed.map_or(Ok(outcome), Err))
}

/// Runs text of our own, without parameters and rows.
pub(super) async fn command<D: Dialect>(
    lent: &mut Lent<D>,
    text: String,
    limit: Duration,
) -> sqlx::Result<()> {
    let ran = async {
        let mut answers = D::run(&mut *lent, text, None);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    };
    timeout(limit + GRACE, ran)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// What an error means, and whether the database answered, so that the connection is in order.
pub(super) fn meaning<D: Dialect>(
    error: &sqlx::Error,
    limit: Duration,
    stakes: Stakes,
) -> (Error, bool) {
    let broken = |why: String| match stakes {
        Stakes::Happened => sql_fault::fate_unknown(why),
        Stakes::Undone => fault::unavailable(D::NAME, why),
    };
    match error {
        sqlx::Error::Database(error) => match D::fault(&**error, limit) {
            Some(error) => (error, true),
            None => (broken("it ended the connection".into()), false),
        },
        // What `command` answers when it is over time.
        sqlx::Error::PoolTimedOut => (fault::timeout(D::NAME, limit), false),
        sqlx::Error::Encode(why) => (sql_fault::value_invalid(why.to_string()), false),
        sqlx::Error::Io(why) => (broken(why.to_string()), false),
        sqlx::Error::WorkerCrashed => (broken("its thread has ended".into()), false),
        // Texts of these may hold values, so they are named only.
        sqlx::Error::Protocol(_) => (broken("the answer cannot be read".into()), false),
        sqlx::Error::InvalidArgument(why) => (sql_fault::statement_invalid(why.clone()), false),
        _ => (fault::unexpected(D::NAME, "an error of the client"), false),
    }
}
