//! What the contract costs over the bare client: run by hand, in release, on a quiet machine.
//! `cargo test --release -p sinew-engine-external --features nats -- --ignored --nocapture nats::measure`

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, consumer, stream};
use futures_util::StreamExt;
use sinew_core::Clock;
use sinew_engine::bus::{Bus, Message, Subscription};
use sinew_testbed::{Nats, Server};

use super::{keeping, name, open, patient};

const ROUNDS: usize = 5;
const PAYLOAD: usize = 200;

async fn timed(count: usize, work: impl Future<Output = ()>) -> f64 {
    let clock = Clock::system();
    let start = clock.monotonic();
    work.await;
    count as f64 / (clock.monotonic() - start).as_secs_f64()
}

/// Runs `one` from many tasks, each so often.
async fn many<F: Future<Output = ()> + Send>(
    tasks: usize,
    each: usize,
    one: impl Fn(usize) -> F + Clone + Send + 'static,
) {
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let one = one.clone();
            tokio::spawn(async move {
                for number in 0..each {
                    one(task * each + number).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn tell(what: &str, bare: Vec<f64>, ours: Vec<f64>) {
    let (bare, ours) = (median(bare), median(ours));
    println!(
        "{what}: bare {bare:.0}/s, Sinew {ours:.0}/s, ratio {:.2}",
        ours / bare
    );
}

async fn publishing(server: &Server, label: &str, tasks: usize, each: usize) {
    let bus = open(&server.address(), "measure");
    let topic = name("published");
    bus.delete_topic(&topic).await.unwrap();
    let config = sinew_engine::bus::TopicConfig {
        deduplication: Duration::ZERO,
        ..keeping(1)
    };
    bus.create_topic(&topic, config).await.unwrap();
    let client = async_nats::connect(server.address()).await.unwrap();
    let context = jetstream::new(client);
    let _ = context.delete_stream("bare").await;
    let stream = stream::Config {
        name: "bare".to_owned(),
        subjects: vec!["bare.>".to_owned()],
        ..stream::Config::default()
    };
    context.create_stream(stream).await.unwrap();
    let payload = bytes::Bytes::from(vec![b'x'; PAYLOAD]);
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (context, payload_of) = (context.clone(), payload.clone());
        let one = move |_| {
            let (context, payload) = (context.clone(), payload_of.clone());
            async move {
                context
                    .publish("bare.0.m", payload)
                    .await
                    .unwrap()
                    .await
                    .unwrap();
            }
        };
        bare.push(timed(tasks * each, many(tasks, each, one)).await);
        let (bus, topic, payload) = (bus.clone(), topic.clone(), payload.clone());
        let one = move |_| {
            let (bus, topic) = (bus.clone(), topic.clone());
            let message = Message::new(payload.clone());
            async move {
                bus.publish(&topic, vec![message]).await.unwrap();
            }
        };
        ours.push(timed(tasks * each, many(tasks, each, one)).await);
    }
    tell(&format!("publish, {label}, {tasks} tasks"), bare, ours);
}

async fn through(server: &Server, label: &str, count: usize) {
    let tasks = 64;
    let each = count / tasks;
    let payload = bytes::Bytes::from(vec![b'x'; PAYLOAD]);
    let client = async_nats::connect(server.address()).await.unwrap();
    let context = jetstream::new(client);
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let _ = context.delete_stream("through").await;
        let config = stream::Config {
            name: "through".to_owned(),
            subjects: vec!["through.>".to_owned()],
            ..stream::Config::default()
        };
        let made = context.create_stream(config).await.unwrap();
        let config = consumer::pull::Config {
            durable_name: Some("g".to_owned()),
            max_ack_pending: 1024,
            ..consumer::pull::Config::default()
        };
        let reading = made.create_consumer(config).await.unwrap();
        let (publisher, payload_of) = (context.clone(), payload.clone());
        let one = move |_| {
            let (context, payload) = (publisher.clone(), payload_of.clone());
            async move {
                context
                    .publish("through.0.m", payload)
                    .await
                    .unwrap()
                    .await
                    .unwrap();
            }
        };
        // The same promise: an ack that is answered. Up to 256 at a time, as ours.
        let handle = async {
            let messages = reading.messages().await.unwrap().take(tasks * each);
            let acks = messages.for_each_concurrent(256, async |message| {
                message.unwrap().double_ack().await.unwrap();
            });
            acks.await;
        };
        let both = async {
            tokio::join!(many(tasks, each, one), handle);
        };
        bare.push(timed(tasks * each, both).await);

        let bus = open(&server.address(), &format!("through{round}"));
        let topic = name("t");
        bus.create_topic(&topic, keeping(1)).await.unwrap();
        let subscription = Subscription {
            in_flight: 256,
            ..patient()
        };
        let consumer = bus
            .subscribe(&topic, &name("g"), subscription)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (publisher, payload) = (bus.clone(), payload.clone());
        let one = move |_| {
            let (bus, topic) = (publisher.clone(), name("t"));
            let message = Message::new(payload.clone());
            async move {
                bus.publish(&topic, vec![message]).await.unwrap();
            }
        };
        let handle = async {
            let mut left = tasks * each;
            let mut acks = tokio::task::JoinSet::new();
            while left > 0 {
                let found = consumer.next_many(64).await.unwrap();
                left -= found.len();
                let receipts: Vec<_> = found.iter().map(|delivery| delivery.receipt).collect();
                let consumer = Arc::clone(&consumer);
                acks.spawn(async move { consumer.ack(&receipts).await.unwrap() });
            }
            while let Some(ack) = acks.join_next().await {
                ack.unwrap();
            }
        };
        let both = async {
            tokio::join!(many(tasks, each, one), handle);
        };
        ours.push(timed(tasks * each, both).await);
    }
    tell(
        &format!("publish, deliver, ack, {label}, {tasks} tasks"),
        bare,
        ours,
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn beside_the_bare_client() {
    for (label, program) in [
        ("usual sync", Nats::default()),
        ("sync_interval: always", Nats::default().synced()),
    ] {
        let server = Server::start(program).unwrap();
        publishing(&server, label, 1, 3000).await;
        publishing(&server, label, 64, 500).await;
        through(&server, label, 20_000).await;
    }
}
