#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::Clock;
use sinew_engine::{
    Health,
    blob::{
        Attributes, Blob, Expect, Key, List, OnlyIf, Put, Range, body, collect,
        suite::{self, End, Group, Harness, Subject},
    },
};
use sinew_engine_external::s3::S3Blob;
use sinew_testbed::{Proxy, S3, Server};
use tokio::{sync::watch, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);

type Shared = Arc<Mutex<Server>>;

fn server() -> Shared {
    Arc::new(Mutex::new(Server::start(S3).unwrap()))
}

/// A bucket that nobody else has.
fn bucket(server: &Shared) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let bucket = format!("bucket-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = server.lock().unwrap().folder().join("data").join(&bucket);
    fs::create_dir(folder).unwrap();
    bucket
}

fn open_with(address: &str, bucket: &str, secret: &str, more: &str) -> S3Blob {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, secret).unwrap();
    let url = format!(
        "s3://{}@{bucket}?endpoint=http://{address}&password_file={}&keys=tree&{more}",
        S3::ACCESS_KEY,
        file.display()
    );
    S3Blob::open(&S3Blob::address(&url).unwrap(), Clock::system()).unwrap()
}

fn open(address: &str, bucket: &str) -> S3Blob {
    open_with(address, bucket, S3::SECRET, "timeout=5s")
}

struct Real(Shared);

struct RealSubject {
    server: Shared,
    bucket: String,
    blob: Arc<S3Blob>,
}

#[async_trait]
impl Harness for Real {
    async fn create(&self) -> Box<dyn Subject> {
        let bucket = bucket(&self.0);
        let address = self.0.lock().unwrap().address();
        Box::new(RealSubject {
            server: self.0.clone(),
            blob: Arc::new(open(&address, &bucket)),
            bucket,
        })
    }
}

#[async_trait]
impl Subject for RealSubject {
    fn blob(&self) -> Arc<dyn Blob> {
        self.blob.clone()
    }

    /// The client ends and, when it is killed, so does the server.
    async fn reopen(&mut self, end: End) {
        let mut server = self.server.lock().unwrap();
        if end == End::Kill {
            server.kill();
            server.start_again().unwrap();
        }
        self.blob = Arc::new(open(&server.address(), &self.bucket));
    }
}

macro_rules! groups {
    ($($name:ident: $group:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                suite::run(Group::$group, Arc::new(Real(server()))).await;
            }
        )*
    };
}

groups! {
    s3_contract: Contract,
    s3_listing: Listing,
    s3_multipart: Multipart,
    s3_durability: Durability,
    s3_concurrency: Concurrency,
    s3_model: Model,
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * n / 7 % 251) as u8).collect()
}

/// A body that is longer than one request is an object like any other, and leaves no upload behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_long_bodies_go_in_parts() {
    let server = server();
    let bucket = bucket(&server);
    let blob = open(&server.lock().unwrap().address(), &bucket);
    let content = noise(20_000_000);
    let checksum = crc32c(&content);
    let put = Put {
        attributes: Attributes {
            content_type: Some("a/b".to_owned()),
            metadata: [("name".to_owned(), "value".to_owned())].into(),
        },
        expect: Expect {
            size: Some(content.len() as u64),
            checksum: Some(checksum),
        },
        only_if: OnlyIf::Absent,
    };
    let object = blob
        .put(&key("a"), body(content.clone()), put.clone())
        .await
        .unwrap();
    assert_eq!(
        (object.size, object.checksum),
        (content.len() as u64, checksum)
    );
    assert_eq!(object.attributes, put.attributes);
    assert_eq!(blob.head(&key("a")).await.unwrap(), Some(object));
    let found = blob.get(&key("a"), None).await.unwrap();
    assert!(collect(found.body, u64::MAX).await.unwrap() == content);
    let range = Some(Range::Between(8_000_000, 17_000_000));
    let found = blob.get(&key("a"), range).await.unwrap();
    assert!(collect(found.body, u64::MAX).await.unwrap() == content[8_000_000..17_000_000]);
    let copy = blob
        .copy(&key("a"), &key("b"), None, OnlyIf::Absent)
        .await
        .unwrap();
    assert_eq!((copy.size, copy.checksum), (content.len() as u64, checksum));

    let again = blob.put(&key("a"), body(content.clone()), put).await;
    assert_eq!(again.unwrap_err().code(), "blob.exists");
    let wrong = Put {
        expect: Expect {
            size: None,
            checksum: Some(checksum ^ 1),
        },
        ..Put::default()
    };
    let wrong = blob.put(&key("c"), body(content), wrong).await;
    assert_eq!(wrong.unwrap_err().code(), "blob.body_mismatch");
    assert_eq!(blob.head(&key("c")).await.unwrap(), None);
    timeout(PATIENCE, async {
        while !blob.uploads(None, 10).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("what was given up is cleaned up");
}

fn crc32c(content: &[u8]) -> u32 {
    let mut check = sinew_engine::blob::Check::new(Expect::default(), u64::MAX).unwrap();
    check.add(content).unwrap();
    check.finish().unwrap().1
}

/// Two instances with the same prefix are one store, and another prefix has none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_instances_share_a_store() {
    let server = server();
    let address = server.lock().unwrap().address();
    let bucket = bucket(&server);
    let at = |prefix: &str| Arc::new(open(&address, &format!("{bucket}/{prefix}")));
    let (one, other, apart) = (at("team/one"), at("team/one/"), at("team/two"));
    let mut tasks = Vec::new();
    for (number, blob) in [&one, &other].into_iter().enumerate() {
        for round in 0..20 {
            let blob = blob.clone();
            tasks.push(tokio::spawn(async move {
                let put = Put {
                    only_if: OnlyIf::Absent,
                    ..Put::default()
                };
                let name = key(&format!("k{round}"));
                blob.put(&name, body(number.to_string()), put).await
            }));
        }
    }
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(why) => assert_eq!(why.code(), "blob.exists"),
        }
    }
    assert_eq!(won, 20);
    let upload = one.begin(&key("up"), Attributes::default()).await.unwrap();
    let part = other
        .part(&upload, 1, body("x"), Expect::default())
        .await
        .unwrap();
    assert_eq!(one.uploads(None, 10).await.unwrap()[0].upload, upload);
    one.complete(&upload, vec![(1, part.tag)], OnlyIf::Any)
        .await
        .unwrap();
    let names = |page: sinew_engine::blob::Page| page.entries.len();
    assert_eq!(names(other.list(List::prefix("")).await.unwrap()), 21);
    assert_eq!(names(apart.list(List::prefix("")).await.unwrap()), 0);
    assert_eq!(apart.uploads(None, 10).await.unwrap(), []);
}

async fn is_up(health: &mut watch::Receiver<Health>) {
    timeout(PATIENCE, health.wait_for(Health::is_up))
        .await
        .expect("it comes up")
        .expect("the engine lives");
}

async fn is_away(health: &mut watch::Receiver<Health>) {
    let away = |health: &Health| matches!(health, Health::Away { .. });
    timeout(PATIENCE, health.wait_for(away))
        .await
        .expect("it is noticed")
        .expect("the engine lives");
}

/// Puts and deletes while the server is away; what was answered is true afterwards.
async fn survives(
    blob: S3Blob,
    begin: impl FnOnce() + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) {
    let outage = std::env::var("SINEW_TEST_OUTAGE").map_or(3, |text| text.parse().unwrap());
    let blob = Arc::new(blob);
    let mut health = blob.health();
    is_up(&mut health).await;
    let answered = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let worker = tokio::spawn({
        let (blob, answered, stop) = (blob.clone(), answered.clone(), stop.clone());
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let content = noise(1000 + n % 7 * 30_000);
                match blob
                    .put(&key(&format!("k{n}")), body(content), Put::default())
                    .await
                {
                    Ok(object) => answered.lock().unwrap().push((n, object)),
                    Err(why) => assert!(
                        ["engine.unavailable", "engine.timeout"].contains(&why.code()),
                        "{why:?}"
                    ),
                }
            }
        }
    });
    let count = || answered.lock().unwrap().len();
    let more = async |than: usize| {
        timeout(PATIENCE, async {
            while count() <= than {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it goes on");
    };
    more(30).await;
    tokio::task::spawn_blocking(begin).await.unwrap();
    is_away(&mut health).await;
    let before = count();
    tokio::time::sleep(Duration::from_secs(outage)).await;
    tokio::task::spawn_blocking(end).await.unwrap();
    is_up(&mut health).await;
    more(before + 30).await;
    stop.store(true, Ordering::Relaxed);
    worker.await.unwrap();
    let answered = std::mem::take(&mut *answered.lock().unwrap());
    for (n, object) in &answered {
        let found = blob.get(&object.key, None).await.unwrap();
        assert_eq!(
            (found.object.size, found.object.checksum),
            (object.size, object.checksum)
        );
        let content = collect(found.body, u64::MAX).await.unwrap();
        assert!(content == noise(1000 + n % 7 * 30_000));
    }
    println!("{} puts answered, {before} of them before", answered.len());
}

async fn ends(end: fn(&mut Server)) {
    let server = server();
    let (bucket, address) = (bucket(&server), server.lock().unwrap().address());
    let blob = open_with(&address, &bucket, S3::SECRET, "timeout=2s");
    let (ended, again) = (server.clone(), server.clone());
    survives(
        blob,
        move || end(&mut ended.lock().unwrap()),
        move || again.lock().unwrap().start_again().unwrap(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_stopped_and_started() {
    ends(Server::stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_killed_and_started() {
    ends(Server::kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_cut_off() {
    let server = server();
    let proxy = Arc::new(Proxy::to(server.lock().unwrap().address()).unwrap());
    let blob = open_with(&proxy.address(), &bucket(&server), S3::SECRET, "timeout=2s");
    let (cut, mended) = (proxy.clone(), proxy.clone());
    survives(blob, move || cut.cut(), move || mended.mend()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_away_at_open() {
    let server = server();
    let bucket = bucket(&server);
    let address = server.lock().unwrap().address();
    server.lock().unwrap().kill();
    let blob = open_with(&address, &bucket, S3::SECRET, "timeout=500ms");
    let mut health = blob.health();
    let error = blob.head(&key("a")).await.unwrap_err();
    assert_eq!(error.code(), "engine.unavailable");
    is_away(&mut health).await;
    server.lock().unwrap().start_again().unwrap();
    is_up(&mut health).await;
    assert_eq!(blob.head(&key("a")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_wrong_credentials_and_buckets() {
    let server = server();
    let address = server.lock().unwrap().address();
    let blob = open_with(&address, &bucket(&server), "wrong-one", "timeout=2s");
    let mut health = blob.health();
    for error in [
        blob.head(&key("a")).await.unwrap_err(),
        blob.put(&key("a"), body("x"), Put::default())
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.code(), "engine.denied", "{error:?}");
        assert!(!format!("{error:?}").contains("wrong-one"));
    }
    is_away(&mut health).await;
    assert!(!format!("{:?}", *health.borrow()).contains("wrong-one"));
    let blob = open(&address, "no-such-bucket");
    let error = blob
        .put(&key("a"), body("x"), Put::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "engine.unsuitable", "{error:?}");
}

#[test]
fn s3_addresses_are_checked() {
    for (url, part) in [
        ("s3://bucket", "access key"),
        ("s3://key@a,b", "one bucket"),
        ("s3://key@a?endpoint=ftp://b", "endpoint is"),
        ("s3://key@a?keys=some&password_env=PATH", "any or tree"),
    ] {
        let error = S3Blob::address(url)
            .and_then(|address| S3Blob::open(&address, Clock::system()))
            .map(drop)
            .unwrap_err();
        assert_eq!(error.code(), "engine.address");
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
}
