//! What the layer costs beside the bare library, on the same server in the same minute. Nothing is asserted:
//! `cargo test --release -p sinew-engine-external --features sql-sqlite,sql-postgres,sql-mysql -- --ignored overhead --nocapture`.

use std::{sync::Arc, time::Duration};

use sinew_core::Clock;
use sinew_engine::sql::{Sql, Statement};
use sinew_engine_external::sql::open;
use sinew_testbed::{Mariadb, Postgres, Server};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Row as _, mysql::MySqlConnectOptions,
    postgres::PgConnectOptions, sqlite::SqliteConnectOptions,
};

const ROUNDS: usize = 15;
const ROWS: i64 = 1_000;

/// One workload: how often it is done in a round, and by how many at once.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    times: i64,
    tasks: i64,
}

const POINT: Load = Load {
    name: "select 1 row",
    times: 1_500,
    tasks: 1,
};
const MANY: Load = Load {
    name: "select 1 row, 8 tasks",
    times: 3_000,
    tasks: 8,
};
const SCAN: Load = Load {
    name: "select 1,000 rows",
    times: 60,
    tasks: 1,
};
const INSERT: Load = Load {
    name: "insert",
    times: 200,
    tasks: 1,
};

const ONE_ROW: &str = "select id, name, amount from item where id = $1";
const ALL_ROWS: &str = "select id, name, amount from item where id >= $1";

async fn layered(sql: Arc<dyn Sql>, load: Load, from: i64) {
    for n in from..from + load.times / load.tasks {
        match load.name {
            "insert" => {
                let insert = Statement::new("insert into log (name) values ($1)");
                sql.execute(insert.bind("something")).await.expect("done");
            }
            "select 1,000 rows" => {
                let rows = sql.query(Statement::new(ALL_ROWS).bind(0)).await;
                let rows = rows.expect("rows");
                let sum: i64 = rows.iter().filter_map(|row| row[2].as_i64()).sum();
                assert!(sum > 0 && rows.iter().all(|row| row[1].as_str().is_some()));
            }
            _ => {
                let statement = Statement::new(ONE_ROW).bind(n % ROWS);
                let rows = sql.query(statement).await.expect("a row");
                assert_eq!(rows[0][0].as_i64(), Some(n % ROWS));
                assert!(rows[0][1].as_str().is_some() && rows[0][2].as_i64().is_some());
            }
        }
    }
}

/// The same with the library alone; `$1` is `?` in MariaDB.
macro_rules! bare {
    ($name:ident, $pool:ty, $one:expr, $all:expr, $insert:expr) => {
        async fn $name(pool: $pool, load: Load, from: i64) {
            for n in from..from + load.times / load.tasks {
                match load.name {
                    "insert" => {
                        let query = sqlx::query(AssertSqlSafe($insert)).bind("something");
                        query.execute(&pool).await.expect("done");
                    }
                    "select 1,000 rows" => {
                        let query = sqlx::query(AssertSqlSafe($all)).bind(0_i64);
                        let rows = query.fetch_all(&pool).await.expect("rows");
                        let sum: i64 = rows.iter().map(|row| row.get::<i64, _>(2)).sum();
                        let named = |name: String| !name.is_empty();
                        assert!(sum > 0 && rows.iter().all(|row| named(row.get(1))));
                    }
                    _ => {
                        let query = sqlx::query(AssertSqlSafe($one)).bind(n % ROWS);
                        let row = query.fetch_one(&pool).await.expect("a row");
                        assert_eq!(row.get::<i64, _>(0), n % ROWS);
                        assert!(!row.get::<String, _>(1).is_empty());
                        assert!(row.get::<i64, _>(2) >= 0);
                    }
                }
            }
        }
    };
}
const ONE_ROW_MYSQL: &str = "select id, name, amount from item where id = ?";
const ALL_ROWS_MYSQL: &str = "select id, name, amount from item where id >= ?";
const INTO: &str = "insert into log (name) values ($1)";
const INTO_MYSQL: &str = "insert into log (name) values (?)";
bare!(bare_sqlite, sqlx::SqlitePool, ONE_ROW, ALL_ROWS, INTO);
bare!(bare_postgres, sqlx::PgPool, ONE_ROW, ALL_ROWS, INTO);
bare!(
    bare_mysql,
    sqlx::MySqlPool,
    ONE_ROW_MYSQL,
    ALL_ROWS_MYSQL,
    INTO_MYSQL
);

async fn prepare(sql: &dyn Sql) {
    let create = "create table item (id bigint primary key, name varchar(40), amount bigint)";
    sql.execute(create.into()).await.expect("a table");
    let create = "create table log (name varchar(40))";
    sql.execute(create.into()).await.expect("a table");
    for id in 0..ROWS {
        let insert = Statement::new("insert into item values ($1, $2, $1)");
        let insert = insert.bind(id).bind(format!("item number {id}"));
        sql.execute(insert).await.expect("a row");
    }
}

async fn time<F: Future<Output = ()> + Send + 'static>(
    load: Load,
    run: impl Fn(i64) -> F,
) -> Duration {
    let clock = Clock::system();
    let begun = clock.monotonic();
    let tasks: Vec<_> = (0..load.tasks).map(|n| tokio::spawn(run(n * 97))).collect();
    for task in tasks {
        task.await.expect("it does not panic");
    }
    clock.monotonic().saturating_sub(begun)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Rounds of both, in turns, and their medians.
macro_rules! compare {
    ($engine:literal, $sql:expr, $pool:expr, $bare:ident) => {
        for load in [POINT, MANY, SCAN, INSERT] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in 0..=ROUNDS {
                let one = time(load, |from| layered($sql.clone(), load, from)).await;
                let other = time(load, |from| $bare($pool.clone(), load, from)).await;
                // The first warms up.
                if round > 0 {
                    ours.push(one);
                    theirs.push(other);
                }
            }
            let (ours, theirs) = (median(ours), median(theirs));
            let each = |time: Duration| time / u32::try_from(load.times).expect("few");
            println!(
                "{:9} {:22} layer {:>9.1?} bare {:>9.1?} ratio {:.2}",
                $engine,
                load.name,
                each(ours),
                each(theirs),
                ours.as_secs_f64() / theirs.as_secs_f64()
            );
        }
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; see the module's text"]
async fn overhead() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.db");
    let sql = open(&format!("sqlite:{}", file.display())).expect("right");
    prepare(&*sql).await;
    let connect = SqliteConnectOptions::new()
        .filename(&file)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .disable_statement_logging();
    let options = sqlx::sqlite::SqlitePoolOptions::new().test_before_acquire(false);
    let pool = options.connect_lazy_with(connect);
    compare!("sqlite", sql, pool, bare_sqlite);

    let server = Server::start(Postgres::default()).expect("PostgreSQL");
    let address = server.address();
    let sql = open(&format!("postgres://sinew@{address}/postgres?tls=off")).expect("right");
    prepare(&*sql).await;
    let connect = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(server.port())
        .username("sinew")
        .database("postgres")
        .disable_statement_logging();
    let options = sqlx::postgres::PgPoolOptions::new().test_before_acquire(false);
    let pool = options.connect_lazy_with(connect);
    compare!("postgres", sql, pool, bare_postgres);
    drop((server, pool));

    let server = Server::start(Mariadb::default()).expect("MariaDB");
    let address = server.address();
    let sql = open(&format!("mariadb://sinew@{address}/test?tls=off")).expect("right");
    prepare(&*sql).await;
    let connect = MySqlConnectOptions::new()
        .host("127.0.0.1")
        .port(server.port())
        .username("sinew")
        .database("test")
        .disable_statement_logging();
    let options = sqlx::mysql::MySqlPoolOptions::new().test_before_acquire(false);
    let pool = options.connect_lazy_with(connect);
    compare!("mariadb", sql, pool, bare_mysql);
}
