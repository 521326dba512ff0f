//! A database, over any dialect.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{Backoff, Clock, Result};
use sinew_engine::{
    Health,
    sql::{
        Begin, Branch, BranchId, Capability, Executed, Freshness, Limits, Prepared, Read, Row,
        Rows, Settled, Source, Sql, Statement, Statistics, Transaction, fault as sql_fault,
    },
};
use tokio::{sync::watch, task::AbortHandle, time::timeout};

use super::{
    Options,
    dialect::{Connection, Dialect, Unsettled},
    monitor,
    pool::{Connections, Lent, Outcome, Ready, Stakes, command, meaning, run},
    replicas::{Replica, Samples},
    session::{Open, OpenBranch},
    stream, text,
};
use crate::fault;

type ConnectOptions<D> = <Connection<D> as sqlx::Connection>::Options;

/// An opened database.
pub(super) struct Opened<D: Dialect> {
    primary: Connections<D>,
    replicas: Vec<Replica<D>>,
    capability: Capability,
    namespace: String,
    health: watch::Receiver<Health>,
    clock: Clock,
    tasks: Vec<AbortHandle>,
}

impl<D: Dialect> Opened<D> {
    /// Connects in the background. Wants to be called within tokio's runtime.
    pub(super) fn new(
        connect: ConnectOptions<D>,
        replicas: Vec<(String, ConnectOptions<D>)>,
        options: &Options,
    ) -> Self {
        let clock = Clock::system();
        let (told, health) = watch::channel(Health::Starting);
        let samples = (!replicas.is_empty()).then(|| Arc::new(Samples::new(clock.clone())));
        let mut tasks = Vec::new();
        let watched = monitor::primary::<D>(
            connect.clone(),
            told,
            samples.clone(),
            clock.clone(),
            options.statement,
        );
        tasks.push(tokio::spawn(watched).abort_handle());
        let replicas = match &samples {
            Some(samples) => replicas
                .into_iter()
                .map(|(name, connect)| Replica::new(name, connect, samples, options, &mut tasks))
                .collect(),
            None => Vec::new(),
        };
        let capability = Capability {
            engine: D::NAME,
            dialect: D::LANGUAGE,
            prepared_branches: D::BRANCHES,
            concurrent_writers: D::BRANCHES,
            transactional_schema: D::LANGUAGE != sinew_engine::sql::Dialect::Mysql,
            replicas: D::REPLICAS,
            limits: Limits {
                parameters: D::PARAMETERS,
                batch: options.batch,
                rows: options.rows,
                connections: options.connections,
                pool_wait: options.pool_wait,
                statement: options.statement,
            },
        };
        Self {
            primary: Connections::new(connect, options, health.clone()),
            replicas,
            capability,
            namespace: options.namespace.clone(),
            health,
            clock,
            tasks,
        }
    }

    fn ready(&self, statement: Statement) -> Result<Ready<D>> {
        let limits = &self.capability.limits;
        Ready::new(statement, limits.statement, limits.rows)
    }

    async fn once(&self, statement: Statement, wants_rows: bool) -> Result<Outcome> {
        let ready = self.ready(statement)?;
        let stakes = stakes(&ready);
        let mut lent = self.primary.lend().await?;
        run(&mut lent, ready, wants_rows, stakes).await
    }

    async fn open(&self, options: Begin) -> Result<Open<D>> {
        let limit = self.capability.limits.statement;
        let mut lent = self.primary.lend().await?;
        lent.begin();
        command(&mut lent, D::begin(&options), limit)
            .await
            .map_err(|error| meaning::<D>(&error, limit, Stakes::Undone).0)?;
        Ok(Open::new(
            lent,
            &options,
            limit,
            self.capability.limits.rows,
        ))
    }

    fn branches(&self) -> Result<()> {
        if D::BRANCHES {
            Ok(())
        } else {
            Err(sql_fault::unsupported(D::NAME, "two-phase branches"))
        }
    }

    async fn settle(&self, id: &BranchId, text: String) -> Result<Settled> {
        let limit = self.capability.limits.statement;
        let branch = D::branch(&self.namespace, id);
        let begun = self.clock.monotonic();
        let mut backoff = Backoff::new(Duration::from_millis(4), Duration::from_millis(100));
        loop {
            let mut lent = self.primary.lend().await?;
            lent.begin();
            let unsettled = match command(&mut lent, text.clone(), limit).await {
                Ok(()) => {
                    lent.done();
                    return Ok(Settled::Done);
                }
                Err(sqlx::Error::Database(error)) => match D::unsettled(&*error) {
                    Unsettled::Other => {
                        let error = sqlx::Error::Database(error);
                        return Err(meaning::<D>(&error, limit, Stakes::Happened).0);
                    }
                    unsettled => unsettled,
                },
                Err(error) => return Err(meaning::<D>(&error, limit, Stakes::Happened).0),
            };
            if matches!(unsettled, Unsettled::Unknown) && self.is_absent(&mut lent, &branch).await?
            {
                lent.done();
                return Ok(Settled::Absent);
            }
            lent.done();
            drop(lent);
            if self.clock.monotonic().saturating_sub(begun) > limit {
                return Err(sql_fault::branch_busy(id));
            }
            self.clock.sleep(backoff.next_delay()).await;
        }
    }

    async fn is_absent(&self, lent: &mut Lent<D>, branch: &str) -> Result<bool> {
        let limit = self.capability.limits.statement;
        match timeout(limit, D::is_absent(lent, branch)).await {
            Ok(Ok(absent)) => Ok(absent),
            Ok(Err(error)) => Err(meaning::<D>(&error, limit, Stakes::Undone).0),
            Err(_) => Err(fault::timeout(D::NAME, limit)),
        }
    }

    /// The replicas that are fresh enough, in an order that spreads the load.
    fn fresh(&self, freshness: Freshness) -> Vec<&Replica<D>> {
        let mut fresh: Vec<_> = self
            .replicas
            .iter()
            .filter(|replica| replica.fresh_enough(freshness).is_some())
            .collect();
        if let Some(first) = fresh.first() {
            let turn = first.turn() % fresh.len();
            fresh.rotate_left(turn);
        }
        fresh
    }
}

/// A statement that only reads has nothing that could have happened.
fn stakes<D: Dialect>(ready: &Ready<D>) -> Stakes {
    // `with` may hold what writes, and `select` may call it.
    match ready.keyword.as_str() {
        "SHOW" | "EXPLAIN" | "VALUES" | "TABLE" => Stakes::Undone,
        _ => Stakes::Happened,
    }
}

#[async_trait]
impl<D: Dialect> Sql for Opened<D> {
    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn execute(&self, statement: Statement) -> Result<Executed> {
        Ok(self.once(statement, false).await?.executed)
    }

    async fn query(&self, statement: Statement) -> Result<Vec<Row>> {
        Ok(self.once(statement, true).await?.rows)
    }

    async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Executed>> {
        let most = self.capability.limits.batch;
        if statements.len() > most {
            return Err(sql_fault::statement_invalid(format!(
                "a batch may have {most} statements, not {}",
                statements.len()
            )));
        }
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        // All are looked at before the first is run.
        for statement in &statements {
            let parameters = statement.parameters.len();
            text::translate(&statement.text, D::LANGUAGE, parameters)?;
        }
        use sinew_engine::sql::Session as _;
        let mut open = self.open(Begin::default()).await?;
        let mut executed = Vec::with_capacity(statements.len());
        for statement in statements {
            match open.execute(statement).await {
                Ok(one) => executed.push(one),
                Err(error) => {
                    Transaction::rollback(Box::new(open)).await?;
                    return Err(error);
                }
            }
        }
        Box::new(open).commit().await?;
        Ok(executed)
    }

    async fn read(&self, statement: Statement, freshness: Freshness) -> Result<Read> {
        let ready = self.ready(statement.clone())?;
        if !text::only_reads(&ready.keyword) {
            return Err(sql_fault::read_only());
        }
        for replica in self.fresh(freshness) {
            let ready = self.ready(statement.clone())?;
            let answer = async {
                let mut lent = replica.connections.lend().await?;
                // Waiting for the connection took time.
                let Some(staleness) = replica.fresh_enough(freshness) else {
                    return Ok(None);
                };
                let outcome = run(&mut lent, ready, true, Stakes::Undone).await?;
                Ok(Some((outcome.rows, staleness)))
            };
            match answer.await {
                Ok(Some((rows, staleness))) => {
                    let name = replica.name.clone();
                    let source = Source::Replica { name, staleness };
                    return Ok(Read { rows, source });
                }
                Ok(None) => {}
                // Another one may do better; the statement itself is at fault otherwise.
                Err(error) if is_of_the_replica(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut lent = self.primary.lend().await?;
        let rows = run(&mut lent, ready, true, Stakes::Undone).await?.rows;
        let source = Source::Primary;
        Ok(Read { rows, source })
    }

    async fn stream(&self, statement: Statement, freshness: Freshness) -> Result<Box<dyn Rows>> {
        let ready = self.ready(statement)?;
        if !text::only_reads(&ready.keyword) {
            return Err(sql_fault::read_only());
        }
        for replica in self.fresh(freshness) {
            if let Ok(lent) = replica.connections.lend().await {
                return Ok(stream::rows(lent, ready));
            }
        }
        let lent = self.primary.lend().await?;
        Ok(stream::rows(lent, ready))
    }

    async fn begin(&self, options: Begin) -> Result<Box<dyn Transaction>> {
        Ok(Box::new(self.open(options).await?))
    }

    async fn begin_branch(&self, id: BranchId, options: Begin) -> Result<Box<dyn Branch>> {
        self.branches()?;
        let limit = self.capability.limits.statement;
        let name = D::branch(&self.namespace, &id);
        let mut lent = self.primary.lend().await?;
        lent.begin();
        let begun = timeout(limit, D::begin_branch(&mut lent, &name, &options)).await;
        match begun {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                lent.done();
                return Err(sql_fault::branch_exists(&id));
            }
            Ok(Err(error)) => return Err(meaning::<D>(&error, limit, Stakes::Undone).0),
            Err(_) => {
                return Err(fault::unavailable(
                    D::NAME,
                    "a branch did not begin in time",
                ));
            }
        }
        let rows = self.capability.limits.rows;
        let open = Open::new(lent, &options, limit, rows);
        Ok(Box::new(OpenBranch { open, id, name }))
    }

    async fn commit_prepared(&self, id: &BranchId) -> Result<Settled> {
        self.branches()?;
        let text = D::commit_prepared(&D::branch(&self.namespace, id));
        self.settle(id, text).await
    }

    async fn rollback_prepared(&self, id: &BranchId) -> Result<Settled> {
        self.branches()?;
        let text = D::rollback_prepared(&D::branch(&self.namespace, id));
        self.settle(id, text).await
    }

    async fn prepared(&self) -> Result<Vec<Prepared>> {
        self.branches()?;
        let limit = self.capability.limits.statement;
        let mut lent = self.primary.lend().await?;
        lent.begin();
        match timeout(limit, D::prepared(&mut lent, &self.namespace)).await {
            Ok(Ok(mut prepared)) => {
                lent.done();
                prepared.sort();
                Ok(prepared)
            }
            Ok(Err(error)) => Err(meaning::<D>(&error, limit, Stakes::Undone).0),
            Err(_) => Err(fault::unavailable(D::NAME, "no answer in time")),
        }
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn statistics(&self) -> Statistics {
        let pool = &self.primary.pool;
        Statistics {
            open: pool.size(),
            idle: u32::try_from(pool.num_idle()).unwrap_or(u32::MAX),
            most: self.capability.limits.connections,
        }
    }

    async fn close(&self) {
        for task in &self.tasks {
            task.abort();
        }
        let limit = self.capability.limits.statement;
        let pools = std::iter::once(&self.primary)
            .chain(self.replicas.iter().map(|replica| &replica.connections));
        let closing = pools.map(|connections| connections.pool.close());
        let _ = timeout(limit, futures_util::future::join_all(closing)).await;
    }
}

fn is_of_the_replica(error: &sinew_core::Error) -> bool {
    use sinew_core::Kind;
    // A conflict: the standby had to cancel the query in favour of what it replays.
    matches!(
        error.kind(),
        Kind::Unavailable | Kind::DeadlineExceeded | Kind::ResourceExhausted | Kind::Aborted
    )
}

impl<D: Dialect> Drop for Opened<D> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
