#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::Clock;
use sinew_engine::cache::{
    Cache, Increment, Lifetime,
    suite::{self, Group, Harness, Subject},
};
use sinew_engine_external::redis::RedisCache;
use sinew_testbed::{Proxy, Redis, Server};

use crate::cache::{is_away, is_up, survives};

/// A namespace that no other cache of this process has.
fn url(address: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("redis://{address}/0?namespace=test-{number}&timeout=2s")
}

fn open(url: &str) -> RedisCache {
    RedisCache::open(&RedisCache::address(url).unwrap(), Clock::system()).unwrap()
}

/// Two servers for all cases of a group, one of them with little memory.
struct Real {
    large: Server,
    small: Server,
}

struct RealSubject(Arc<RedisCache>);

#[async_trait]
impl Harness for Real {
    async fn create(&self, small: bool) -> Box<dyn Subject> {
        let server = if small { &self.small } else { &self.large };
        Box::new(RealSubject(Arc::new(open(&url(&server.address())))))
    }

    fn time_is_manual(&self) -> bool {
        false
    }
}

#[async_trait]
impl Subject for RealSubject {
    fn cache(&self) -> Arc<dyn Cache> {
        self.0.clone()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

async fn group(group: Group) {
    let small = Redis {
        memory: Some(16 << 20),
        ..Redis::default()
    };
    let real = Real {
        large: Server::start(Redis::default()).unwrap(),
        small: Server::start(small).unwrap(),
    };
    suite::run(group, Arc::new(real)).await;
}

macro_rules! groups {
    ($($name:ident: $group:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                group(Group::$group).await;
            }
        )*
    };
}

groups! {
    redis_contract: Contract,
    redis_lifetimes: Lifetimes,
    redis_bounds: Bounds,
    redis_concurrency: Concurrency,
    redis_model: Model,
}

/// Many instances over one server are one cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_instances_share_a_cache() {
    let server = Server::start(Redis::default()).unwrap();
    let url = url(&server.address());
    let caches: Vec<_> = (0..4).map(|_| Arc::new(open(&url))).collect();
    let tasks: Vec<_> = caches
        .iter()
        .cloned()
        .enumerate()
        .map(|(node, cache)| {
            tokio::spawn(async move {
                let mut won = 0;
                for round in 0..100 {
                    let key = format!("k{round}");
                    let value = node.to_string();
                    let added = cache
                        .set_if_absent(key.into(), value.into(), Lifetime::Unlimited)
                        .await
                        .unwrap();
                    won += usize::from(added.is_some());
                    cache.increment("n".into(), Increment::by(1)).await.unwrap();
                }
                won
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += task.await.unwrap();
    }
    assert_eq!(won, 100);
    for cache in &caches {
        assert_eq!(cache.get(b"n").await.unwrap().unwrap().value, "400");
    }
    // Another namespace of the same server has none of it, and its end is not ours.
    let other = open(&self::url(&server.address()));
    assert_eq!(other.get(b"n").await.unwrap(), None);
    other
        .set("n".into(), "x".into(), Lifetime::Unlimited)
        .await
        .unwrap();
    other.clear().await.unwrap();
    assert_eq!(other.get(b"n").await.unwrap(), None);
    assert!(caches[0].get(b"n").await.unwrap().is_some());
}

/// Numbers beyond those that Lua knows are added exactly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_counts_as_the_reference_does() {
    let server = Server::start(Redis::default()).unwrap();
    let cache = open(&url(&server.address()));
    let numbers = [
        "0",
        "-0",
        "+5",
        "007",
        "-1",
        "999999999999999",
        "1000000000000000",
        "-999999999999999",
        "9007199254740993",
        "-9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "00000000000000000000000000001",
        "--1",
        "+",
        "",
    ];
    for before in numbers {
        for by in numbers
            .iter()
            .filter_map(|number| number.parse::<i64>().ok())
        {
            for increment in [
                Increment::by(by),
                Increment::by(by).within(-1, 9_007_199_254_740_994),
            ] {
                cache
                    .set("n".into(), before.into(), Lifetime::Unlimited)
                    .await
                    .unwrap();
                let found = cache.increment("n".into(), increment).await;
                match increment.apply(Some(before.as_bytes())) {
                    Ok(sum) => assert_eq!(found.unwrap(), sum, "{before:?} {increment:?}"),
                    Err(why) => assert_eq!(
                        found.unwrap_err().code(),
                        why.code(),
                        "{before:?} {increment:?}"
                    ),
                }
            }
        }
    }
}

type Shared = Arc<Mutex<Server>>;

fn durable() -> Shared {
    let redis = Redis {
        durable: true,
        ..Redis::default()
    };
    Arc::new(Mutex::new(Server::start(redis).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_stopped_and_started() {
    let server = durable();
    let cache = Arc::new(open(&url(&server.lock().unwrap().address())));
    let health = cache.health();
    let (ended, again) = (server.clone(), server.clone());
    survives(
        cache,
        health,
        move || ended.lock().unwrap().stop(),
        move || again.lock().unwrap().start_again().unwrap(),
        true,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_started() {
    let server = durable();
    let cache = Arc::new(open(&url(&server.lock().unwrap().address())));
    let health = cache.health();
    let (ended, again) = (server.clone(), server.clone());
    survives(
        cache,
        health,
        move || ended.lock().unwrap().kill(),
        move || again.lock().unwrap().start_again().unwrap(),
        true,
    )
    .await;
}

/// Without persistence a killed server comes back empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_started_empty() {
    let server = Arc::new(Mutex::new(Server::start(Redis::default()).unwrap()));
    let cache = Arc::new(open(&url(&server.lock().unwrap().address())));
    let health = cache.health();
    let (ended, again) = (server.clone(), server.clone());
    survives(
        cache,
        health,
        move || ended.lock().unwrap().kill(),
        move || again.lock().unwrap().start_again().unwrap(),
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_cut_off() {
    let server = Server::start(Redis::default()).unwrap();
    let proxy = Arc::new(Proxy::to(server.address()).unwrap());
    let cache = Arc::new(open(&url(&proxy.address())));
    let health = cache.health();
    let (cut, mended) = (proxy.clone(), proxy.clone());
    survives(
        cache,
        health,
        move || cut.cut(),
        move || mended.mend(),
        true,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_away_at_open() {
    let mut server = Server::start(Redis::default()).unwrap();
    server.kill();
    let cache = open(&url(&server.address()).replace("timeout=2s", "timeout=300ms"));
    let mut health = cache.health();
    let error = cache.get(b"a").await.unwrap_err();
    assert_eq!(error.code(), "engine.unavailable");
    is_away(&mut health).await;
    server.start_again().unwrap();
    is_up(&mut health).await;
    assert_eq!(cache.get(b"a").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_wrong_credentials() {
    static SECRETS: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    let redis = Redis {
        password: Some("right-one".to_owned()),
        ..Redis::default()
    };
    let server = Server::start(redis).unwrap();
    let with = |password: &str| {
        let file = SECRETS.path().join(password);
        fs::write(&file, password).unwrap();
        open(&format!(
            "{}&password_file={}",
            url(&server.address()),
            file.display()
        ))
    };
    for cache in [open(&url(&server.address())), with("wrong-one")] {
        let error = cache.get(b"a").await.unwrap_err();
        assert_eq!(error.code(), "engine.denied", "{error:?}");
        let mut health = cache.health();
        is_away(&mut health).await;
        assert!(!format!("{error:?} {:?}", *health.borrow()).contains("wrong-one"));
    }
    assert_eq!(with("right-one").get(b"a").await.unwrap(), None);
}

#[test]
fn redis_addresses_are_checked() {
    for (url, part) in [
        ("redis://a,b", "one host"),
        ("redis://a/first", "number of a database"),
        ("redis://a?db=3", "no option"),
    ] {
        let address = RedisCache::address(url);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let error = address
            .and_then(|address| RedisCache::open(&address, Clock::system()))
            .map(drop)
            .unwrap_err();
        assert_eq!(error.code(), "engine.address");
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
}
