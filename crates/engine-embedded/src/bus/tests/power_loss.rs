//! Power is lost at some write, again and again, and each time the bus must hold what it answered,
//! nothing in part, and go on from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use sinew_core::{ManualClock, Timestamp};
use sinew_engine::bus::{
    Bus, Consumer, DeadLetter, GroupConfig, Message, Position, Published, Redeliver, Retention,
    Subscription, TopicConfig, Unsettled,
};

use super::*;
use crate::storage::{Fault, Seeded};

/// How many seeds are run; more by hand.
const SEEDS: &str = "SINEW_BUS_POWER_SEEDS";
/// The first of them.
const FIRST: &str = "SINEW_BUS_POWER_FIRST";
const ROUNDS: u64 = 5;
const STEPS: u64 = 25;
/// A call that takes longer has met a disk without power.
const PATIENCE: Duration = Duration::from_secs(20);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_the_loss_of_power() {
    let first = number(FIRST, 0);
    let (mut losses, mut answered) = (0, 0);
    for seed in first..first + number(SEEDS, 40) {
        let mut run = Run::new(seed);
        for _ in 0..ROUNDS {
            run.round().await;
        }
        losses += ROUNDS;
        answered += run.model.published.len();
    }
    println!("{losses} losses of power, {answered} messages answered");
    assert!(answered > 0);
}

/// What the bus must hold.
#[derive(Default)]
struct Model {
    /// Where each message is that was answered, by topic.
    published: BTreeMap<(&'static str, Position), String>,
    scheduled: BTreeSet<String>,
    ids: BTreeSet<String>,
    /// What a publish was to write that was not answered.
    doubt: Vec<BTreeSet<String>>,
    settled: BTreeSet<String>,
    /// Acks that were not answered.
    settled_perhaps: BTreeSet<String>,
    next: u64,
}

struct Run {
    seed: u64,
    random: Seeded,
    disk: SimulatedStorage,
    clock: ManualClock,
    model: Model,
}

fn config(age: Option<Duration>) -> TopicConfig {
    TopicConfig {
        partitions: 2,
        retention: Retention {
            age,
            bytes: None,
            unsettled: Unsettled::Drop,
        },
        deduplication: Duration::from_secs(3600),
    }
}

fn subscription() -> Subscription {
    Subscription {
        group: GroupConfig {
            ack_timeout: Duration::from_secs(600),
            backoff: Duration::ZERO,
            backoff_most: Duration::ZERO,
            dead_letter: Some(DeadLetter {
                topic: name("dead"),
                after: 3,
            }),
            window: 50,
            ..GroupConfig::default()
        },
        in_flight: 20,
    }
}

async fn patient<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => result,
        Err(_) => Err(fault::deadline()),
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec())
        .unwrap()
        .trim()
        .to_owned()
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Seeded::new(seed),
            disk: disk(seed),
            clock: ManualClock::new(Timestamp(1_000_000)),
            model: Model::default(),
        }
    }

    fn open(&mut self) -> Result<Alone> {
        let options = BusOptions {
            // Few bytes, so that checkpoints happen all the time.
            memory: 64 << 10,
            checkpoint_after: Duration::from_secs(self.random.below(3)),
            ..small()
        };
        let log = log::Options {
            segment_bytes: 64 << 10,
            record_bytes: 32 << 10,
            reserve_bytes: 4096,
            ..log_options()
        };
        let storage = Arc::new(self.disk.clone());
        open_on(
            storage,
            Path::new(FOLDER),
            self.clock.clock(),
            options,
            &log,
        )
    }

    /// Works until the power goes, and looks at what is left.
    async fn round(&mut self) {
        let steps = 1 + self.random.below(150);
        self.disk
            .fail_at(self.disk.operations() + steps, Fault::PowerLoss);
        if let Ok(alone) = self.open() {
            // It ends at the first call that fails.
            let _ = self.work(&alone).await;
            // Or it was too short: then the power goes while nothing happens.
            while self.disk.sync_dir(Path::new("/")).is_ok() {}
            self.disk = self.disk.crash();
            alone.journal.close().await;
        } else {
            self.disk = self.disk.crash();
        }
        let alone = match self.open() {
            Ok(alone) => alone,
            Err(error) => panic!("seed {}: {}", self.seed, error.detail()),
        };
        self.check(&alone).await;
        alone.journal.close().await;
        if self.random.below(2) == 0 {
            self.disk = self.disk.crash();
        }
    }

    async fn work(&mut self, alone: &Alone) -> Result<()> {
        let bus = &alone.bus;
        patient(bus.create_topic(&name("t"), config(None))).await?;
        patient(bus.create_topic(&name("r"), config(Some(Duration::from_secs(5))))).await?;
        let consumer = patient(bus.subscribe(&name("t"), &name("g"), subscription())).await?;
        for _ in 0..STEPS {
            match self.random.below(10) {
                0..=4 => self.publish(bus, "t").await?,
                5 => self.publish(bus, "r").await?,
                6..=8 => self.consume(bus, &consumer).await?,
                _ => {
                    self.clock
                        .advance(Duration::from_secs(self.random.below(3)));
                }
            }
        }
        Ok(())
    }

    async fn publish(&mut self, bus: &EmbeddedBus, topic: &'static str) -> Result<()> {
        let mut messages = Vec::new();
        let mut texts = Vec::new();
        for _ in 0..=self.random.below(3) {
            self.model.next += 1;
            let text = format!("{}/{}", self.seed, self.model.next);
            let fill = " ".repeat(crate::storage::to_usize(self.random.below(2000)));
            let mut message = Message::new(text.clone() + &fill);
            if self.random.below(3) > 0 {
                message = message.key(format!("k{}", self.random.below(3)));
            }
            if self.random.below(3) == 0 {
                message = message.id(text.clone());
            }
            if topic == "t" && self.random.below(8) == 0 {
                let due = self.clock.clock().now();
                message = message.due(due.plus(Duration::from_secs(self.random.below(4))));
            }
            texts.push(text);
            messages.push(message);
        }
        let ids = messages.iter().filter_map(|message| message.id.clone());
        let ids: Vec<String> = ids.collect();
        match patient(bus.publish(&name(topic), messages)).await {
            Ok(answers) => {
                for (text, answer) in texts.into_iter().zip(answers) {
                    match answer {
                        Published::At(position) => {
                            self.model.published.insert((topic, position), text);
                        }
                        Published::Scheduled => drop(self.model.scheduled.insert(text)),
                        other => panic!("{text} was published once: {other:?}"),
                    }
                }
                if topic == "t" {
                    self.model.ids.extend(ids);
                }
                Ok(())
            }
            Err(error) => {
                self.model.doubt.push(texts.into_iter().collect());
                Err(error)
            }
        }
    }

    async fn consume(&mut self, bus: &EmbeddedBus, consumer: &Arc<dyn Consumer>) -> Result<()> {
        let state = patient(bus.group(&name("t"), &name("g"))).await?;
        if state.lag <= state.in_flight {
            return Ok(());
        }
        let next = tokio::time::timeout(Duration::from_millis(50), consumer.next_many(4)).await;
        // What waits for others of its key does not come.
        let Ok(deliveries) = next else { return Ok(()) };
        for delivery in deliveries? {
            let text = text(&delivery.record.message);
            assert!(
                !self.model.settled.contains(&text),
                "seed {}: {text} was settled",
                self.seed
            );
            if self.random.below(4) == 0 {
                let at_once = Redeliver::After(Duration::ZERO);
                patient(consumer.nack(&delivery.receipt, at_once)).await?;
                continue;
            }
            self.model.settled_perhaps.insert(text.clone());
            patient(consumer.ack(&[delivery.receipt])).await?;
            self.model.settled_perhaps.remove(&text);
            self.model.settled.insert(text);
        }
        Ok(())
    }

    async fn check(&mut self, alone: &Alone) {
        let bus = &alone.bus;
        let seed = self.seed;
        // All that is due enters.
        self.clock.advance(Duration::from_secs(10));
        let topics = bus.topics().await.unwrap();
        let mut held: BTreeMap<&'static str, BTreeMap<Position, String>> = BTreeMap::new();
        for topic in ["t", "r", "dead"] {
            if topics.contains(&name(topic)) {
                held.insert(topic, contents(bus, topic).await);
            }
        }
        let empty = BTreeMap::new();
        // Retention takes from the front, and only from there.
        let firsts: Vec<u64> = match bus.topic(&name("r")).await {
            Ok(state) => state.partitions.iter().map(|range| range.start).collect(),
            Err(_) => Vec::new(),
        };
        for ((topic, position), text) in &self.model.published {
            if *topic == "r" && position.offset < firsts[position.partition as usize] {
                continue;
            }
            let found = held.get(topic).unwrap_or(&empty).get(position);
            assert_eq!(found, Some(text), "seed {seed}: {topic} {position:?}");
        }
        let all: Vec<&String> = ["t", "r"]
            .iter()
            .filter_map(|topic| held.get(topic))
            .flat_map(BTreeMap::values)
            .collect();
        let set: BTreeSet<&String> = all.iter().copied().collect();
        assert_eq!(
            set.len(),
            all.len(),
            "seed {seed}: something is there twice"
        );
        for text in &self.model.scheduled {
            let state = || {
                bus.caller
                    .shared
                    .state
                    .lock()
                    .topic(&name("t"))
                    .unwrap()
                    .counts
            };
            assert!(
                set.contains(text),
                "seed {seed}: {text} was scheduled; {:?}",
                state()
            );
        }
        // What was not answered is there as a whole or not at all.
        for doubt in std::mem::take(&mut self.model.doubt) {
            let there = doubt.iter().filter(|text| set.contains(text)).count();
            assert!(
                there == 0 || there == doubt.len() || firsts.iter().any(|first| *first > 0),
                "seed {seed}: {there} of {doubt:?}"
            );
        }
        let dead = held.get("dead").unwrap_or(&empty);
        let dead: Vec<String> = dead.values().cloned().collect();
        let dead_set: BTreeSet<String> = dead.iter().cloned().collect();
        assert_eq!(dead.len(), dead_set.len(), "seed {seed}: dead twice");
        for text in &dead_set {
            assert!(!self.model.settled.contains(text), "seed {seed}: {text}");
        }
        if let Some(id) = self.model.ids.iter().next().cloned() {
            let again = Message::new("again").id(id.clone());
            let answer = bus.publish(&name("t"), vec![again]).await.unwrap();
            assert_eq!(answer, [Published::Duplicate], "seed {seed}: {id}");
        }
        let texts: BTreeSet<String> = held.remove("t").unwrap_or_default().into_values().collect();
        if topics.contains(&name("t")) && self.random.below(2) == 0 {
            self.drain(bus, texts, dead_set).await;
        }
        // From now on it is known what became of the rest.
        for topic in ["t", "r"] {
            if topics.contains(&name(topic)) {
                for (position, text) in contents(bus, topic).await {
                    self.model.scheduled.remove(&text);
                    self.model.published.insert((topic, position), text);
                }
            }
        }
    }

    /// Every message is settled, dead, or delivered now, in the order of its key.
    async fn drain(&mut self, bus: &EmbeddedBus, texts: BTreeSet<String>, dead: BTreeSet<String>) {
        let seed = self.seed;
        let (topic, group) = (name("t"), name("g"));
        let consumer = bus.subscribe(&topic, &group, subscription()).await;
        let consumer = consumer.unwrap();
        let mut seen = BTreeSet::new();
        let mut last = BTreeMap::new();
        while bus.group(&name("t"), &name("g")).await.unwrap().lag > 0 {
            let deliveries = patient(consumer.next_many(10)).await;
            for delivery in deliveries.unwrap_or_else(|error| {
                panic!("seed {seed}: {}", error.detail());
            }) {
                let text = text(&delivery.record.message);
                assert!(!self.model.settled.contains(&text), "seed {seed}: {text}");
                assert!(!dead.contains(&text), "seed {seed}: {text} is dead");
                let Position { partition, offset } = delivery.record.position;
                if let Some(key) = delivery.record.message.key.clone() {
                    let before = last.insert((partition, key), offset);
                    assert!(before.is_none_or(|before| before < offset), "seed {seed}");
                }
                consumer.ack(&[delivery.receipt]).await.unwrap();
                seen.insert(text);
            }
        }
        let newly_dead = contents(bus, "dead").await.into_values();
        let ended: BTreeSet<String> = self
            .model
            .settled
            .iter()
            .chain(&self.model.settled_perhaps)
            .chain(&seen)
            .cloned()
            .chain(newly_dead)
            .collect();
        let lost: Vec<&String> = texts.difference(&ended).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?} never came");
        self.model.settled_perhaps.clear();
        self.model.settled.extend(texts.difference(&dead).cloned());
    }
}

async fn contents(bus: &EmbeddedBus, topic: &str) -> BTreeMap<Position, String> {
    let state = bus.topic(&name(topic)).await.unwrap();
    let mut found = BTreeMap::new();
    for (partition, range) in (0..).zip(state.partitions) {
        let mut offset = range.start;
        while offset < range.end {
            let from = Position { partition, offset };
            let records = bus.read(&name(topic), from, 100).await.unwrap();
            for record in &records {
                found.insert(record.position, text(&record.message));
            }
            offset = records.last().unwrap().position.offset + 1;
        }
    }
    found
}
