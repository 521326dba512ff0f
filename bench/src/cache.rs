//! The embedded cache beside Redis and Memcached, and Sinew's caches over those beside plain clients of theirs.
//!
//! A plain client does the same operation and no more: `GET` and `SET … EX` of the `redis` crate over one shared connection, and Memcached's
//! `mg` and `ms` over a connection for each task. Nothing here is durable.

mod memcached;
mod sides;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sinew_testbed::Server;

use self::sides::Held;
use crate::{
    Options,
    measure::{Plan, Random, Side, Work, alternate},
    report,
};

const KEYS: u64 = 20_000;
const ROOM_MIB: u32 = 256;
const TASKS: [usize; 3] = [1, 16, 64];
/// What a set says of an item's time.
const LIFETIME: Duration = Duration::from_secs(600);

/// Of a hundred operations, so many set.
const MIXES: [(&str, u64); 3] = [("get", 0), ("set", 100), ("9 get 1 set", 10)];

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(compare(options))
}

async fn compare(options: &Options) -> Result<()> {
    let mut plan = Plan::of(options);
    plan.turn /= 2;
    let redis = sinew_testbed::Redis::default();
    let redis = Arc::new(tokio::task::spawn_blocking(|| Server::start(redis)).await??);
    let memcached = sinew_testbed::Memcached {
        megabytes: Some(ROOM_MIB),
        ..sinew_testbed::Memcached::default()
    };
    let memcached = Arc::new(tokio::task::spawn_blocking(|| Server::start(memcached)).await??);
    let held: Vec<Arc<dyn Held>> = vec![
        Arc::new(sides::embedded()),
        Arc::new(sides::RedisCrate::connect(&redis).await?),
        Arc::new(memcached::Plain::new(&memcached)),
        Arc::new(sides::over_redis(&redis)?),
        Arc::new(sides::over_memcached(&memcached)?),
    ];
    let pairs = [(0, 1), (0, 2), (3, 1), (4, 2)];
    let mut figures = Vec::new();
    for (size, value) in [("200 B", 200), ("4 KB", 4096)] {
        let value = Bytes::from(vec![b'v'; value]);
        for held in &held {
            fill(&**held, &value).await.with_context(|| held.name())?;
        }
        for tasks in TASKS {
            for (mix, sets) in MIXES {
                let side = |held| side(held, &value, sets);
                let sides: Vec<Side> = held.iter().map(side).collect();
                let load = format!("{mix} {size} x{tasks}");
                alternate(&plan, &load, tasks, &sides, &pairs, &mut figures).await?;
            }
        }
    }
    let conditions = format!(
        "{KEYS} random keys of 40 B, operations, size of values x tasks; {}; nothing durable; embedded in this process, servers on the loopback",
        plan.text(),
    );
    report::print("cache", &conditions, &figures, options)
}

fn key(number: u64) -> Bytes {
    format!("key/{number:036}").into()
}

async fn fill(held: &dyn Held, value: &Bytes) -> Result<()> {
    let mut one = held.user().await?;
    for number in 0..KEYS {
        one.set(key(number), value.clone()).await?;
    }
    Ok(())
}

fn side(held: &Arc<dyn Held>, value: &Bytes, sets: u64) -> Side {
    let (of, value) = (Arc::clone(held), value.clone());
    let work = move |seed| -> Work {
        let (held, value, mut random) = (Arc::clone(&of), value.clone(), Random(seed));
        // Made when it is first used, and taken along from one operation to the next.
        let user = Arc::new(tokio::sync::Mutex::new(None));
        Box::new(move || {
            let (held, user, value) = (Arc::clone(&held), Arc::clone(&user), value.clone());
            let (key, sets) = (key(random.below(KEYS)), random.below(100) < sets);
            Box::pin(async move {
                let mut user = user.lock().await;
                let user = match &mut *user {
                    Some(user) => user,
                    none => none.insert(held.user().await?),
                };
                if sets {
                    return user.set(key, value).await;
                }
                ensure!(user.get(key).await? == value.len(), "an item is lost");
                Ok(())
            })
        })
    };
    Side::new(held.name(), "", held.server(), work)
}
