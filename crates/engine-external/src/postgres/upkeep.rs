//! What an instance does by itself: it looks whether the server answers and what others have written,
//! tells others what it has written, and forgets the past that is not kept.

use std::{sync::Arc, time::Duration};

use sinew_core::{Backoff, Result};
use sinew_engine::kv::{Revision, revision_unknown};
use sqlx::{
    Row,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::time::timeout;

use super::{
    PULSE, Shared, schema,
    server::Trouble,
    statement::{self, Head},
};

/// Others are told of new commits at most this often; their own looking bounds what a lost word costs.
const ANNOUNCE: Duration = Duration::from_millis(5);
/// A listener that hears nothing for this long checks that its connection still lives.
const SILENCE: Duration = Duration::from_secs(5);
/// Revisions that are forgotten in one go.
const STROKE: i64 = 4096;

/// Asks for the newest revision, every [`PULSE`] or when there is reason to, and fetches what is new.
pub(super) async fn pulse(shared: Arc<Shared>) {
    loop {
        let head = shared.server.try_rows(statement::head()).await;
        match head.and_then(|rows| statement::read_head(&rows)) {
            Ok(head) => {
                shared.server.is_up();
                shared.saw(&head);
                if let Err(trouble) = fetch(&shared, head).await {
                    tracing::debug!(reason = trouble.reason(), "fetching commits failed");
                }
            }
            Err(trouble @ Trouble::Again(_)) => {
                tracing::debug!(reason = trouble.reason(), "postgresql is busy");
            }
            Err(trouble) => shared.server.is_away(&trouble),
        }
        let _ = timeout(PULSE, shared.fetch.notified()).await;
    }
}

/// Brings the feed up to what the database has.
async fn fetch(shared: &Shared, mut head: Head) -> Result<(), Trouble> {
    let feed = &shared.feed;
    loop {
        let Some(known) = feed.newest() else {
            feed.restart(head.revision);
            return Ok(());
        };
        if head.revision == known {
            return Ok(());
        }
        // A commit of our own may have come between the asking and here; the next look tells.
        if head.revision < known {
            let again = shared.server.try_rows(statement::head()).await?;
            head = statement::read_head(&again)?;
            if head.revision < known {
                tracing::error!(
                    namespace = shared.server.namespace,
                    known,
                    found = head.revision,
                    "the database has gone back: it lost commits that it had acknowledged"
                );
                feed.restart(head.revision);
            }
            continue;
        }
        // Nobody reads it, or it would not fit: watchers that begin later read the history.
        if !feed.is_watched() || head.revision - known > shared.recent_commits as u64 {
            feed.restart(head.revision);
            return Ok(());
        }
        let rows = shared.server.try_rows(statement::history(known)).await?;
        let (newer, commits) = statement::read_history(&rows)?;
        if commits.is_empty() || newer.floor > known || !feed.publish(commits) {
            feed.restart(newer.revision);
        }
        head = newer;
    }
}

/// Hears from other instances that there is something new.
pub(super) async fn listen(shared: Arc<Shared>, node: i64) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let channel = schema::name(&shared.server.namespace);
    loop {
        for options in shared.server.hosts() {
            match hear(&shared, options, &channel, node, &mut backoff).await {
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "listening for notifications broke off"),
            }
        }
        // Looking goes on meanwhile.
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn hear(
    shared: &Shared,
    options: &sqlx::postgres::PgConnectOptions,
    channel: &str,
    node: i64,
    backoff: &mut Backoff,
) -> Result<(), sqlx::Error> {
    let limit = shared.server.timeout;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(limit)
        .connect_lazy_with(options.clone());
    let connecting = async {
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    let late = |_| sqlx::Error::PoolTimedOut;
    let mut listener = timeout(limit, connecting).await.map_err(late)??;
    backoff.reset();
    let own = node.to_string();
    loop {
        // What was said before we listened.
        shared.fetch.notify_one();
        loop {
            match timeout(SILENCE, listener.try_recv()).await {
                Ok(Ok(Some(word))) if word.payload() == own => {}
                Ok(Ok(Some(_))) => shared.fetch.notify_one(),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        let asking = sqlx::query("SELECT 1").execute(&mut listener);
        timeout(limit, asking).await.map_err(late)??;
    }
}

/// Tells other instances that there is something new. Apart from the commit, because a transaction that
/// notifies holds a lock of the whole server until it is on disk.
pub(super) async fn announce(shared: Arc<Shared>, node: i64) {
    let channel = schema::name(&shared.server.namespace);
    loop {
        shared.announce.notified().await;
        let telling = sqlx::query("SELECT pg_notify($1, $2)")
            .bind(channel.clone())
            .bind(node.to_string());
        if let Err(trouble) = shared.server.try_rows(telling).await {
            tracing::debug!(reason = trouble.reason(), "telling of new commits failed");
        }
        tokio::time::sleep(ANNOUNCE).await;
    }
}

/// Forgets what is beyond the retention whenever there may be something.
pub(super) async fn trim(shared: Arc<Shared>) {
    loop {
        shared.trim.notified().await;
        loop {
            match trim_once(&shared).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(trouble) => {
                    tracing::debug!(reason = trouble.reason(), "forgetting the past failed");
                    tokio::time::sleep(PULSE).await;
                    break;
                }
            }
        }
    }
}

/// How much of the history to forget: the oldest commits, while either bound is passed.
const EXCESS: &str = "
SELECT h.revision, h.floor, h.history_bytes, s.revision, s.total
FROM head h LEFT JOIN LATERAL (
    SELECT revision, total FROM (
        SELECT revision, size, sum(size) OVER (ORDER BY revision)::bigint AS total FROM (
            SELECT revision, sum(octet_length(key) + coalesce(octet_length(value), 0)
                + coalesce(octet_length(before_value), 0)) AS size
            FROM changes WHERE revision > h.floor AND revision <= h.floor + $1 GROUP BY revision
        ) sized
    ) summed
    WHERE h.revision - revision >= $2 OR h.history_bytes - (total - size) > $3
    ORDER BY revision DESC LIMIT 1
) s ON true";

/// One stroke; whether there may be more to do.
async fn trim_once(shared: &Shared) -> Result<bool, Trouble> {
    let most = |bound: usize| i64::try_from(bound).unwrap_or(i64::MAX);
    let asking = sqlx::query(EXCESS)
        .bind(STROKE)
        .bind(most(shared.retention.commits))
        .bind(most(shared.retention.bytes));
    let rows = shared.server.try_rows(asking).await?;
    let head = statement::read_head(&rows)?;
    shared.saw(&head);
    let mut moved = false;
    if let Some(row) = rows.first()
        && let Some(floor) = row.try_get::<Option<i64>, _>(3)?
    {
        raise(shared, &head, floor, row.try_get(4)?).await?;
        moved = true;
    }
    forget(shared).await?;
    Ok(moved)
}

/// Raises the floor if it is still where it was read; what falls out of the history is `freed` bytes.
async fn raise(shared: &Shared, head: &Head, floor: i64, freed: i64) -> Result<bool, Trouble> {
    let raising = sqlx::query(
        "UPDATE head SET floor = $2, history_bytes = history_bytes - $3 WHERE floor = $1 RETURNING floor",
    )
    .bind(statement::number(head.floor))
    .bind(floor)
    .bind(freed);
    Ok(!shared.server.try_rows(raising).await?.is_empty())
}

/// Removes what is below the floor already, which nobody sees.
async fn forget(shared: &Shared) -> Result<(), Trouble> {
    loop {
        let removing = sqlx::query(
            "WITH gone AS (
                DELETE FROM changes WHERE revision <= (SELECT floor FROM head)
                    AND revision < (SELECT min(revision) FROM changes) + $1 RETURNING 1
            ) SELECT count(*) FROM gone",
        )
        .bind(STROKE);
        let rows = shared.server.try_rows(removing).await?;
        if rows.first().map_or(Ok(0), |row| row.try_get::<i64, _>(0))? == 0 {
            return Ok(());
        }
    }
}

/// Forgets everything before a revision.
pub(super) async fn compact(shared: &Shared, revision: Revision) -> Result<()> {
    let until = tokio::time::Instant::now() + shared.server.timeout;
    let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(100));
    loop {
        // Only what is really there has a size: rows below the floor are counted off already.
        let rows = shared
            .server
            .rows(|| {
                sqlx::query(
                    "SELECT h.revision, h.floor, h.history_bytes, (
                        SELECT coalesce(sum(octet_length(key) + coalesce(octet_length(value), 0)
                            + coalesce(octet_length(before_value), 0)), 0)::bigint
                        FROM changes WHERE changes.revision > h.floor AND changes.revision <= $1
                    ) FROM head h",
                )
                .bind(statement::number(revision))
            })
            .await?;
        let read = statement::read_head(&rows).and_then(|head| {
            let row = rows.first();
            let freed = row.map_or(Ok(0), |row| row.try_get::<i64, _>(3))?;
            Ok((head, freed))
        });
        let (head, freed) = read.map_err(|trouble| trouble.error())?;
        if revision > head.revision {
            return Err(revision_unknown(revision, head.revision));
        }
        if revision <= head.floor {
            return Ok(());
        }
        match raise(shared, &head, statement::number(revision), freed).await {
            Ok(true) => {
                shared.trim.notify_one();
                return Ok(());
            }
            // Another raised it meanwhile, or nobody knows whether we did: it can be asked for again.
            Ok(false) | Err(Trouble::Away(_) | Trouble::Again(_)) => {}
            Err(trouble) => return Err(trouble.error()),
        }
        let delay = backoff.next_delay();
        if tokio::time::Instant::now() + delay >= until {
            return Err(shared.server.gave_up());
        }
        tokio::time::sleep(delay).await;
    }
}

impl Shared {
    /// Takes note of what the store looks like.
    fn saw(&self, head: &Head) {
        use std::sync::atomic::Ordering;

        self.floor.store(head.floor, Ordering::Relaxed);
        let bytes = usize::try_from(head.history_bytes).unwrap_or_default();
        let slack = self.retention.bytes / 16;
        if bytes > self.retention.bytes.saturating_add(slack) || self.is_long(head.revision) {
            self.trim.notify_one();
        }
    }
}
