//! Getting in: a server that is away, passwords, certificates, what stands in the way.

use std::{fs, path::Path, process::Command, time::Duration};

use bytes::Bytes;
use sinew_core::{Clock, Kind};
use sinew_engine::{
    Health,
    kv::{Condition, Kv, Outcome, Span, Write},
};
use sinew_engine_external::etcd::{EtcdKv, Options};
use sinew_testbed::{Etcd, Server, free_port};

use super::{block_in_place, open};

fn put(key: &str, bytes: usize) -> Write {
    Write::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: vec![b'v'; bytes].into(),
        lease: None,
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("this should have happened soon")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_at_first() {
    let mut server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    block_in_place(|| server.stop());
    let kv = open(
        &format!("{}?timeout=1s", server.address()),
        Options::default(),
    );
    let mut health = kv.health();
    soon(health.wait_for(|health| matches!(health, Health::Away { .. })))
        .await
        .unwrap();
    let error = kv.get(b"a").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::Unavailable, "engine.unavailable")
    );
    let error = kv.commit(vec![], vec![put("a", 1)]).await.unwrap_err();
    assert_eq!(error.code(), "engine.unavailable");
    block_in_place(|| server.start_again()).unwrap();
    soon(health.wait_for(Health::is_up)).await.unwrap();
    let _ = kv.commit(vec![], vec![put("a", 1)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_cannot_be_meant() {
    for url in [
        "etcd://localhost/path",
        "etcd://me@localhost",
        "etcd://localhost?compact=sometimes",
        "http://localhost",
    ] {
        let opened = EtcdKv::address(url).and_then(|it| EtcdKv::open(it, Clock::system()));
        let error = opened.map(|_| ()).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::InvalidArgument, "engine.address"),
            "{url}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_passwords() {
    let mut server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let port = server.port();
    block_in_place(|| {
        for command in [
            "user add root:r00t",
            "user grant-role root root",
            "role add sinew",
            "role grant-permission sinew readwrite --prefix=true shop/",
            "user add app:s3cret",
            "user grant-role app sinew",
            "auth enable",
        ] {
            let arguments: Vec<&str> = command.split(' ').collect();
            if command.starts_with("user grant-role root") {
                // etcd makes the role when authentication is enabled, or has it already.
                let _ = Etcd::control(port, &["role", "add", "root"]);
            }
            Etcd::control(port, &arguments).unwrap();
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", "s3cret\n"), file("wrong", "hunter2\n"));
    let address = server.address();
    for refused in [
        format!("app@{address}?namespace=shop&timeout=2s&password_file={wrong}"),
        format!("{address}?namespace=shop&timeout=2s"),
        format!("app@{address}?namespace=others&timeout=2s&password_file={right}"),
    ] {
        let kv = open(&refused, Options::default());
        let mut health = kv.health();
        let away = health.wait_for(|health| matches!(health, Health::Away { .. }));
        let shown = format!("{:?}", *soon(away).await.unwrap());
        let error = kv.get(b"a").await.unwrap_err();
        assert_eq!(error.code(), "engine.denied", "{refused}: {error:?}");
        assert!(!format!("{shown}{error:?}").contains("hunter2"));
    }
    let at = format!("app@{address}?namespace=shop&compact=on&password_file={right}");
    let kv = open(&at, Options::default());
    let mut watch = kv.watch(Span::all(), 0).await.unwrap();
    let Outcome::Committed(first) = kv.commit(vec![], vec![put("a", 1)]).await.unwrap() else {
        panic!("there is no condition")
    };
    assert_eq!(soon(watch.next()).await.unwrap().revision, first);
    let lease = kv.grant(Duration::from_secs(5)).await.unwrap();
    kv.keep_alive(lease).await.unwrap();
    kv.compact(first).await.unwrap();
    // The server forgets its tokens, and nobody notices.
    block_in_place(|| {
        server.stop();
        server.start_again().unwrap();
    });
    soon(async {
        while kv.commit(vec![], vec![put("b", 1)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(soon(watch.next()).await.unwrap().revision > first);
    kv.revoke(lease).await.unwrap();
}

/// A certificate for 127.0.0.1 that signs itself.
fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .current_dir(folder)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args([
            "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
        ])
        .args(["-subj", "/CN=sinew-test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let (cert, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let program = Etcd::default().with_tls(cert.clone(), key);
    let server = block_in_place(|| Server::start(program)).unwrap();
    let address = server.address();
    let trusted = format!("{address}?tls=on&ca_file={}", cert.display());
    let kv = open(&trusted, Options::default());
    let _ = kv.commit(vec![], vec![put("a", 1)]).await.unwrap();
    assert_eq!(kv.get(b"a").await.unwrap().unwrap().value, "v");
    // Without the certificate it is not trusted, and without TLS not spoken to.
    for other in ["tls=on&timeout=1s", "tls=off&timeout=1s"] {
        let kv = open(&format!("{address}?{other}"), Options::default());
        let error = kv.get(b"a").await.unwrap_err();
        assert_eq!(error.code(), "engine.unavailable", "{other}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_not_ours() {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    block_in_place(|| Etcd::control(server.port(), &["put", "sinew/m/format", "99"])).unwrap();
    let kv = open(
        &format!("{}?timeout=1s", server.address()),
        Options::default(),
    );
    let error = kv.get(b"a").await.unwrap_err();
    // Before the first attempt it is just not there yet.
    let error = if error.code() == "engine.unavailable" {
        kv.get(b"a").await.unwrap_err()
    } else {
        error
    };
    assert_eq!(error.code(), "engine.unsuitable", "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_and_nothing_written() {
    let server = block_in_place(|| Server::start(Etcd::default())).unwrap();
    let kv = open(&server.address(), Options::default());
    let most = kv.capability().limits.transaction_bytes;
    let ranges = vec![Condition::Unchanged(Span::all(), 0); 90];
    let writes: Vec<Write> = (0..3).map(|n| put(&format!("k{n}"), most / 2)).collect();
    for (conditions, writes) in [(vec![], writes), (ranges, vec![put("a", 1)])] {
        let error = kv.commit(conditions, writes).await.unwrap_err();
        assert_eq!(error.code(), "kv.transaction_invalid");
    }
    assert_eq!(kv.revision().await.unwrap(), 0);
    // Pages are made smaller than was asked for rather than refused.
    for n in 0..40 {
        let _ = kv
            .commit(vec![], vec![put(&format!("k{n:02}"), 1 << 20)])
            .await
            .unwrap();
    }
    let (mut found, mut rest) = (0, Span::all());
    loop {
        let page = kv.range(rest.clone(), 100, None).await.unwrap();
        found += page.entries.len();
        match page.next {
            Some(next) => rest.start = next,
            None => break,
        }
    }
    assert_eq!(found, 40);
    // And a watch of all of it comes in parts.
    let mut watch = kv.watch(Span::all(), 0).await.unwrap();
    for _ in 0..10 {
        assert_eq!(soon(watch.next()).await.unwrap().events.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_is_told() {
    let program = Etcd::default().with("--quota-backend-bytes=4194304");
    let server = block_in_place(|| Server::start(program)).unwrap();
    let kv = open(&server.address(), Options::default());
    let error = soon(async {
        loop {
            if let Err(error) = kv.commit(vec![], vec![put("a", 1 << 20)]).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::ResourceExhausted, "kv.disk_full")
    );
    assert!(kv.get(b"a").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_there() {
    let at = format!("127.0.0.1:{}?timeout=500ms", free_port().unwrap());
    let kv = open(&at, Options::default());
    let error = kv.watch(Span::all(), 0).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}
