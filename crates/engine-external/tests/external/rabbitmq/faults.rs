//! The broker goes away in the middle of a workload and comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, atomic::AtomicBool},
};

use sinew_core::Kind;
use sinew_engine::bus::{Bus, Consumer, Receipt};
use sinew_testbed::Proxy;

use super::*;

const KEYS: usize = 4;
const PRODUCERS: usize = 3;

fn outage() -> Duration {
    let seconds = std::env::var("SINEW_TEST_OUTAGE").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(3))
}

/// What the workload saw.
#[derive(Default)]
struct Book {
    /// Acknowledged publishes.
    published: BTreeSet<String>,
    /// In the order in which they were delivered, with the offset.
    delivered: Vec<(u32, u64, String)>,
    /// Acknowledged, durably.
    settled: BTreeSet<String>,
    /// Delivered although its ack had been answered.
    again: Vec<String>,
}

/// Publishes and consumes over two buses in the same group while `fault` happens.
async fn endure(
    server: Arc<Mutex<Server>>,
    address: String,
    fault: impl FnOnce() + Send + 'static,
) {
    let namespace = namespace();
    let (one, other) = (open(&address, &namespace), open(&address, &namespace));
    let topic = name("orders");
    assert!(one.create_topic(&topic, keeping(2)).await.expect("a topic"));
    let book = Arc::new(Mutex::new(Book::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut consumers = Vec::new();
    for bus in [&one, &other] {
        let consumer = bus
            .subscribe(&topic, &name("g"), patient())
            .await
            .expect("a consumer");
        consumers.push(tokio::spawn(consume(consumer, book.clone())));
    }
    let mut producers = Vec::new();
    for producer in 0..PRODUCERS {
        let (bus, book, stop) = (one.clone(), book.clone(), stop.clone());
        producers.push(tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let said = format!("k{}:{producer}/{number}", number % KEYS);
                // One that is not answered may be there or not; it is not tried again.
                if bus
                    .publish(&name("orders"), vec![message(&said)])
                    .await
                    .is_ok()
                {
                    book.lock().expect("no panic").published.insert(said);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = book.lock().expect("no panic").published.len();
    assert!(before > 0, "something was published before the fault");
    tokio::task::spawn_blocking(fault).await.expect("the fault");
    // It goes on by itself.
    soon(async {
        let mut health = one.health();
        health
            .wait_for(sinew_engine::Health::is_up)
            .await
            .expect("a health");
        let at = book.lock().expect("no panic").published.len();
        while book.lock().expect("no panic").published.len() < at + 50 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        soon(producer).await.expect("a producer");
    }
    soon(async {
        loop {
            {
                let book = book.lock().expect("no panic");
                if book.published.is_subset(&book.settled) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for consumer in consumers {
        consumer.abort();
        assert!(consumer.await.expect_err("aborted").is_cancelled());
    }
    let book = book.lock().expect("no panic");
    assert_eq!(
        book.again,
        Vec::<String>::new(),
        "settled messages came again"
    );
    // In order, but for what came again.
    let mut newest: BTreeMap<(u32, String), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (partition, offset, said) in &book.delivered {
        let key = said.split_once(':').expect("a key").0.to_owned();
        let last = newest.entry((*partition, key)).or_default();
        if seen.insert(said.clone()) {
            assert!(*last <= *offset, "{said} came after a later one of its key");
        }
        *last = (*last).max(*offset);
    }
    drop(server);
}

async fn consume(consumer: Arc<dyn Consumer>, book: Arc<Mutex<Book>>) {
    loop {
        // It waits while the broker is away.
        let deliveries = consumer.next_many(8).await.expect("messages");
        // All at once: while one is acknowledged, another node may take over and settle the rest.
        {
            let mut book = book.lock().expect("no panic");
            for delivery in &deliveries {
                let said = text(&delivery.record.message);
                let position = delivery.record.position;
                if book.settled.contains(&said) {
                    book.again.push(said.clone());
                }
                book.delivered
                    .push((position.partition, position.offset, said));
            }
        }
        for delivery in deliveries {
            if acknowledged(&*consumer, &delivery.receipt).await {
                let said = text(&delivery.record.message);
                book.lock().expect("no panic").settled.insert(said);
            }
        }
    }
}

/// Acknowledges until it is known what became of it. An ack that fails while the broker is away may count all the same, and
/// then the message does not come again.
async fn acknowledged(consumer: &dyn Consumer, receipt: &Receipt) -> bool {
    loop {
        let Err(error) = consumer.ack(std::slice::from_ref(receipt)).await else {
            return true;
        };
        match error.kind() {
            Kind::Unavailable | Kind::DeadlineExceeded => {}
            // It comes again.
            Kind::FailedPrecondition => return false,
            _ => panic!("{error:?}"),
        }
    }
}

fn started() -> (Arc<Mutex<Server>>, String) {
    let server = server();
    let address = server.address();
    (Arc::new(Mutex::new(server)), address)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_that_the_broker_is_stopped() {
    let (server, address) = started();
    let control = server.clone();
    endure(server, address, move || {
        let mut server = control.lock().expect("no panic");
        server.stop();
        std::thread::sleep(outage());
        server.start_again().expect("it starts again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_that_the_broker_is_killed() {
    let (server, address) = started();
    let control = server.clone();
    endure(server, address, move || {
        let mut server = control.lock().expect("no panic");
        server.kill();
        std::thread::sleep(outage());
        server.start_again().expect("it starts again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_that_it_is_cut_off() {
    let (server, address) = started();
    let proxy = Proxy::to(&address).expect("a proxy");
    let through = proxy.address();
    endure(server, through, move || {
        proxy.cut();
        std::thread::sleep(outage());
        proxy.mend();
        // It lives as long as the test.
        std::mem::forget(proxy);
    })
    .await;
}
