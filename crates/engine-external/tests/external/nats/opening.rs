//! Servers that are away, that do not let us in, and URLs that are wrong.

use std::{io::Write, time::Duration};

use sinew_core::Kind;
use sinew_engine::{
    Health,
    bus::{Bus, DeadLetter, Message, Redeliver, Seek},
};
use sinew_engine_external::{
    Address,
    nats::{Options, PORT},
};
use sinew_testbed::{Nats, Server, free_port};

use super::{keeping, message, name, open, open_url, patient};

#[test]
fn wrong_options_are_said() {
    for (url, part) in [
        ("nats://localhost?replicas=0", "replicas"),
        ("nats://localhost?replicas=many", "replicas"),
        ("nats://localhost?lease=10ms", "lease"),
        ("nats://localhost?lease=long", "lease"),
    ] {
        let address = Address::parse(url, PORT, Options::NAMES).unwrap();
        let error = Options::read(&address).unwrap_err();
        assert_eq!(error.code(), "engine.address");
        assert!(error.message().contains(part), "{error}");
    }
    let url = "nats://a,b:4333?replicas=3&lease=5s&tls=off";
    let address = Address::parse(url, PORT, Options::NAMES).unwrap();
    assert_eq!(address.hosts[0].port, PORT);
    let options = Options::read(&address).unwrap();
    assert_eq!(
        (options.replicas, options.lease),
        (3, Duration::from_secs(5))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_later_is_joined() {
    let mut server = Server::start(Nats::default()).unwrap();
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
    let server = Server::start(Nats::default().user("sinew", "s3cret")).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let address = server.address();
    let url =
        |file: &str| format!("nats://sinew@{address}?password_file={file}&lease=1s&timeout=2s");
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
    let bus = open_url(&url(&path.display().to_string()));
    assert!(bus.create_topic(&name("t"), keeping(1)).await.unwrap());
}

/// What the guide says a user must be allowed is enough.
#[tokio::test(flavor = "multi_thread")]
async fn few_rights_are_enough() {
    let program = Nats::default().limited_user("sinew", "s3cret", "few");
    let server = Server::start(program).unwrap();
    let path = server.folder().join("password");
    std::fs::write(&path, "s3cret").unwrap();
    let (address, file) = (server.address(), path.display());
    let bus = open_url(&format!(
        "nats://sinew@{address}?password_file={file}&lease=1s&namespace=few"
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_is_of_no_use() {
    let server = Server::start(Nats::default().without_jetstream()).unwrap();
    let bus = open(&server.address(), "plain");
    let error = bus.create_topic(&name("t"), keeping(1)).await.unwrap_err();
    assert_eq!(error.code(), "engine.unavailable");
    assert!(error.detail().contains("JetStream"), "{error:?}");
}
