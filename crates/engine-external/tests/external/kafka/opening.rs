//! Servers that are away, that do not let us in, and URLs that are wrong.

use std::{io::Write, time::Duration};

use sinew_core::Kind;
use sinew_engine::{
    Health,
    bus::{Bus, DeadLetter, Message, Redeliver, Seek},
};
use sinew_engine_external::{
    Address,
    kafka::{Options, PORT},
};
use sinew_testbed::{Kafka, Server, free_port};

use super::{keeping, message, name, open, open_url, patient};

#[test]
fn wrong_options_are_said() {
    for (url, part) in [
        ("kafka://localhost?replicas=0", "replicas"),
        ("kafka://localhost?replicas=many", "replicas"),
        ("kafka://localhost?flush=sometimes", "flush"),
        ("kafka://localhost?sasl=gssapi", "sasl"),
        ("kafka://localhost?lease=10ms", "lease"),
        ("kafka://localhost?lease=long", "lease"),
    ] {
        let address = Address::parse(url, PORT, Options::NAMES).unwrap();
        let error = Options::read(&address).unwrap_err();
        assert_eq!(error.code(), "engine.address");
        assert!(error.message().contains(part), "{error}");
    }
    let url = "kafka://a,b:4333?replicas=3&lease=5s&tls=off";
    let address = Address::parse(url, PORT, Options::NAMES).unwrap();
    assert_eq!(address.hosts[0].port, PORT);
    let options = Options::read(&address).unwrap();
    assert_eq!(
        (options.replicas, options.flush, options.lease),
        (3, false, Duration::from_secs(5))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_later_is_joined() {
    let mut server = Server::start(Kafka::default()).unwrap();
    server.stop();
    let bus = open(&server.address(), "later");
    let mut health = bus.health();
    assert!(!health.borrow().is_up());
    let away = bus.create_topic(&name("t"), keeping(1)).await.unwrap_err();
    assert_eq!(
        (away.kind(), away.code()),
        (Kind::Unavailable, "engine.unavailable")
    );
    let is_away = |health: &Health| matches!(health, Health::Away { .. });
    health.wait_for(is_away).await.unwrap();
    server.start_again().unwrap();
    let up = tokio::time::timeout(Duration::from_secs(20), health.wait_for(Health::is_up));
    up.await.unwrap().unwrap();
    assert!(bus.create_topic(&name("t"), keeping(1)).await.unwrap());
    bus.publish(&name("t"), vec![Message::new("x")])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens() {
    let bus = open(&format!("127.0.0.1:{}", free_port().unwrap()), "nobody");
    let error = bus.topics().await.unwrap_err();
    assert_eq!(error.code(), "engine.unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_must_be_right() {
    let server = Server::start(Kafka::default().user("sinew", "s3cret")).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let address = server.address();
    let url =
        |file: &str| format!("kafka://sinew@{address}?password_file={file}&lease=1s&timeout=2s");
    file.write_all(b"wrong\n").unwrap();
    let bus = open_url(&url(&file.path().display().to_string()));
    let error = bus.topics().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::PermissionDenied, "engine.denied")
    );
    assert!(!format!("{error:?}").contains("wrong"));
    let mut health = bus.health();
    let is_away = |health: &Health| matches!(health, Health::Away { .. });
    health.wait_for(is_away).await.unwrap();

    let path = server.folder().join("password");
    std::fs::write(&path, "s3cret\n").unwrap();
    for (mechanism, topic) in [
        ("plain", "p"),
        ("scram-sha-256", "s"),
        ("scram-sha-512", "l"),
    ] {
        let url = format!("{}&sasl={mechanism}", url(&path.display().to_string()));
        let bus = open_url(&url);
        assert!(bus.create_topic(&name(topic), keeping(1)).await.unwrap());
    }
}

/// With a password, over TLS with a certificate of the server's own.
#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    let server = Server::start(Kafka::default().user("sinew", "s3cret").tls()).unwrap();
    let path = server.folder().join("password");
    std::fs::write(&path, "s3cret").unwrap();
    let open = |options: &str| {
        let (address, file) = (server.address(), path.display());
        open_url(&format!(
            "kafka://sinew@{address}?password_file={file}&lease=1s&timeout=3s&sasl=plain&{options}"
        ))
    };
    let ca = server.folder().join("server.crt");
    let bus = open(&format!("tls=on&ca_file={}", ca.display()));
    assert!(bus.create_topic(&name("t"), keeping(1)).await.unwrap());
    bus.publish(&name("t"), vec![Message::new("x")])
        .await
        .unwrap();
    // Without the certificate it is not trusted; without TLS nothing is understood.
    for options in ["tls=on", "tls=off"] {
        let error = open(options).topics().await.unwrap_err();
        assert_eq!(error.code(), "engine.unavailable", "{options}");
    }
}

/// What the guide says a user must be allowed is enough.
#[tokio::test(flavor = "multi_thread")]
async fn few_rights_are_enough() {
    let server = Server::start(Kafka::default().user("sinew", "s3cret").guarded()).unwrap();
    let user = ["--allow-principal", "User:sinew"];
    let mut rights: Vec<&str> = ["Create", "Delete", "Read", "Write", "Describe"]
        .into_iter()
        .flat_map(|operation| ["--operation", operation])
        .collect();
    rights.extend(user);
    rights.extend(["--resource-pattern-type", "prefixed", "--topic", "few."]);
    Kafka::allow(server.folder(), &rights).unwrap();
    let rights = [&user[..], &["--operation", "Describe", "--cluster"]].concat();
    Kafka::allow(server.folder(), &rights).unwrap();
    let path = server.folder().join("password");
    std::fs::write(&path, "s3cret").unwrap();
    let (address, file) = (server.address(), path.display());
    let bus = open_url(&format!(
        "kafka://sinew@{address}?password_file={file}&lease=1s&namespace=few"
    ));
    bus.create_topic(&name("t"), keeping(2)).await.unwrap();
    let said: Vec<_> = (0..10).map(|n| message(&format!("k{n}:x"))).collect();
    bus.publish(&name("t"), said).await.unwrap();
    let mut subscription = patient();
    let topic = name("dead");
    subscription.group.dead_letter = Some(DeadLetter { topic, after: 1 });
    let consumer = bus
        .subscribe(&name("t"), &name("g"), subscription)
        .await
        .unwrap();
    for number in 0..10 {
        let delivery = consumer.next().await.unwrap();
        if number % 2 == 0 {
            consumer.ack(&[delivery.receipt]).await.unwrap();
        } else {
            consumer
                .nack(&delivery.receipt, Redeliver::Never)
                .await
                .unwrap();
        }
    }
    let state = bus.group(&name("t"), &name("g")).await.unwrap();
    assert_eq!((state.lag, state.consumers), (0, 1));
    bus.seek(&name("t"), &name("g"), Seek::Earliest)
        .await
        .unwrap();
    consumer.next().await.unwrap();
    bus.delete_group(&name("t"), &name("g")).await.unwrap();
    bus.delete_topic(&name("t")).await.unwrap();
    assert_eq!(bus.topics().await.unwrap(), [name("dead")]);
    bus.close().await;
    let (address, file) = (server.address(), path.display());
    let other = open_url(&format!(
        "kafka://sinew@{address}?password_file={file}&lease=1s&namespace=other"
    ));
    let error = other.topics().await.unwrap_err();
    assert_eq!(error.code(), "engine.denied");
}
