//! A process that publishes and consumes is killed in the middle, again and again, and each time
//! the bus must hold all that it answered, nothing in part, and go on from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use sinew_core::{Clock, Name};
use sinew_engine::bus::{
    Bus, DeadLetter, GroupConfig, Message, Position, Published, Redeliver, Retention, Subscription,
    TopicConfig, Unsettled,
};
use sinew_engine_embedded::{BusOptions, EmbeddedBus};

/// The folder that the child process shall work in.
const DIR: &str = "SINEW_BUS_CRASH_DIR";
/// How often the child is killed; 10 times unless this says otherwise.
const ROUNDS: &str = "SINEW_CRASH_ROUNDS";
const PRODUCERS: u64 = 6;
const PARTITIONS: u32 = 3;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn options() -> BusOptions {
    BusOptions {
        // Checkpoints all the time, in many small files.
        memory: 256 << 10,
        segment_bytes: 32 << 10,
        ..BusOptions::default()
    }
}

fn config() -> TopicConfig {
    TopicConfig {
        partitions: PARTITIONS,
        retention: Retention {
            age: None,
            bytes: None,
            unsettled: Unsettled::Keep,
        },
        deduplication: Duration::from_secs(3600),
    }
}

fn subscription() -> Subscription {
    Subscription {
        group: GroupConfig {
            backoff: Duration::ZERO,
            dead_letter: Some(DeadLetter {
                topic: name("dead"),
                after: 2,
            }),
            ..GroupConfig::default()
        },
        ..Subscription::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of the crash test"]
async fn works_until_killed() {
    let Ok(dir) = env::var(DIR) else { return };
    let bus = EmbeddedBus::open(dir, Clock::system(), options()).unwrap();
    bus.create_topic(&name("t"), config()).await.unwrap();
    print("open");
    let start: u64 = rounds_so_far(&bus).await;
    for producer in 0..PRODUCERS {
        let bus = bus.clone();
        tokio::spawn(async move {
            for number in start.. {
                publish(&bus, producer, number).await;
            }
        });
    }
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..2 {
        let (bus, count) = (bus.clone(), Arc::clone(&count));
        tokio::spawn(async move { consume(&bus, &count).await });
    }
    std::future::pending().await
}

/// Numbers above all that were used.
async fn rounds_so_far(bus: &EmbeddedBus) -> u64 {
    let state = bus.topic(&name("t")).await.unwrap();
    state.partitions.iter().map(|range| range.end).sum::<u64>() + 1
}

/// Two messages with one key, all or none.
async fn publish(bus: &EmbeddedBus, producer: u64, number: u64) {
    let message = |half: &str| {
        let text = format!("{producer}/{number}/{half}");
        let fill = " ".repeat(usize::try_from(number * 37 % 700).unwrap());
        Message::new(text.clone() + &fill)
            .key(format!("k{producer}"))
            .id(text)
    };
    let messages = vec![message("a"), message("b")];
    let answers = bus.publish(&name("t"), messages).await.unwrap();
    for (half, answer) in ["a", "b"].iter().zip(answers) {
        let Published::At(Position { partition, offset }) = answer else {
            panic!("{answer:?}");
        };
        print(&format!(
            "at {producer}/{number}/{half} {partition} {offset}"
        ));
    }
}

async fn consume(bus: &EmbeddedBus, count: &AtomicU64) {
    let (topic, group) = (name("t"), name("g"));
    let consumer = bus.subscribe(&topic, &group, subscription()).await;
    let consumer = consumer.unwrap();
    loop {
        for delivery in consumer.next_many(5).await.unwrap() {
            let text = text(&delivery.record.message);
            let number = count.fetch_add(1, Ordering::Relaxed);
            if number.is_multiple_of(7) {
                let at_once = Redeliver::After(Duration::ZERO);
                consumer.nack(&delivery.receipt, at_once).await.unwrap();
                continue;
            }
            print(&format!("try {text}"));
            consumer.ack(&[delivery.receipt]).await.unwrap();
            print(&format!("ack {text}"));
        }
    }
}

fn text(message: &Message) -> String {
    let text = String::from_utf8(message.payload.to_vec()).unwrap();
    text.trim().to_owned()
}

/// A whole line in one write, so that a kill cannot tear it.
fn print(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

#[derive(Default)]
struct Known {
    places: BTreeMap<String, Position>,
    tried: BTreeSet<String>,
    settled: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_working() {
    let rounds = env::var(ROUNDS).map_or(10_u64, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut known = Known::default();
    for round in 0..rounds {
        // From the middle of opening to a good number of checkpoints.
        let patience = Duration::from_micros(round * 7919 % 61 * 5000);
        for line in killed_child(dir.path(), round % 5 == 4, patience).lines() {
            note(&mut known, line);
        }
        check(dir.path(), &known).await;
    }
    let (places, settled) = (known.places.len(), known.settled.len());
    println!("{rounds} kills, {places} messages answered, {settled} acks answered");
    assert!(places > 0, "no child lived long enough to publish anything");
}

fn note(known: &mut Known, line: &str) {
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some("at"), Some(text)) => {
            let mut number = || words.next().unwrap().parse::<u64>().unwrap();
            let position = Position {
                partition: u32::try_from(number()).unwrap(),
                offset: number(),
            };
            let before = known.places.insert(text.to_owned(), position);
            assert_eq!(before, None, "{text} was published twice");
        }
        (Some("try"), Some(text)) => {
            assert!(!known.settled.contains(text), "{text} was settled");
            known.tried.insert(text.to_owned());
        }
        (Some("ack"), Some(text)) => drop(known.settled.insert(text.to_owned())),
        _ => {}
    }
}

/// Starts the child, lets it work for a while (or only open), kills it and answers what it printed.
fn killed_child(dir: &Path, while_opening: bool, patience: Duration) -> String {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "bus_crash::works_until_killed",
            "--include-ignored",
            "--nocapture",
        ])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    if !while_opening {
        while !printed.contains("ack ") {
            let length = read_line_soon(&mut child, &mut stdout, &mut printed);
            assert!(length > 0, "the child ended by itself: {printed}");
        }
    }
    let reader = thread::spawn(move || {
        stdout.read_to_string(&mut printed).unwrap();
        printed
    });
    thread::sleep(patience);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// Reads a line; a child that prints none for a long time is killed, which ends its output.
fn read_line_soon(child: &mut Child, from: &mut impl std::io::BufRead, to: &mut String) -> usize {
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(Duration::from_secs(60)).is_err() {
                let _ = child.kill();
            }
        });
        let length = from.read_line(to).unwrap();
        done.send(()).unwrap();
        length
    })
}

/// Opens what the child has left behind and looks at everything.
async fn check(dir: &Path, known: &Known) {
    let bus = EmbeddedBus::open(dir, Clock::system(), options()).unwrap();
    if bus.topics().await.unwrap().is_empty() {
        assert!(known.places.is_empty(), "everything is lost");
        return bus.close().await.unwrap();
    }
    let held = contents(&bus, "t").await;
    let texts: BTreeMap<&String, &Position> = held.iter().map(|(at, text)| (text, at)).collect();
    assert_eq!(texts.len(), held.len(), "something is there twice");
    for (text, position) in &known.places {
        assert_eq!(texts.get(text), Some(&position), "{text}");
    }
    // Whole calls only, and next to each other.
    for (text, at) in &texts {
        if let Some(call) = text.strip_suffix("/a") {
            let other = texts.get(&format!("{call}/b"));
            let next = Position {
                offset: at.offset + 1,
                ..**at
            };
            assert_eq!(other, Some(&&next), "{text}");
        }
    }
    let state = bus.group(&name("t"), &name("g")).await;
    let dead = contents(&bus, "dead").await;
    let dead_texts: BTreeSet<String> = dead.values().cloned().collect();
    assert_eq!(dead_texts.len(), dead.len(), "dead twice");
    for text in &dead_texts {
        assert!(!known.settled.contains(text), "{text} was settled and died");
        assert!(texts.contains_key(text));
    }
    if let Ok(state) = state {
        // What is settled: acks that were answered, dead letters, and acks that were under way.
        let settled = texts.len() as u64 - state.lag;
        let sure = (known.settled.len() + dead_texts.len()) as u64;
        let most = known.tried.union(&dead_texts).count() as u64;
        assert!(
            (sure..=most).contains(&settled),
            "{settled} are settled, not {sure} to {most}"
        );
    }
    bus.close().await.unwrap();
}

async fn contents(bus: &EmbeddedBus, topic: &str) -> BTreeMap<Position, String> {
    let mut found = BTreeMap::new();
    let Ok(state) = bus.topic(&name(topic)).await else {
        return found;
    };
    for (partition, range) in (0..).zip(state.partitions) {
        let mut offset = range.start;
        while offset < range.end {
            let from = Position { partition, offset };
            let records = bus.read(&name(topic), from, 1000).await.unwrap();
            for record in &records {
                found.insert(record.position, text(&record.message));
            }
            offset = records.last().unwrap().position.offset + 1;
        }
    }
    found
}
