//! TLS, with a certificate of the server's own.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    process::Command,
};

use sinew_core::Clock;
use sinew_engine::kv::Kv;
use sinew_engine_external::postgres::PostgresKv;
use sinew_testbed::{Postgres, Server};

use super::{commit, sql};

/// A certificate for 127.0.0.1 that signs itself, where PostgreSQL looks for it.
fn certificate(data: &Path) {
    let made = Command::new("openssl")
        .current_dir(data)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-keyout", "server.key", "-out", "server.crt", "-days", "2"])
        .args([
            "-subj",
            "/CN=sinew-test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{made:?}");
    let owner = fs::metadata(data).expect("the folder");
    for file in ["server.key", "server.crt"] {
        chown(data.join(file), Some(owner.uid()), Some(owner.gid())).expect("it is handed over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    let mut server = Server::start(Postgres::default()).expect("PostgreSQL starts");
    let data = server.folder().join("data");
    certificate(&data);
    sql(&server, "ALTER SYSTEM SET ssl = on").await;
    server.stop();
    fs::write(
        data.join("pg_hba.conf"),
        "hostssl all all 127.0.0.1/32 trust\n",
    )
    .expect("rules");
    server.start_again().expect("it starts again");
    let open = |options: &str| {
        let url = format!(
            "postgres://sinew@{}/postgres?timeout=2s&{options}",
            server.address()
        );
        let address = PostgresKv::address(&url).expect("an address");
        PostgresKv::open(address, Clock::system()).expect("a store")
    };
    let ca = data.join("server.crt");
    let kv = open(&format!("tls=on&ca_file={}", ca.display()));
    assert_eq!(commit(&kv, "a", "1").await.expect("a commit"), 1);
    // Without the certificate it is not trusted; without TLS the server does not let us in.
    let error = open("tls=on")
        .get(b"a")
        .await
        .expect_err("it is not trusted");
    assert_eq!(error.code(), "engine.unavailable");
    let error = open("tls=off")
        .get(b"a")
        .await
        .expect_err("it is not spoken to");
    assert_eq!(error.code(), "engine.denied");
}
