//! TLS, with a certificate of the broker's own.

use std::{path::Path, process::Command};

use sinew_engine::bus::Bus;
use sinew_testbed::free_port;

use super::*;

/// A certificate for 127.0.0.1 that signs itself.
fn certificate(folder: &Path, of: &str) {
    let made = Command::new("openssl")
        .current_dir(folder)
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args([
            "-keyout",
            &format!("{of}.key"),
            "-out",
            &format!("{of}.pem"),
        ])
        .args(["-subj", "/CN=sinew-test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .output()
        .expect("openssl is there");
    assert!(made.status.success(), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    for of in ["broker", "stranger"] {
        certificate(folder.path(), of);
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let port = free_port().expect("a port");
    let program = RabbitMq::default()
        .with("listeners.ssl.1", &format!("127.0.0.1:{port}"))
        .with("ssl_options.certfile", &file("broker.pem"))
        .with("ssl_options.keyfile", &file("broker.key"))
        .with("ssl_options.cacertfile", &file("broker.pem"));
    let server = Server::start(program).expect("RabbitMQ starts");
    let open = |place: &str, options: &str| {
        let url = format!("amqps://{place}?namespace={}&{options}", namespace());
        let address = RabbitBus::address(&url).expect("an address");
        RabbitBus::open(address, Clock::system())
    };
    let secret = format!("127.0.0.1:{port}");
    let bus = open(&secret, &format!("ca_file={}", file("broker.pem")));
    let topic = name("t");
    soon(async {
        // It may listen there a moment later.
        while let Err(error) = bus.create_topic(&topic, keeping(1)).await {
            eprintln!("{error:?} {}", error.detail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let messages = vec![message("k:v")];
    bus.publish(&topic, messages).await.expect("published");
    let subscribed = bus.subscribe(&topic, &name("g"), patient()).await;
    let consumer = subscribed.expect("joined");
    let delivery = soon(consumer.next()).await.expect("a message");
    assert_eq!(text(&delivery.record.message), "k:v");
    let receipts = [delivery.receipt];
    consumer.ack(&receipts).await.expect("acknowledged");
    // One whose certificate is not trusted is not spoken to, nor is one that speaks no TLS.
    for (place, trusted) in [(secret, "stranger.pem"), (server.address(), "broker.pem")] {
        let bus = open(&place, &format!("timeout=2s&ca_file={}", file(trusted)));
        let error = bus.topics().await.expect_err("not spoken to");
        assert_eq!(error.code(), "engine.unavailable", "{place}: {error:?}");
    }
}
