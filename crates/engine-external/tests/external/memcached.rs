#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    sync::{
        Arc, Mutex,
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
use sinew_engine_external::memcached::MemcachedCache;
use sinew_testbed::{Memcached, Proxy, Server};

use crate::cache::{is_away, is_up, survives};

/// A namespace that no other cache of this process has.
fn url(hosts: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("memcached://{hosts}?namespace=test-{number}&timeout=2s")
}

fn open(url: &str) -> MemcachedCache {
    MemcachedCache::open(&MemcachedCache::address(url).unwrap(), Clock::system()).unwrap()
}

/// Servers for all cases of a group: some with enough memory, and one with little.
struct Real {
    large: Vec<Server>,
    small: Server,
}

struct RealSubject(Arc<MemcachedCache>);

#[async_trait]
impl Harness for Real {
    async fn create(&self, small: bool) -> Box<dyn Subject> {
        let hosts: Vec<String> = self.large.iter().map(Server::address).collect();
        let hosts = if small {
            self.small.address()
        } else {
            hosts.join(",")
        };
        Box::new(RealSubject(Arc::new(open(&url(&hosts)))))
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
        // The server's own second hand may lag a little.
        tokio::time::sleep(time + Duration::from_millis(100)).await;
    }
}

async fn group(group: Group, servers: usize) {
    let small = Memcached {
        megabytes: Some(8),
        ..Memcached::default()
    };
    let large = (0..servers).map(|_| Server::start(Memcached::default()).unwrap());
    let real = Real {
        large: large.collect(),
        small: Server::start(small).unwrap(),
    };
    suite::run(group, Arc::new(real)).await;
}

macro_rules! groups {
    ($($name:ident: $group:ident over $servers:literal,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                group(Group::$group, $servers).await;
            }
        )*
    };
}

groups! {
    memcached_contract: Contract over 1,
    memcached_contract_of_three: Contract over 3,
    memcached_lifetimes: Lifetimes over 1,
    memcached_bounds: Bounds over 1,
    memcached_concurrency: Concurrency over 1,
    memcached_model: Model over 1,
    memcached_model_of_three: Model over 3,
}

/// Many instances over the same servers are one cache, in whichever order they name them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memcached_instances_share_a_cache() {
    let servers: Vec<Server> = (0..3)
        .map(|_| Server::start(Memcached::default()).unwrap())
        .collect();
    let mut hosts: Vec<String> = servers.iter().map(Server::address).collect();
    let forth = url(&hosts.join(","));
    let query = forth.split_once('?').unwrap().1;
    hosts.reverse();
    let back = format!("memcached://{}?{query}", hosts.join(","));
    let caches: Vec<_> = [&forth, &back, &forth, &back]
        .map(|url| Arc::new(open(url)))
        .into();
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
        // Version and lifetime are the server's.
        let item = cache.get(b"k1").await.unwrap().unwrap();
        assert_eq!(caches[0].get(b"k1").await.unwrap().unwrap(), item);
    }
    let other = open(&url(&hosts.join(",")));
    other
        .set("n".into(), "x".into(), Lifetime::Unlimited)
        .await
        .unwrap();
    other.clear().await.unwrap();
    assert_eq!(other.get(b"n").await.unwrap(), None);
    assert!(caches[0].get(b"n").await.unwrap().is_some());
}

/// One server of several that is away takes only its own keys with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memcached_others_serve_on() {
    let mut servers: Vec<Server> = (0..3)
        .map(|_| Server::start(Memcached::default()).unwrap())
        .collect();
    let hosts: Vec<String> = servers.iter().map(Server::address).collect();
    let cache = open(&url(&hosts.join(",")).replace("timeout=2s", "timeout=500ms"));
    let mut health = cache.health();
    is_up(&mut health).await;
    for n in 0..60 {
        cache
            .set(format!("k{n}").into(), "v".into(), Lifetime::Unlimited)
            .await
            .unwrap();
    }
    servers[1].kill();
    is_away(&mut health).await;
    let (mut there, mut away) = (0, 0);
    for n in 0..60 {
        match cache.get(format!("k{n}").as_bytes()).await {
            Ok(item) => {
                assert!(item.is_some());
                there += 1;
            }
            Err(why) => {
                assert_eq!(why.code(), "engine.unavailable");
                away += 1;
            }
        }
    }
    assert!(there > 20 && away > 5, "{there} there, {away} away");
    servers[1].start_again().unwrap();
    is_up(&mut health).await;
    let mut gone = 0;
    for n in 0..60 {
        gone += usize::from(
            cache
                .get(format!("k{n}").as_bytes())
                .await
                .unwrap()
                .is_none(),
        );
    }
    assert_eq!(gone, away, "the server came back empty");
}

async fn ends(end: fn(&mut Server)) {
    let server = Arc::new(Mutex::new(Server::start(Memcached::default()).unwrap()));
    let cache = Arc::new(open(&url(&server.lock().unwrap().address())));
    let health = cache.health();
    let (ended, again) = (server.clone(), server.clone());
    survives(
        cache,
        health,
        move || end(&mut ended.lock().unwrap()),
        move || again.lock().unwrap().start_again().unwrap(),
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memcached_stopped_and_started() {
    ends(Server::stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memcached_killed_and_started() {
    ends(Server::kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memcached_cut_off() {
    let server = Server::start(Memcached::default()).unwrap();
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
async fn memcached_away_at_open() {
    let mut server = Server::start(Memcached::default()).unwrap();
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
async fn memcached_wrong_credentials() {
    let memcached = Memcached {
        login: Some(("sinew".to_owned(), "right-one".to_owned())),
        ..Memcached::default()
    };
    let server = Server::start(memcached).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let with = |password: &str| {
        let file = secrets.path().join(password);
        fs::write(&file, password).unwrap();
        let url = url(&format!("sinew@{}", server.address()));
        open(&format!("{url}&password_file={}", file.display()))
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
fn memcached_addresses_are_checked() {
    for (url, part) in [
        ("memcached://a/0", "no databases"),
        ("memcached://me@a", "belong together"),
        ("memcached://a?db=3", "no option"),
    ] {
        let error = MemcachedCache::address(url)
            .and_then(|address| MemcachedCache::open(&address, Clock::system()))
            .map(drop)
            .unwrap_err();
        assert_eq!(error.code(), "engine.address");
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
}
