//! What is met when a store is opened: a server that is away, that lets nobody in, that holds what is not ours.

use std::{fs, sync::Arc, time::Duration};

use sinew_core::{Clock, Kind};
use sinew_engine::{
    Health,
    kv::{Kv, Span},
};
use sinew_engine_external::postgres::PostgresKv;
use sinew_testbed::{Postgres, Server};

use super::{commit, namespace, open, server, soon, sql};

fn code<T>(result: sinew_core::Result<T>) -> String {
    result.err().expect("an error").code().to_owned()
}

/// Waits until a commit is answered.
async fn works(kv: &PostgresKv) {
    soon(async {
        while commit(kv, "key", "value").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for() {
    let mut server = Server::start(Postgres::default()).expect("PostgreSQL starts");
    server.stop();
    let url = format!(
        "postgres://sinew@{}/postgres?timeout=500ms",
        server.address()
    );
    let address = PostgresKv::address(&url).expect("an address");
    let kv = PostgresKv::open(address, Clock::system()).expect("a store");
    let mut health = kv.health();
    soon(health.wait_for(|health| matches!(health, Health::Away { .. })))
        .await
        .expect("the store is open");
    let error = commit(&kv, "a", "1").await.expect_err("nobody is there");
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::Unavailable, "engine.unavailable")
    );
    assert_eq!(code(kv.get(b"a").await), "engine.unavailable");
    assert_eq!(code(kv.watch(Span::all(), 0).await), "engine.unavailable");
    assert_eq!(
        code(kv.grant(Duration::from_secs(60)).await),
        "engine.unavailable"
    );
    server.start_again().expect("it starts");
    soon(health.wait_for(Health::is_up))
        .await
        .expect("the store is open");
    works(&kv).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_and_can_be_set_right() {
    let server = server();
    sql(
        &server,
        "CREATE ROLE guarded LOGIN PASSWORD 'right horse';
         GRANT CREATE ON DATABASE postgres TO guarded",
    )
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    fs::write(&file, "wr0ng-h0rse\n").expect("a file");
    let url = format!(
        "postgres://guarded@{}/postgres?password_file={}",
        server.address(),
        file.display()
    );
    let address = PostgresKv::address(&url).expect("an address");
    let kv = PostgresKv::open(address, Clock::system()).expect("a store");
    let error = commit(&kv, "a", "1").await.expect_err("it is wrong");
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::PermissionDenied, "engine.denied")
    );
    assert!(!format!("{error:?} {:?}", kv.health().borrow()).contains("wr0ng"));
    assert_eq!(code(kv.get(b"a").await), "engine.denied");
    let lease = sinew_engine::kv::LeaseId(1);
    assert_eq!(code(kv.keep_alive(lease).await), "engine.denied");
    sql(&server, "ALTER ROLE guarded PASSWORD 'wr0ng-h0rse'").await;
    works(&kv).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_said() {
    let server = server();
    sql(
        &server,
        "CREATE ROLE poor LOGIN PASSWORD 'poor'; CREATE SCHEMA sinew_given AUTHORIZATION poor",
    )
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    fs::write(&file, "poor").expect("a file");
    let open = |namespace: &str| {
        let url = format!(
            "postgres://poor@{}/postgres?namespace={namespace}&password_file={}",
            server.address(),
            file.display()
        );
        let address = PostgresKv::address(&url).expect("an address");
        PostgresKv::open(address, Clock::system()).expect("a store")
    };
    assert_eq!(
        code(commit(&open("other"), "a", "1").await),
        "engine.denied"
    );
    // Somebody else has made the schema for it.
    assert_eq!(commit(&open("given"), "a", "1").await.expect("a commit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_version_are_left_alone() {
    let server = server();
    let namespace = namespace();
    let before = open(&server.address(), &namespace);
    assert_eq!(commit(&before, "a", "1").await.expect("a commit"), 1);
    sql(
        &server,
        &format!("UPDATE sinew_{namespace}.head SET format = 2"),
    )
    .await;
    let error = commit(&before, "a", "2")
        .await
        .expect_err("it was upgraded meanwhile");
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::FailedPrecondition, "engine.unsuitable")
    );
    let after = open(&server.address(), &namespace);
    let error = commit(&after, "a", "3").await.expect_err("it is newer");
    assert_eq!(error.code(), "engine.unsuitable");
    assert!(error.to_string().contains("version 2"), "{error}");
    sql(
        &server,
        &format!("UPDATE sinew_{namespace}.head SET format = 1"),
    )
    .await;
    works(&after).await;
    assert_eq!(after.revision().await.expect("a revision"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_said() {
    let server = server();
    let url = format!("postgres://sinew@{}/nowhere", server.address());
    let address = PostgresKv::address(&url).expect("an address");
    let kv = PostgresKv::open(address, Clock::system()).expect("a store");
    assert_eq!(code(commit(&kv, "a", "1").await), "engine.unsuitable");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_start_at_once_and_namespaces_stay_apart() {
    let server = server();
    let (first, second) = (namespace(), namespace());
    let mut starting = Vec::new();
    for n in 0..12 {
        let kv = open(&server.address(), [&first, &second][n % 2]);
        starting.push(tokio::spawn(async move {
            commit(&kv, &format!("key{n}"), "value")
                .await
                .expect("a commit")
        }));
    }
    let mut revisions = Vec::new();
    for starting in starting {
        revisions.push(soon(starting).await.expect("no panic"));
    }
    revisions.sort_unstable();
    assert_eq!(revisions, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
    let kv = Arc::new(open(&server.address(), &first));
    let page = kv.range(Span::all(), 100, None).await.expect("a page");
    let keys: Vec<&[u8]> = page.entries.iter().map(|entry| &entry.key[..]).collect();
    assert_eq!(
        keys,
        [&b"key0"[..], b"key10", b"key2", b"key4", b"key6", b"key8"]
    );
}

#[test]
fn what_is_wrong_with_a_url_is_said() {
    for (url, part) in [
        ("mysql://localhost/db", "begins with postgres://"),
        ("postgres://localhost/db?connections=0", "connections"),
        ("postgres://localhost/db?connections=many", "connections"),
        ("postgres://localhost/db?pool=3", "no option"),
        (
            "postgres://localhost/db?namespace=a123456789-123456789-123456789-123456789-123456789-12345678",
            "at most 57",
        ),
    ] {
        let error = PostgresKv::address(url).expect_err(url);
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
}
