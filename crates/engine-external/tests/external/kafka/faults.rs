//! The server stopped, killed and cut off in the middle of a workload on two nodes: nothing acknowledged is lost, nothing
//! settled comes again, each key keeps its order, and everything goes on by itself.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sinew_core::{Kind, Result};
use sinew_engine::bus::{Bus, Consumer, Delivery, Message, Position, Published};
use sinew_engine_external::kafka::KafkaBus;
use sinew_testbed::{Kafka, Proxy, Server};

use super::{keeping, name, open_within, patient, text};

const KEYS: usize = 8;
const CALM: Duration = Duration::from_secs(2);
/// Between two messages of a key, so that one consumer could take them all.
const PAUSE: Duration = Duration::from_millis(40);

fn outage() -> Duration {
    let seconds = std::env::var("SINEW_TEST_OUTAGE").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(3))
}

/// What happened, as the users of the bus saw it.
#[derive(Default)]
struct Story {
    /// How many messages of each key were acknowledged by `publish`.
    published: BTreeMap<usize, usize>,
    /// Messages whose ack was asked for, whatever came of it.
    asked: HashSet<(usize, usize)>,
    settled: HashSet<Position>,
    deliveries: usize,
    broken: Vec<String>,
}

type Shared = Arc<Mutex<Story>>;

fn may_pass<T>(result: &Result<T>) -> bool {
    let kind = result.as_ref().err().map(sinew_core::Error::kind);
    matches!(kind, Some(Kind::Unavailable | Kind::DeadlineExceeded))
}

async fn produce(bus: KafkaBus, key: usize, story: Shared, ends: Arc<AtomicBool>) {
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let message = Message::new(number.to_string()).key(key.to_string());
        // It may be there twice then, never not at all.
        let published = loop {
            let result = bus.publish(&name("t"), vec![message.clone()]).await;
            if !may_pass(&result) {
                break result.expect("nothing but an outage stops it");
            }
        };
        assert!(matches!(published[..], [Published::At(_)]));
        story.lock().unwrap().published.insert(key, number + 1);
        tokio::time::sleep(PAUSE).await;
    }
}

fn parts(delivery: &Delivery) -> (usize, usize) {
    let said = text(&delivery.record.message);
    let (key, number) = said.split_once(':').unwrap();
    (key.parse().unwrap(), number.parse().unwrap())
}

async fn consume(consumer: Arc<dyn Consumer>, story: Shared) {
    loop {
        let deliveries = consumer.next_many(8).await.expect("the group is there");
        // Now, not when its turn comes: while an earlier one is handled another node may settle it.
        for delivery in &deliveries {
            let (key, number) = parts(delivery);
            let mut story = story.lock().unwrap();
            story.deliveries += 1;
            if story.settled.contains(&delivery.record.position) {
                let what = format!("{key}:{number} was settled and came again");
                story.broken.push(what);
            }
            if number > 0 && !story.asked.contains(&(key, number - 1)) {
                let what = format!("{key}:{number} came before the one before it");
                story.broken.push(what);
            }
        }
        for delivery in deliveries {
            story.lock().unwrap().asked.insert(parts(&delivery));
            tokio::time::sleep(Duration::from_millis(1)).await;
            if consumer.ack(&[delivery.receipt]).await.is_ok() {
                let position = delivery.record.position;
                story.lock().unwrap().settled.insert(position);
            }
        }
    }
}

/// Makes the topic; a server that has started just now takes its time.
async fn make(bus: &KafkaBus) {
    let making = async {
        while let Err(error) = bus.create_topic(&name("t"), keeping(4)).await {
            let kind = error.kind();
            assert!(
                matches!(kind, Kind::Unavailable | Kind::DeadlineExceeded),
                "{error:?}"
            );
        }
    };
    let made = tokio::time::timeout(Duration::from_secs(60), making).await;
    made.expect("the server is there");
}

/// Runs the workload through `fault`, and checks what came of it. The nodes reach the server at `address`.
async fn survive(address: &str, fault: impl AsyncFnOnce()) {
    let nodes = [
        open_within(address, "faults", "3s"),
        open_within(address, "faults", "3s"),
    ];
    make(&nodes[0]).await;
    let story = Shared::default();
    let ends = Arc::new(AtomicBool::new(false));
    let mut consumers = Vec::new();
    for node in &nodes {
        for _ in 0..2 {
            let joined = node
                .subscribe(&name("t"), &name("g"), patient())
                .await
                .unwrap();
            consumers.push(tokio::spawn(consume(joined, story.clone())));
        }
    }
    let producers: Vec<_> = (0..KEYS)
        .map(|key| {
            let node = nodes[key % 2].clone();
            tokio::spawn(produce(node, key, story.clone(), ends.clone()))
        })
        .collect();
    tokio::time::sleep(CALM).await;
    let before = story.lock().unwrap().settled.len();
    assert!(before > 0, "it works before the fault");
    fault().await;
    tokio::time::sleep(CALM).await;
    ends.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.expect("publishing goes on");
    }
    let done = async {
        loop {
            let state = nodes[1].group(&name("t"), &name("g")).await;
            match state {
                Ok(state) if state.lag == 0 => return state,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let state = tokio::time::timeout(Duration::from_secs(60), done).await;
    let state = state.expect("consuming goes on");
    assert!(consumers.iter().all(|consumer| !consumer.is_finished()));
    let story = story.lock().unwrap();
    assert_eq!(story.broken, Vec::<String>::new());
    assert_eq!(state.lost, 0);
    let total: usize = story.published.values().sum();
    for (key, count) in &story.published {
        let missing = (0..*count).find(|number| !story.asked.contains(&(*key, *number)));
        assert_eq!(missing, None, "of key {key}");
    }
    assert!(story.settled.len() > before, "it works after the fault");
    println!(
        "{total} published, {} deliveries, {} settled before the fault, {} in the end",
        story.deliveries,
        before,
        story.settled.len()
    );
    for consumer in consumers {
        consumer.abort();
    }
}

/// A server that sends its clients to the proxy before it, as all that it says is where its brokers are.
fn behind_a_proxy() -> (Server, Proxy) {
    let mut server = Server::start(Kafka::default()).unwrap();
    let proxy = Proxy::to(server.address()).unwrap();
    server.stop();
    Kafka::advertise(server.folder(), proxy.port()).unwrap();
    server.start_again().unwrap();
    (server, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_stopped() {
    let mut server = Server::start(Kafka::default()).unwrap();
    let address = server.address();
    survive(&address, async || {
        server.stop();
        tokio::time::sleep(outage()).await;
        server.start_again().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_killed() {
    let mut server = Server::start(Kafka::default()).unwrap();
    let address = server.address();
    survive(&address, async || {
        server.kill();
        tokio::time::sleep(outage()).await;
        server.start_again().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_cut() {
    let (_server, proxy) = behind_a_proxy();
    let address = proxy.address();
    survive(&address, async || {
        proxy.cut();
        tokio::time::sleep(outage()).await;
        proxy.mend();
    })
    .await;
}

/// One of the nodes is cut off and the other goes on with all partitions; when it is back, they share again.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_is_cut_off() {
    let (server, proxy) = behind_a_proxy();
    let direct = Kafka::inner_address(server.folder()).unwrap();
    let (near, far) = (
        open_within(&direct, "cut", "3s"),
        open_within(&proxy.address(), "cut", "3s"),
    );
    make(&near).await;
    let story = Shared::default();
    let mut consumers = Vec::new();
    for node in [&near, &far] {
        let joined = node
            .subscribe(&name("t"), &name("g"), patient())
            .await
            .unwrap();
        consumers.push(tokio::spawn(consume(joined, story.clone())));
    }
    let ends = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..KEYS)
        .map(|key| tokio::spawn(produce(near.clone(), key, story.clone(), ends.clone())))
        .collect();
    tokio::time::sleep(CALM).await;
    proxy.cut();
    tokio::time::sleep(outage()).await;
    ends.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.expect("publishing goes on");
    }
    // All partitions are served though half of the nodes are not there.
    let mut last = None;
    let done = async {
        loop {
            let state = near.group(&name("t"), &name("g")).await;
            if state.as_ref().is_ok_and(|state| state.lag == 0) {
                return;
            }
            last = Some(state);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), done).await;
    assert!(done.is_ok(), "the other takes over: {last:?}");
    proxy.mend();
    tokio::time::sleep(CALM).await;
    let state = near.group(&name("t"), &name("g")).await.unwrap();
    assert_eq!((state.lag, state.lost, state.consumers), (0, 0, 2));
    assert_eq!(story.lock().unwrap().broken, Vec::<String>::new());
    for consumer in consumers {
        consumer.abort();
    }
}
