//! Commits a second, beside the same transactions written plainly with the same client on the same server, in
//! alternating runs. Not a test: `cargo test --release -p sinew-engine-external --features postgres --test external
//! -- --ignored --nocapture postgres::measure`. `SINEW_MEASURE=10` makes each run last 10 s.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sinew_core::Clock;
use sinew_engine::kv::{Condition, Kv, Outcome};
use sinew_engine_external::postgres::PostgresKv;
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{namespace, open, put, server};

const KEYS: u64 = 100_000;
/// Connections of the plain client.
const CONNECTIONS: u32 = 64;
const ROUNDS: usize = 3;

/// The n-th transaction checks one key and writes two, all random.
fn keys(n: usize) -> [String; 3] {
    [0, 1, 2].map(|part| {
        let mixed = (n as u64 * 3 + part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!(
            "{part}/some-path-of-forty-bytes/{:012}",
            (mixed >> 20) % KEYS
        )
    })
}

async fn grouped(kv: &PostgresKv, n: usize) {
    let [checked, first, second] = keys(n);
    let value = "v".repeat(200);
    let conditions = vec![Condition::Absent(checked.into())];
    let writes = vec![put(&first, &value), put(&second, &value)];
    let outcome = kv.commit(conditions, writes).await.expect("a commit");
    assert!(matches!(outcome, Outcome::Committed(_)));
}

/// What an application would write: no revisions, no history.
async fn plain(pool: &PgPool, n: usize) {
    let [checked, first, second] = keys(n).map(String::into_bytes);
    let value = "v".repeat(200).into_bytes();
    let mut transaction = pool.begin().await.expect("begin");
    let found = sqlx::query("SELECT FROM plain WHERE key = $1")
        .bind(checked)
        .fetch_optional(&mut *transaction)
        .await
        .expect("a read");
    assert!(found.is_none());
    // In order, so that no two wait for each other.
    let mut keys = vec![first, second];
    keys.sort();
    sqlx::query(
        "INSERT INTO plain SELECT k, $2 FROM unnest($1::bytea[]) k ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )
    .bind(keys)
    .bind(value)
    .execute(&mut *transaction)
    .await
    .expect("a write");
    transaction.commit().await.expect("commit");
}

/// The same promises as the store's: revisions, history, conditions that nobody writes beside.
async fn plain_with_history(pool: &PgPool, n: usize) {
    let [checked, first, second] = keys(n).map(String::into_bytes);
    let value = "v".repeat(200).into_bytes();
    let mut transaction = pool.begin().await.expect("begin");
    let (revision,): (i64,) =
        sqlx::query_as("UPDATE plain_head SET revision = revision + 1 RETURNING revision")
            .fetch_one(&mut *transaction)
            .await
            .expect("the head");
    let found = sqlx::query("SELECT FROM plain WHERE key = $1")
        .bind(checked)
        .fetch_optional(&mut *transaction)
        .await
        .expect("a read");
    assert!(found.is_none());
    for statement in [
        "INSERT INTO plain_past SELECT $3, k, $2, p.value FROM unnest($1::bytea[]) k LEFT JOIN plain p ON p.key = k",
        "INSERT INTO plain SELECT k, $2, $3 FROM unnest($1::bytea[]) k
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
    ] {
        sqlx::query(statement)
            .bind(vec![first.clone(), second.clone()])
            .bind(&value)
            .bind(revision)
            .execute(&mut *transaction)
            .await
            .expect("a write");
    }
    transaction.commit().await.expect("commit");
}

/// Commits a second of so many tasks.
async fn rate<F, T>(committers: usize, next: &Arc<AtomicUsize>, commit: F) -> f64
where
    F: Fn(usize) -> T + Clone + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let seconds = std::env::var("SINEW_MEASURE").ok();
    let seconds: u64 = seconds.and_then(|text| text.parse().ok()).unwrap_or(3);
    let clock = Clock::system();
    let until = clock.monotonic() + Duration::from_secs(seconds);
    let began = clock.monotonic();
    let running: Vec<_> = (0..committers)
        .map(|_| {
            let (commit, next, clock) = (commit.clone(), next.clone(), clock.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while clock.monotonic() < until {
                    commit(next.fetch_add(1, Ordering::Relaxed)).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in running {
        done += task.await.expect("no panic");
    }
    f64::from(done) / (clock.monotonic() - began).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, and takes a minute"]
async fn commits_a_second() {
    let server = server();
    let kv = Arc::new(open(&server.address(), &namespace()));
    let url = format!(
        "postgres://sinew@{}/postgres?sslmode=disable",
        server.address()
    );
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(60))
        .connect(&url)
        .await
        .expect("a pool");
    let tables = "CREATE TABLE plain (key bytea PRIMARY KEY, value bytea, revision bigint);
        CREATE TABLE plain_head (revision bigint);
        CREATE TABLE plain_past (revision bigint, key bytea, value bytea, before bytea, PRIMARY KEY (revision, key));
        INSERT INTO plain_head VALUES (0)";
    sqlx::raw_sql(tables).execute(&pool).await.expect("tables");
    let next = Arc::new(AtomicUsize::new(0));
    for committers in [1, 64, 1024] {
        let mut rates = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let store = kv.clone();
            rates[0].push(
                rate(committers, &next, move |n| {
                    let store = store.clone();
                    async move { grouped(&store, n).await }
                })
                .await,
            );
            let client = pool.clone();
            rates[1].push(
                rate(committers, &next, move |n| {
                    let client = client.clone();
                    async move { plain(&client, n).await }
                })
                .await,
            );
            let client = pool.clone();
            rates[2].push(
                rate(committers, &next, move |n| {
                    let client = client.clone();
                    async move { plain_with_history(&client, n).await }
                })
                .await,
            );
        }
        for (name, mut rates) in ["sinew", "plain", "plain with history"]
            .into_iter()
            .zip(rates)
        {
            rates.sort_by(f64::total_cmp);
            let (least, median, most) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
            println!(
                "{committers:>5} committers, {name:<18} {median:>8.0}/s ({least:.0} to {most:.0})"
            );
        }
    }
}
