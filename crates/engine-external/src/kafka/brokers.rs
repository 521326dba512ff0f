//! What is known of topics beside Kafka, and what is done about them in several steps.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sinew_core::{Backoff, Error, Name, Result, Timestamp};
use sinew_engine::bus::{Capability, Position, Record, topic_unknown};

use super::{
    ENGINE, Options,
    batch::{Found, Raw},
    catalogue::{self, Kept as Topic, messages, record_key, topic_key},
    codes,
    envelope::{seal, unseal},
    intake::BATCH,
    link::Link,
    marks,
    register::Register,
    requests,
    wire::Refusal,
};
use crate::{
    bus_shell::{Appended, Entry, Log},
    fault,
};

/// After so many leases what nobody tends is cleared away.
const LEFT: u32 = 20;
pub(super) struct Brokers {
    pub(super) link: Arc<Link>,
    namespace: Name,
    pub(super) options: Options,
    pub(super) capability: Capability,
    pub(super) catalogue: Arc<Register>,
    registers: Vec<Arc<Register>>,
    /// What may be left over of those that are gone: its version, and when it was seen first.
    left: Mutex<HashMap<String, (u64, Duration)>>,
}

impl Brokers {
    pub(super) fn new(
        link: Arc<Link>,
        namespace: Name,
        options: Options,
        capability: Capability,
    ) -> Self {
        let making = Arc::new(catalogue::registers_made(&options));
        let register = |partition| {
            let topic = catalogue::registers(&namespace);
            Arc::new(Register::new(&link, topic, partition, making.clone()))
        };
        let registers: Vec<_> = (0..catalogue::REGISTERS).map(register).collect();
        Self {
            catalogue: registers[0].clone(),
            registers,
            link,
            namespace,
            options,
            capability,
            left: Mutex::default(),
        }
    }

    pub(super) fn topic(&self, log: &Log) -> String {
        messages(&self.namespace, &log.topic, &log.incarnation)
    }

    pub(super) fn register(&self, log: &Log) -> &Arc<Register> {
        &self.registers[catalogue::register(log) as usize]
    }

    /// The topic in the catalogue, as it is now, and its version.
    pub(super) async fn look(&self, topic: &Name) -> Result<Option<(Topic, u64)>> {
        match self.catalogue.get(&topic_key(topic)).await? {
            Some((value, version)) => Ok(Some((Topic::read(&value)?, version))),
            None => Ok(None),
        }
    }

    /// `bus.topic_unknown` when the topic is gone, or another.
    pub(super) async fn check(&self, log: &Log) -> Result<()> {
        match self.look(&log.topic).await? {
            Some((topic, _)) if !topic.is_going && topic.incarnation == log.incarnation => Ok(()),
            _ => Err(topic_unknown(&log.topic)),
        }
    }

    /// What a refusal about a topic means.
    pub(super) async fn explain(&self, log: &Log, refusal: Refusal) -> Error {
        if let Refusal::Code(codes::NO_TOPIC) = refusal
            && let Err(error) = self.check(log).await
        {
            return error;
        }
        match refusal {
            Refusal::Code(codes::OUT_OF_RANGE) => {
                fault::unavailable(ENGINE, "what was to be read was removed")
            }
            refusal => refusal.into(),
        }
    }

    /// Asks something about a topic that is in the catalogue; in Kafka it may be on its way.
    pub(super) async fn about<T, F: Future<Output = Result<T, Refusal>>>(
        &self,
        log: &Log,
        mut call: impl FnMut(Arc<str>) -> F,
    ) -> Result<T> {
        let topic: Arc<str> = self.topic(log).into();
        let start = self.link.clock.monotonic();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            match call(topic.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Code(codes::NO_TOPIC)) => {
                    self.check(log).await?;
                    if self.link.clock.monotonic() - start >= self.link.timeout {
                        return Err(Refusal::Code(codes::NO_TOPIC).into());
                    }
                    // Who made it was gone before it was done.
                    let making = catalogue::made(&self.options, &log.config);
                    requests::create(&self.link, &topic, &making).await?;
                    self.link.clock.sleep(backoff.next_delay()).await;
                }
                Err(refusal) => return Err(self.explain(log, refusal).await),
            }
        }
    }

    /// Clears away what a topic that is being deleted still has.
    pub(super) async fn clear(&self, name: &Name, topic: &Topic, version: u64) -> Result<()> {
        let log = topic.log(name);
        requests::delete(&self.link, &self.topic(&log)).await?;
        let register = self.register(&log);
        register.remove_all(&record_key(&log, "")).await?;
        register.remove_all(&catalogue::mark_key(&log, "")).await?;
        self.catalogue.put(&topic_key(name), None, version).await?;
        Ok(())
    }

    /// Whether something has not changed for long.
    pub(super) fn is_left(&self, key: &str, version: u64) -> bool {
        let now = self.link.clock.monotonic();
        let long = self.options.lease * LEFT;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|_, (_, seen)| now.saturating_sub(*seen) < long * 2);
        match left.get_mut(key) {
            Some((known, seen)) if *known == version => now.saturating_sub(*seen) >= long,
            _ => {
                left.insert(key.to_owned(), (version, now));
                false
            }
        }
    }

    /// Records as messages, without the copies of dead letters that do not count.
    pub(super) async fn records(
        &self,
        log: &Log,
        partition: u32,
        found: Vec<Found>,
    ) -> Result<Vec<Record>> {
        let mut records = Vec::with_capacity(found.len());
        for Found { offset, time, raw } in found {
            let (message, mark) = unseal(raw).ok_or_else(|| {
                fault::unsuitable(ENGINE, "a message in its topic was not written by Sinew")
            })?;
            let position = Position { partition, offset };
            let published = Timestamp(time);
            if let Some(mark) = mark {
                let times = (published, self.link.clock.now());
                if !marks::counts(self.register(log), log, &mark, position, times).await? {
                    continue;
                }
            }
            let message = Arc::new(message);
            records.push(Record {
                position,
                published,
                message,
            });
        }
        Ok(records)
    }

    async fn append_records(&self, log: &Log, partition: u32, records: Vec<Raw>) -> Result<u64> {
        self.about(log, |topic| {
            let records = records.clone();
            async move { requests::append(&self.link, &topic, partition, records).await }
        })
        .await
    }

    /// Appends the messages of one partition in their order, in as few batches as they need.
    pub(super) async fn append_part(
        &self,
        log: &Log,
        partition: u32,
        records: Vec<(usize, Raw)>,
    ) -> Vec<(usize, Result<Appended>)> {
        let mut results = Vec::with_capacity(records.len());
        let mut rest = records.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut indexes, mut records, mut size) = (Vec::new(), Vec::new(), 0);
            while let Some((index, raw)) =
                rest.next_if(|(_, raw)| size == 0 || size + raw.size() <= BATCH)
            {
                size += raw.size();
                indexes.push(index);
                records.push(raw);
            }
            match self.append_records(log, partition, records).await {
                Ok(base) => {
                    let places = indexes.into_iter().zip(base..);
                    results.extend(places.map(|(index, at)| (index, Ok(Appended::At(at)))));
                }
                Err(error) => {
                    let unknown = error.code() == "bus.topic_unknown";
                    let refusal = Refusal::Unknown(error);
                    let again = |index| {
                        let error = if unknown {
                            topic_unknown(&log.topic)
                        } else {
                            refusal.again().into()
                        };
                        (index, Err(error))
                    };
                    results.extend(indexes.into_iter().map(again));
                    // What comes behind must not be there without these.
                    results.extend(rest.by_ref().map(|(index, _)| again(index)));
                }
            }
        }
        results
    }

    pub(super) async fn append_once(
        &self,
        log: &Log,
        entry: &Entry,
        mark: &str,
    ) -> Result<Appended> {
        let register = self.register(log);
        if marks::decided(register, log, mark).await?.is_some() {
            return Ok(Appended::Duplicate);
        }
        let partition = entry.partition;
        let records = vec![seal(&entry.message, Some(mark))];
        let offset = self.append_records(log, partition, records).await?;
        let copy = Position { partition, offset };
        let place = marks::decide(register, log, mark, copy).await?;
        if offset % 1000 == 0 {
            marks::prune(register, log).await?;
        }
        Ok(if place == copy {
            Appended::At(offset)
        } else {
            Appended::Duplicate
        })
    }
}
