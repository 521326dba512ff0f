//! Opening, and brokers that do not let us in or take nothing.

use sinew_core::Kind;
use sinew_engine::{Health, bus::Bus};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for() {
    let mut server = server();
    server.stop();
    let url = format!(
        "amqp://{}?namespace={}&timeout=500ms",
        server.address(),
        namespace()
    );
    let bus = RabbitBus::open(
        RabbitBus::address(&url).expect("an address"),
        Clock::system(),
    );
    let error = bus.topics().await.expect_err("nobody is there");
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::Unavailable, "engine.unavailable")
    );
    let mut health = bus.health();
    let away = health.wait_for(|health| matches!(health, Health::Away { .. }));
    soon(away).await.expect("a health");
    server.start_again().expect("it starts again");
    soon(health.wait_for(Health::is_up))
        .await
        .expect("a health");
    soon(async {
        while bus.topics().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_are_told_and_never_shown() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret").expect("written");
    let url = format!(
        "amqp://guest@{}?timeout=3s&password_file={}",
        server.address(),
        file.display()
    );
    let bus = RabbitBus::open(
        RabbitBus::address(&url).expect("an address"),
        Clock::system(),
    );
    // A broker that is busy takes its time to refuse.
    let error = soon(async {
        loop {
            let error = bus.topics().await.expect_err("not let in");
            if error.code() != "engine.unavailable" {
                return error;
            }
        }
    })
    .await;
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::PermissionDenied, "engine.denied")
    );
    assert!(!format!("{error:?} {}", error.detail()).contains("s3cret"));
    let health = bus.health().borrow().clone();
    assert!(
        matches!(&health, Health::Away { reason, .. } if !reason.contains("s3cret")),
        "{health:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_addresses_are_told_at_once() {
    for (url, part) in [
        ("http://localhost", "begins with amqp"),
        ("amqp://me:hunter2@localhost", "does not belong"),
        ("amqps://localhost", "ca_file"),
        ("amqps://localhost?tls=off", "says that TLS is on"),
        ("amqp://rabbit.example", "ca_file"),
        ("amqp://localhost?prefetch=1", "no option"),
    ] {
        let error = RabbitBus::address(url).expect_err(url);
        assert_eq!(error.code(), "engine.address");
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_short_of_memory_pushes_back() {
    let server = server();
    let url = format!(
        "amqp://{}?namespace={}&timeout=2s",
        server.address(),
        namespace()
    );
    let bus = RabbitBus::open(
        RabbitBus::address(&url).expect("an address"),
        Clock::system(),
    );
    let topic = name("t");
    bus.create_topic(&topic, keeping(1)).await.expect("a topic");
    let limit = |limit: &str| {
        let arguments = ["set_vm_memory_high_watermark", limit];
        RabbitMq::control(server.folder(), server.port(), &arguments).expect("it is set");
    };
    limit("0.00001");
    // What it has not read yet is undecided; later it says that it takes nothing.
    soon(async {
        loop {
            match bus.publish(&topic, vec![message("k:v")]).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => {
                    assert!(
                        ["engine.full", "engine.timeout"].contains(&error.code()),
                        "{error:?}"
                    );
                    return;
                }
            }
        }
    })
    .await;
    limit("0.6");
    soon(async {
        while bus.publish(&topic, vec![message("k:v")]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_the_guide_are_enough() {
    let server = server();
    let name_of_default = r"^(sinew\.|amq\.default$)";
    for arguments in [
        &["add_vhost", "sinew"][..],
        &["add_user", "sinew", "s3cret"],
        &[
            "set_permissions",
            "-p",
            "sinew",
            "sinew",
            r"^sinew\.",
            name_of_default,
            r"^sinew\.",
        ],
        &[
            "-p",
            "sinew",
            "list_queues",
            "name",
            "type",
            "messages",
            "consumers",
        ],
    ] {
        RabbitMq::control(server.folder(), server.port(), arguments).expect("it is done");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret\n").expect("written");
    let (address, file) = (server.address(), file.display());
    let url = format!("amqp://sinew@{address}/sinew?password_file={file}");
    let bus = RabbitBus::open(
        RabbitBus::address(&url).expect("an address"),
        Clock::system(),
    );
    let topic = name("t");
    bus.create_topic(&topic, keeping(1)).await.expect("a topic");
    bus.publish(&topic, vec![message("k:v")])
        .await
        .expect("published");
    let consumer = bus
        .subscribe(&topic, &name("g"), patient())
        .await
        .expect("joined");
    let delivery = soon(consumer.next()).await.expect("a message");
    consumer
        .ack(&[delivery.receipt])
        .await
        .expect("acknowledged");
    assert_eq!(bus.group(&topic, &name("g")).await.expect("a state").lag, 0);
    bus.delete_topic(&topic).await.expect("deleted");
}
