//! Who measures the leases, when several instances work over one database.
//!
//! A keep-alive, on whatever instance, counts up the lease's row in the table `renewals`. That table is
//! unlogged: a keep-alive waits for no disk. One instance at a time, the *warden*, looks at the counts
//! and measures on its own monotonic clock how long each has stood still; no two clocks are ever compared.
//! A count that has stood still for the TTL makes an expiry, which the writer commits like anything
//! else, with the row locked and the count compared once more: a keep-alive that was answered is never
//! overlooked, even if two instances take themselves for the warden.
//!
//! What is observed is older than the observation, so a lease may live longer than its TTL (by an
//! eighth, when all goes well), never shorter. It has its full TTL again whenever the observation broke off: with a
//! new warden, after a time without answers, and after a restart of the server, which may have
//! emptied the table (it is filled again from the durable one).
//!
//! The warden counts up its own row; another takes over when that has stood still for
//! [`TAKE_OVER`] of the other's clock.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use sinew_core::{Clock, Result};
use sinew_engine::kv::{LeaseId, lease_unknown};
use sqlx::{PgConnection, Row};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    Shared,
    command::{Reply, Request},
    feed::closed,
    judge::number,
    server::Trouble,
    writer,
};

/// How often the warden looks for new leases, at least; each lease is looked at when it is due.
const TICK: Duration = Duration::from_millis(100);
const SHORTEST: Duration = Duration::from_millis(10);
/// How often it shows that it lives.
const BEAT: Duration = Duration::from_millis(500);
/// When another takes over.
const TAKE_OVER: Duration = Duration::from_secs(2);
/// After so long without an answer, the leases have their full TTL again.
const BLIND: Duration = Duration::from_secs(1);
/// Keep-alives that go into one statement.
const RENEWALS: usize = 4096;
/// Expiries that are under way at once.
const EXPIRIES: usize = 256;

/// A keep-alive that waits.
pub(super) type Renewal = (LeaseId, oneshot::Sender<Result<Option<Duration>>>);

/// Gives leases their full TTL again, many with one statement.
pub(super) async fn renew(shared: Arc<Shared>, mut queue: mpsc::Receiver<Renewal>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, RENEWALS).await > 0 {
        let leases: BTreeSet<i64> = waiting.iter().map(|(lease, _)| number(*lease)).collect();
        let leases: Vec<i64> = leases.into_iter().collect();
        // In the order of the leases, so that two instances do not wait for each other.
        let rows = shared
            .server
            .rows(|| {
                sqlx::query(
                    "UPDATE renewals SET count = count + 1 WHERE lease = ANY($1) RETURNING lease, ttl",
                )
                .bind(leases.clone())
            })
            .await;
        let found = rows.and_then(|rows| {
            let read = rows
                .iter()
                .map(|row| Ok((row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?)));
            let read: Result<HashMap<i64, i64>, sqlx::Error> = read.collect();
            read.map_err(|error| Trouble::from(error).error())
        });
        for (lease, answer) in waiting.drain(..) {
            let reply = match &found {
                Ok(found) => Ok(found.get(&number(lease)).copied().map(ttl)),
                Err(error) => Err(again(error)),
            };
            let _ = answer.send(reply);
        }
    }
}

/// The same error for everyone who waited.
fn again(error: &sinew_core::Error) -> sinew_core::Error {
    let code = match error.code() {
        "engine.denied" => return crate::fault::denied(super::server::ENGINE, error.to_string()),
        "engine.unsuitable" => {
            return crate::fault::unsuitable(super::server::ENGINE, error.to_string());
        }
        _ => error.to_string(),
    };
    crate::fault::unavailable(super::server::ENGINE, code)
}

fn ttl(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

/// One keep-alive.
pub(super) async fn keep_alive(
    shared: &Shared,
    renewals: &mpsc::Sender<Renewal>,
    lease: LeaseId,
) -> Result<Duration> {
    let (answer, answered) = oneshot::channel();
    let asking = async {
        renewals.send((lease, answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    };
    match timeout(shared.server.timeout, asking).await {
        Ok(Ok(Some(ttl))) => return Ok(ttl),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(shared.server.gave_up()),
    }
    // It is not counted: it has ended, or the table was emptied. The durable table tells.
    match writer::ask(shared, Request::Revive(lease), 64).await? {
        Reply::Alive(ttl) => Ok(ttl),
        _ => Err(lease_unknown(lease)),
    }
}

/// A lease as the warden sees it.
#[derive(Clone, Copy)]
struct Watched {
    ttl: Duration,
    count: i64,
    /// When the count was first seen.
    since: Duration,
    next_look: Duration,
}

impl Watched {
    /// Looked at often enough that an eighth of the TTL is the most that it lives too long.
    fn step(&self) -> Duration {
        (self.ttl / 8).clamp(TICK, Duration::from_secs(10))
    }
}

pub(super) struct Warden {
    shared: Arc<Shared>,
    clock: Clock,
    node: i64,
    connection: Option<PgConnection>,
    is_warden: bool,
    /// The last answer, on the monotonic clock.
    last_answer: Option<Duration>,
    last_beat: Duration,
    /// When the server was started.
    started: Option<String>,
    /// The other's row, and when it was first seen like that.
    other: Option<((i64, i64), Duration)>,
    leases: HashMap<i64, Watched>,
    looks: BTreeSet<(Duration, i64)>,
    newest: i64,
}

impl Warden {
    pub(super) fn new(shared: Arc<Shared>, clock: Clock, node: i64) -> Self {
        Self {
            shared,
            clock,
            node,
            connection: None,
            is_warden: false,
            last_answer: None,
            last_beat: Duration::ZERO,
            started: None,
            other: None,
            leases: HashMap::new(),
            looks: BTreeSet::new(),
            newest: 0,
        }
    }

    pub(super) async fn run(mut self, mut closing: watch::Receiver<()>) {
        loop {
            let limit = self.shared.server.timeout;
            match timeout(limit, self.tick()).await {
                Ok(Ok(due)) => self.expire(due).await,
                Ok(Err(trouble)) => {
                    tracing::debug!(reason = trouble.reason(), "the leases cannot be looked at");
                    self.connection = None;
                }
                Err(_) => self.connection = None,
            }
            // An error means that the store was dropped.
            if timeout(self.pause(), closing.changed()).await.is_ok() {
                break;
            }
        }
        // So that another need not wait.
        if self.is_warden
            && let Some(mut connection) = self.connection.take()
        {
            let leaving = sqlx::query("DELETE FROM warden WHERE node = $1")
                .bind(self.node)
                .execute(&mut connection);
            let _ = timeout(BLIND, leaving).await;
        }
    }

    /// Until the next look.
    fn pause(&self) -> Duration {
        if !self.is_warden {
            return BEAT;
        }
        let next = self.looks.first().map(|(next, _)| *next);
        let wait = next.map(|next| next.saturating_sub(self.clock.monotonic()));
        wait.map_or(TICK, |wait| wait.clamp(SHORTEST, TICK))
    }

    /// Looks once; answers which leases are due, with the counts that they were seen at.
    async fn tick(&mut self) -> Result<Vec<(i64, i64)>, Trouble> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.shared.server.connect().await?,
        };
        let due = self.look(&mut connection).await?;
        self.connection = Some(connection);
        Ok(due)
    }

    async fn look(&mut self, connection: &mut PgConnection) -> Result<Vec<(i64, i64)>, Trouble> {
        let asked = self.clock.monotonic();
        let is_blind = self.last_answer.is_none_or(|last| asked - last > BLIND);
        if !self.is_warden || is_blind || asked - self.last_beat >= BEAT {
            if is_blind {
                self.other = None;
            }
            let was = std::mem::replace(&mut self.is_warden, false);
            let started = self.beat(connection).await?;
            self.last_answer = Some(self.clock.monotonic());
            self.last_beat = asked;
            let Some(started) = started else {
                return Ok(Vec::new());
            };
            self.is_warden = true;
            if !was || is_blind || self.started.as_ref() != Some(&started) {
                self.started = Some(started);
                self.begin(connection).await?;
                return Ok(Vec::new());
            }
        }
        self.look_at_leases(connection, asked).await
    }

    /// Shows that we are the warden, or becomes it. When the server was started, if we are.
    async fn beat(&mut self, connection: &mut PgConnection) -> Result<Option<String>, Trouble> {
        let row = sqlx::query(
            "UPDATE warden SET beat = beat + 1 WHERE node = $1 RETURNING pg_postmaster_start_time()::text",
        )
        .bind(self.node)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(row) = row {
            return Ok(Some(row.try_get(0)?));
        }
        let row = sqlx::query("SELECT node, beat FROM warden")
            .fetch_optional(&mut *connection)
            .await?;
        let Some(row) = row else {
            let row = sqlx::query(
                "INSERT INTO warden (node, beat) VALUES ($1, 0) ON CONFLICT DO NOTHING
                 RETURNING pg_postmaster_start_time()::text",
            )
            .bind(self.node)
            .fetch_optional(connection)
            .await?;
            return Ok(row.map(|row| row.try_get(0)).transpose()?);
        };
        let seen: (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let now = self.clock.monotonic();
        match self.other {
            Some((other, since)) if other == seen => {
                if now - since < TAKE_OVER {
                    return Ok(None);
                }
            }
            _ => {
                self.other = Some((seen, now));
                return Ok(None);
            }
        }
        let row = sqlx::query(
            "UPDATE warden SET node = $1, beat = 0 WHERE node = $2 AND beat = $3
             RETURNING pg_postmaster_start_time()::text",
        )
        .bind(self.node)
        .bind(seen.0)
        .bind(seen.1)
        .fetch_optional(connection)
        .await?;
        tracing::info!(
            namespace = self.shared.server.namespace,
            "this instance measures the leases now"
        );
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Begins anew: every lease has its full TTL.
    async fn begin(&mut self, connection: &mut PgConnection) -> Result<(), Trouble> {
        let missing = sqlx::query(
            "SELECT FROM leases l WHERE NOT EXISTS (SELECT FROM renewals r WHERE r.lease = l.lease) LIMIT 1",
        )
        .fetch_optional(&mut *connection)
        .await?;
        if missing.is_some() {
            // Under the writers' lock, so that none that ends just now comes back.
            sqlx::raw_sql(
                "BEGIN; SELECT FROM head FOR NO KEY UPDATE;
                 INSERT INTO renewals (lease, count, ttl)
                 SELECT lease, 0, ttl FROM leases ON CONFLICT DO NOTHING; COMMIT",
            )
            .execute(&mut *connection)
            .await?;
        }
        // A batch's number is looked for within seconds; instances of long ago need none.
        sqlx::query("DELETE FROM writers WHERE at < now() - interval '1 day'")
            .execute(&mut *connection)
            .await?;
        let rows = sqlx::query("SELECT lease, count, ttl FROM renewals ORDER BY lease")
            .fetch_all(connection)
            .await?;
        let now = self.clock.monotonic();
        self.leases.clear();
        self.looks.clear();
        self.newest = 0;
        for row in &rows {
            self.meet(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, now);
        }
        Ok(())
    }

    fn meet(&mut self, lease: i64, count: i64, micros: i64, now: Duration) {
        let mut watched = Watched {
            ttl: ttl(micros),
            count,
            since: now,
            next_look: now,
        };
        watched.next_look = now + watched.step();
        self.newest = self.newest.max(lease);
        self.looks.insert((watched.next_look, lease));
        self.leases.insert(lease, watched);
    }

    /// Looks at the leases that are due to be looked at, and at new ones.
    async fn look_at_leases(
        &mut self,
        connection: &mut PgConnection,
        asked: Duration,
    ) -> Result<Vec<(i64, i64)>, Trouble> {
        let looks = self.looks.iter().take_while(|(next, _)| *next <= asked);
        let asked_for: Vec<i64> = looks.map(|(_, lease)| *lease).collect();
        let rows = sqlx::query(
            "SELECT r.lease, r.count, r.ttl FROM renewals r WHERE r.lease > $1
             UNION ALL
             SELECT r.lease, r.count, r.ttl FROM unnest($2::bigint[]) AS a(lease)
             JOIN renewals r ON r.lease = a.lease",
        )
        .bind(self.newest)
        .bind(&asked_for)
        .fetch_all(connection)
        .await?;
        let now = self.clock.monotonic();
        self.last_answer = Some(now);
        let mut gone: BTreeSet<i64> = asked_for.into_iter().collect();
        let mut due = Vec::new();
        for row in &rows {
            let (lease, count): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            gone.remove(&lease);
            let Some(watched) = self.leases.get_mut(&lease) else {
                self.meet(lease, count, row.try_get(2)?, now);
                continue;
            };
            self.looks.remove(&(watched.next_look, lease));
            if watched.count != count {
                (watched.count, watched.since) = (count, now);
            }
            // Unrenewed from before `since` until after `asked`.
            let stood = asked.saturating_sub(watched.since);
            if stood >= watched.ttl && due.len() < EXPIRIES {
                due.push((lease, count));
            }
            let end = watched.since.saturating_add(watched.ttl);
            watched.next_look = end.clamp(now + SHORTEST, now + watched.step());
            self.looks.insert((watched.next_look, lease));
        }
        for lease in gone {
            if let Some(watched) = self.leases.remove(&lease) {
                self.looks.remove(&(watched.next_look, lease));
            }
        }
        Ok(due)
    }

    /// Has the writer end what is due. What fails is due again at the next look.
    async fn expire(&mut self, due: Vec<(i64, i64)>) {
        let ending = due.iter().map(|(lease, count)| {
            let lease = LeaseId(lease.unsigned_abs());
            writer::ask(&self.shared, Request::Expire(lease, *count), 64)
        });
        for result in futures_util::future::join_all(ending).await {
            match result {
                Ok(_) => self.last_answer = Some(self.clock.monotonic()),
                Err(error) => tracing::debug!(%error, "a lease could not be ended yet"),
            }
        }
    }
}
