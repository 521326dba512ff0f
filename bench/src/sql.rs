//! Sinew's `Sql` over SQLite and PostgreSQL beside sqlx, which it stands on, doing the same: statements with parameters over a pool of ten
//! connections, and the same durability.

mod library;
mod sides;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sinew_testbed::Server;

use self::sides::{Database, OverSql};
use crate::{
    Options,
    measure::{Plan, Random, Side, Work, alternate},
    report,
};

const ROWS: u64 = 20_000;
const CONNECTIONS: u32 = 10;

#[derive(Clone, Copy)]
enum Operation {
    Insert,
    Select,
    Transaction,
}

const OPERATIONS: [(&str, Operation); 3] = [
    ("insert", Operation::Insert),
    ("select by key", Operation::Select),
    ("transaction of 3", Operation::Transaction),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    report::wants_a_disk()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(compare(options))
}

async fn compare(options: &Options) -> Result<()> {
    let plan = Plan::of(options);
    let mut figures = Vec::new();
    if options.wants("sqlite") {
        let folder = tempfile::tempdir()?;
        let file = |name| folder.path().join(name).to_string_lossy().into_owned();
        let url = format!("sqlite:{}", file("sinew.db"));
        let sides: [Arc<dyn Database>; 2] = [
            Arc::new(OverSql::open("Sql, sqlite", sides::SQLITE, &url, None)?),
            Arc::new(library::sqlite(&file("sqlx.db")).await?),
        ];
        // One writes at a time.
        measure(&plan, &sides, &[1], &[1, 16], &mut figures).await?;
    }
    if options.wants("postgres") {
        let program = sinew_testbed::Postgres::default();
        let server = Arc::new(tokio::task::spawn_blocking(|| Server::start(program)).await??);
        let url = format!("postgres://sinew@{}/postgres", server.address());
        let sides: [Arc<dyn Database>; 2] = [
            Arc::new(OverSql::open(
                "Sql, postgres",
                sides::POSTGRES,
                &url,
                Some(&server),
            )?),
            Arc::new(library::postgres(&url, &server).await?),
        ];
        measure(&plan, &sides, &[1, 16], &[1, 16], &mut figures).await?;
    }
    let conditions = format!(
        "statements with parameters on tables of {ROWS} rows and more, tasks; pools of {CONNECTIONS} connections; {}",
        plan.text(),
    );
    report::print("sql", &conditions, &figures, options)
}

async fn measure(
    plan: &Plan,
    databases: &[Arc<dyn Database>],
    writers: &[usize],
    readers: &[usize],
    figures: &mut Vec<report::Figure>,
) -> Result<()> {
    for database in databases {
        database.fill().await.with_context(|| database.name())?;
    }
    for (name, operation) in OPERATIONS {
        let tasks = match operation {
            Operation::Select => readers,
            Operation::Insert | Operation::Transaction => writers,
        };
        for tasks in tasks {
            let side = |database| side(database, operation);
            let sides: Vec<Side> = databases.iter().map(side).collect();
            let load = format!("{name} x{tasks}");
            alternate(plan, &load, *tasks, &sides, &[(0, 1)], figures).await?;
        }
    }
    Ok(())
}

fn side(database: &Arc<dyn Database>, operation: Operation) -> Side {
    let of = Arc::clone(database);
    let work = move |seed| -> Work {
        let (database, mut random) = (Arc::clone(&of), Random(seed));
        Box::new(move || {
            let (database, row) = (Arc::clone(&database), random.below(ROWS) as i64);
            Box::pin(async move {
                match operation {
                    Operation::Insert => database.insert().await,
                    Operation::Transaction => database.transaction(row).await,
                    Operation::Select => {
                        let found = database.select(row).await?;
                        ensure!(found == CONTENT.len(), "a row is lost");
                        Ok(())
                    }
                }
            })
        })
    };
    let durability = match operation {
        Operation::Select => "",
        Operation::Insert | Operation::Transaction => database.durability(),
    };
    Side::new(database.name(), durability, database.server(), work)
}

/// What a row holds.
const CONTENT: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

const TABLES: [&str; 2] = [
    "CREATE TABLE items (id BIGINT PRIMARY KEY, count BIGINT NOT NULL, content TEXT NOT NULL)",
    "CREATE TABLE events (item BIGINT NOT NULL, content TEXT NOT NULL)",
];
const FILL: &str = "INSERT INTO items (id, count, content) VALUES ($1, $2, $3)";
const INSERT: &str = "INSERT INTO events (item, content) VALUES ($1, $2)";
const SELECT: &str = "SELECT id, count, content FROM items WHERE id = $1";
const UPDATE: &str = "UPDATE items SET count = count + 1 WHERE id = $1";
