//! The statements, and how their rows are read.

use bytes::Bytes;
use sinew_engine::kv::{Entry, Key, LeaseId, Page, Revision, Span, compacted, revision_unknown};
use sqlx::{
    PgConnection, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{
    feed::Commit,
    judge::{Before, Known, Questions, Staged, View},
    schema::FORMAT,
    server::Trouble,
};

type Ask = Query<'static, Postgres, PgArguments>;

/// Behind the last key that there can be, for spans without an end.
const END: [u8; 1025] = [0xff; 1025];

/// A page ends before this many bytes, but has one entry at least.
const PAGE_BYTES: i64 = 8 << 20;

/// Commits read from the history in one go, and their bytes, but one commit at least.
pub(super) const STRETCH: i64 = 256;
const STRETCH_BYTES: i64 = 4 << 20;

/// Revisions are far below the largest number that the database knows.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn revision(row: &PgRow, column: usize) -> Result<Revision, sqlx::Error> {
    row.try_get::<i64, _>(column).map(i64::unsigned_abs)
}

fn ends(span: &Span) -> (&[u8], &[u8]) {
    (&span.start, span.end.as_deref().unwrap_or(&END))
}

fn lease(number: Option<i64>) -> Option<LeaseId> {
    number.map(|number| LeaseId(number.unsigned_abs()))
}

fn bytes(row: &PgRow, column: usize) -> Result<Option<Bytes>, sqlx::Error> {
    Ok(row.try_get::<Option<Vec<u8>>, _>(column)?.map(Bytes::from))
}

pub(super) fn get(key: &[u8]) -> Ask {
    sqlx::query("SELECT value, revision, lease FROM entries WHERE key = $1").bind(key)
}

pub(super) fn read_get(key: &[u8], rows: &[PgRow]) -> Result<Option<Entry>, Trouble> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some(Entry {
        key: Key::copy_from_slice(key),
        value: bytes(row, 0)?.unwrap_or_default(),
        revision: revision(row, 1)?,
        lease: lease(row.try_get(2)?),
    }))
}

/// What is known of the whole store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) revision: Revision,
    pub(super) floor: Revision,
    pub(super) history_bytes: i64,
}

impl Head {
    /// Whether everything after `revision` is still known.
    pub(super) fn check_history(&self, revision: Revision) -> sinew_core::Result<()> {
        if revision > self.revision {
            Err(revision_unknown(revision, self.revision))
        } else if revision < self.floor {
            Err(compacted(revision, self.floor))
        } else {
            Ok(())
        }
    }
}

pub(super) fn head() -> Ask {
    sqlx::query("SELECT revision, floor, history_bytes FROM head")
}

pub(super) fn read_head(rows: &[PgRow]) -> Result<Head, Trouble> {
    let row = rows.first().ok_or_else(headless)?;
    Ok(Head {
        revision: revision(row, 0)?,
        floor: revision(row, 1)?,
        history_bytes: row.try_get(2)?,
    })
}

fn headless() -> Trouble {
    Trouble::Unexpected("the table head is empty".to_owned())
}

/// The present. A row for each key, one more than asked for; those beyond [`PAGE_BYTES`] have no value.
const RANGE: &str = "
SELECT h.revision, h.floor, e.key, e.value, e.revision, e.lease
FROM head h LEFT JOIN LATERAL (
    SELECT key, CASE WHEN n = 1 OR total <= $4 THEN value END AS value, revision, lease
    FROM (
        SELECT *, row_number() OVER w AS n, sum(octet_length(key) + octet_length(value)) OVER w AS total
        FROM (
            SELECT key, value, revision, lease FROM entries
            WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3
        ) page WINDOW w AS (ORDER BY key ROWS UNBOUNDED PRECEDING)
    ) counted
) e ON true ORDER BY e.key";

/// The past: what has not been written since, and what the first change since has found.
const RANGE_AT: &str = "
SELECT h.revision, h.floor, e.key, e.value, e.revision, e.lease
FROM head h LEFT JOIN LATERAL (
    SELECT key, CASE WHEN n = 1 OR total <= $4 THEN value END AS value, revision, lease
    FROM (
        SELECT *, row_number() OVER w AS n, sum(octet_length(key) + octet_length(value)) OVER w AS total
        FROM (
            (SELECT key, value, revision, lease FROM entries
             WHERE key >= $1 AND key < $2 AND revision <= $5 ORDER BY key LIMIT $3)
            UNION ALL
            (SELECT key, before_value, before_revision, before_lease FROM (
                SELECT DISTINCT ON (key) key, before_value, before_revision, before_lease
                FROM changes WHERE revision > $5 AND key >= $1 AND key < $2 ORDER BY key, revision
             ) first WHERE before_revision IS NOT NULL ORDER BY key LIMIT $3)
            ORDER BY key LIMIT $3
        ) page WINDOW w AS (ORDER BY key ROWS UNBOUNDED PRECEDING)
    ) counted
) e ON true ORDER BY e.key";

pub(super) fn range(span: &Span, limit: usize, at: Option<Revision>) -> Ask {
    let (start, end) = ends(span);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1;
    let ask = sqlx::query(if at.is_some() { RANGE_AT } else { RANGE })
        .bind(start)
        .bind(end)
        .bind(limit)
        .bind(PAGE_BYTES);
    match at {
        Some(at) => ask.bind(number(at)),
        None => ask,
    }
}

pub(super) fn read_range(
    limit: usize,
    at: Option<Revision>,
    rows: &[PgRow],
) -> Result<sinew_core::Result<Page>, Trouble> {
    let first = rows.first().ok_or_else(headless)?;
    let head = Head {
        revision: revision(first, 0)?,
        floor: revision(first, 1)?,
        history_bytes: 0,
    };
    let at = at.unwrap_or(head.revision);
    if let Err(error) = head.check_history(at) {
        return Ok(Err(error));
    }
    let mut page = Page {
        entries: Vec::new(),
        revision: at,
        next: None,
    };
    for row in rows {
        let Some(key) = bytes(row, 2)? else { break };
        let value = bytes(row, 3)?;
        let (Some(value), true) = (value, page.entries.len() < limit) else {
            page.next = Some(key);
            break;
        };
        page.entries.push(Entry {
            key,
            value,
            revision: revision(row, 4)?,
            lease: lease(row.try_get(5)?),
        });
    }
    Ok(Ok(page))
}

/// The next whole commits after a revision.
const HISTORY: &str = "
SELECT h.revision, h.floor, c.revision, c.key, c.value, c.lease
FROM head h LEFT JOIN LATERAL (
    SELECT revision, key, value, lease FROM changes
    WHERE revision > $1 AND revision <= (
        SELECT max(revision) FROM (
            SELECT revision, sum(size) OVER (ORDER BY revision) - size AS before FROM (
                SELECT revision, sum(octet_length(key) + coalesce(octet_length(value), 0)) AS size
                FROM changes WHERE revision > $1 AND revision <= $2 GROUP BY revision
            ) sized
        ) summed WHERE before < $3
    )
) c ON true ORDER BY c.revision, c.key";

pub(super) fn history(after: Revision) -> Ask {
    let after = number(after);
    sqlx::query(HISTORY)
        .bind(after)
        .bind(after.saturating_add(STRETCH))
        .bind(STRETCH_BYTES)
}

/// The commits, and the store as it was then.
pub(super) fn read_history(rows: &[PgRow]) -> Result<(Head, Vec<Commit>), Trouble> {
    let first = rows.first().ok_or_else(headless)?;
    let head = Head {
        revision: revision(first, 0)?,
        floor: revision(first, 1)?,
        history_bytes: 0,
    };
    let mut commits: Vec<Commit> = Vec::new();
    for row in rows {
        let Some(number) = row.try_get::<Option<i64>, _>(2)? else {
            break;
        };
        let number = number.unsigned_abs();
        if commits.last().is_none_or(|last| last.revision != number) {
            commits.push(Commit::new(number));
        }
        if let Some(commit) = commits.last_mut() {
            let key = bytes(row, 3)?.unwrap_or_default();
            commit.add(key, bytes(row, 4)?, lease(row.try_get(5)?));
        }
    }
    Ok((head, commits))
}

/// All that a batch must know, at one moment: rows of a kind, with what belongs to it.
const VIEW: &str = "
SELECT 0 AS kind, version AS a, revision AS b, floor AS c, last_lease AS d, NULL::bytea AS key
FROM head WHERE format = $8
UNION ALL
SELECT 1, e.revision, e.lease, octet_length(e.value), NULL, e.key
FROM unnest($1::bytea[]) AS asked(key) JOIN entries e ON e.key = asked.key
UNION ALL
SELECT 2, place, NULL, NULL, NULL, NULL
FROM unnest($2::bytea[], $3::bytea[], $4::bigint[]) WITH ORDINALITY AS asked(first, behind, since, place)
WHERE EXISTS (
    SELECT FROM changes WHERE revision > asked.since AND key >= asked.first AND key < asked.behind
)
UNION ALL
SELECT 3, l.lease, l.ttl, NULL, NULL, NULL
FROM unnest($5::bigint[]) AS asked(lease) JOIN leases l ON l.lease = asked.lease
UNION ALL
SELECT 1, e.revision, e.lease, octet_length(e.value), NULL, e.key
FROM unnest($6::bigint[]) AS asked(lease) JOIN entries e ON e.lease = asked.lease
UNION ALL
SELECT 4, r.lease, r.count, NULL, NULL, NULL
FROM unnest($7::bigint[]) AS asked(lease) JOIN renewals r ON r.lease = asked.lease";

pub(super) async fn view(
    connection: &mut PgConnection,
    questions: &Questions,
) -> Result<View, Trouble> {
    let keys: Vec<&[u8]> = questions.keys.iter().map(|key| &key[..]).collect();
    let spans = questions.spans.iter();
    let (starts, ends): (Vec<&[u8]>, Vec<&[u8]>) = spans.map(|(span, _)| ends(span)).unzip();
    let since: Vec<i64> = questions.spans.iter().map(|(_, r)| number(*r)).collect();
    let leases: Vec<i64> = questions.leases.iter().copied().collect();
    let ending: Vec<i64> = questions.ending.iter().copied().collect();
    let expiring: Vec<i64> = questions.expiring.iter().copied().collect();
    let rows = sqlx::query(VIEW)
        .bind(keys)
        .bind(starts)
        .bind(ends)
        .bind(since)
        .bind(leases)
        .bind(ending)
        .bind(expiring)
        .bind(FORMAT)
        .fetch_all(connection)
        .await?;
    let mut view = View::default();
    let mut has_head = false;
    for row in &rows {
        let a: i64 = row.try_get(1)?;
        match row.try_get::<i32, _>(0)? {
            0 => {
                has_head = true;
                view.version = a;
                view.revision = revision(row, 2)?;
                view.floor = revision(row, 3)?;
                view.last_lease = row.try_get(4)?;
            }
            1 => {
                let known = Known {
                    revision: a.unsigned_abs(),
                    lease: row.try_get(2)?,
                    bytes: usize::try_from(row.try_get::<i64, _>(3)?).unwrap_or_default(),
                };
                view.keys.insert(bytes(row, 5)?.unwrap_or_default(), known);
            }
            2 => {
                view.touched.extend(usize::try_from(a - 1));
            }
            3 => {
                view.leases.insert(a, row.try_get(2)?);
            }
            _ => {
                view.renewals.insert(a, row.try_get(2)?);
            }
        }
    }
    if has_head {
        return Ok(view);
    }
    Err(Trouble::Unsuitable(
        "its tables are not those that this Sinew began with".to_owned(),
    ))
}

/// Writes a batch if the store is still at the version that it was judged at, or nothing at all.
const APPLY: &str = "
WITH guard AS (
    UPDATE head SET version = version + 1, revision = $3, last_lease = $4,
        history_bytes = history_bytes + $5
    WHERE version = $1 AND format = $2 RETURNING 1
), change AS MATERIALIZED (
    SELECT c.* FROM guard, unnest(
        $8::bigint[], $9::bytea[], $10::bytea[], $11::bigint[], $12::boolean[],
        $13::bigint[], $14::bytea[], $15::bigint[], $16::boolean[]
    ) AS c(revision, key, value, lease, stored, before_revision, before_value, before_lease, last)
), writer AS (
    INSERT INTO writers (node, batch, at) SELECT $6, $7, now() FROM guard
    ON CONFLICT (node) DO UPDATE SET batch = excluded.batch, at = excluded.at
), past AS (
    INSERT INTO changes
        (revision, key, value, lease, before_revision, before_value, before_lease)
    SELECT c.revision, c.key, c.value, c.lease, coalesce(e.revision, c.before_revision),
        coalesce(e.value, c.before_value), coalesce(e.lease, c.before_lease)
    FROM change c LEFT JOIN entries e ON c.stored AND e.key = c.key
), present AS (
    INSERT INTO entries (key, value, revision, lease)
    SELECT key, value, revision, lease FROM change WHERE last AND value IS NOT NULL
    ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, revision = excluded.revision, lease = excluded.lease
), gone AS (
    DELETE FROM entries e USING change c WHERE c.last AND c.value IS NULL AND e.key = c.key
)";

/// What [`APPLY`] has more when leases are granted, revived or ended.
const APPLY_LEASES: &str = ", granted AS (
    INSERT INTO leases (lease, ttl)
    SELECT l.* FROM guard, unnest($17::bigint[], $18::bigint[]) AS l(lease, ttl)
), counted AS (
    INSERT INTO renewals (lease, count, ttl)
    SELECT l.lease, 0, l.ttl FROM guard, unnest($19::bigint[], $20::bigint[]) AS l(lease, ttl)
    ON CONFLICT (lease) DO UPDATE SET count = renewals.count + 1
), ended AS (
    DELETE FROM leases l USING guard WHERE l.lease = ANY($21::bigint[])
), forgotten AS (
    DELETE FROM renewals r USING guard WHERE r.lease = ANY($21::bigint[])
)";

const APPLIED: &str = " SELECT count(*) FROM guard";

static APPLY_PLAIN: std::sync::LazyLock<String> =
    std::sync::LazyLock::new(|| format!("{APPLY}{APPLIED}"));
static APPLY_WITH_LEASES: std::sync::LazyLock<String> =
    std::sync::LazyLock::new(|| format!("{APPLY}{APPLY_LEASES}{APPLIED}"));

/// Names a batch, so that its fate can be found out.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchId {
    pub(super) node: i64,
    pub(super) batch: i64,
}

/// Whether it was written; it was not when another writer came first.
pub(super) async fn apply(
    connection: &mut PgConnection,
    version: i64,
    id: BatchId,
    staged: &Staged,
) -> Result<bool, Trouble> {
    let changes = &staged.changes;
    let (mut stored, mut before_revisions) = (Vec::new(), Vec::new());
    let (mut before_values, mut before_leases) = (Vec::new(), Vec::new());
    for change in changes {
        stored.push(change.before == Before::Stored);
        let before = match change.before {
            Before::Staged(place) => Some(&changes[place]),
            Before::Nothing | Before::Stored => None,
        };
        before_revisions.push(before.map(|before| number(before.revision)));
        before_values.push(before.and_then(|before| before.value.as_deref()));
        before_leases.push(before.and_then(|before| before.lease));
    }
    let has_leases =
        !(staged.granted.is_empty() && staged.revived.is_empty() && staged.ended.is_empty());
    let sql = if has_leases {
        &*APPLY_WITH_LEASES
    } else {
        &*APPLY_PLAIN
    };
    let mut query = sqlx::query(sql.as_str())
        .bind(version)
        .bind(FORMAT)
        .bind(number(staged.revision))
        .bind(staged.last_lease)
        .bind(i64::try_from(staged.bytes).unwrap_or(i64::MAX))
        .bind(id.node)
        .bind(id.batch)
        .bind(
            changes
                .iter()
                .map(|c| number(c.revision))
                .collect::<Vec<_>>(),
        )
        .bind(changes.iter().map(|c| &c.key[..]).collect::<Vec<_>>())
        .bind(
            changes
                .iter()
                .map(|c| c.value.as_deref())
                .collect::<Vec<_>>(),
        )
        .bind(changes.iter().map(|c| c.lease).collect::<Vec<_>>())
        .bind(stored)
        .bind(before_revisions)
        .bind(before_values)
        .bind(before_leases)
        .bind(changes.iter().map(|c| c.is_last).collect::<Vec<_>>());
    if has_leases {
        let (granted, ttls): (Vec<i64>, Vec<i64>) = staged.granted.iter().copied().unzip();
        let counted = staged.granted.iter().chain(&staged.revived);
        let (counted, counted_ttls): (Vec<i64>, Vec<i64>) = counted.copied().unzip();
        query = query
            .bind(granted)
            .bind(ttls)
            .bind(counted)
            .bind(counted_ttls)
            .bind(&staged.ended);
    }
    let row = query.fetch_one(connection).await?;
    Ok(row.try_get::<i64, _>(0)? == 1)
}
