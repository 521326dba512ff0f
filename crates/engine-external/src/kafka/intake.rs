//! What is published to one broker, gathered: while one request is under way the next one fills, so that many publishes are one
//! request, one batch for each partition, and one sync of its file.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use kafka_protocol::{
    messages::{
        ProduceRequest,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    ENGINE,
    batch::{Raw, seal},
    codes,
    link::Link,
    wire::Refusal,
};
use crate::fault;

/// Publishes that may wait.
const WAITING: usize = 1024;
/// The longest batch, unless one record is longer, bytes.
pub(super) const BATCH: usize = 1 << 20;
/// The longest request, bytes.
const REQUEST: usize = 8 << 20;

struct Job {
    topic: String,
    partition: u32,
    records: Vec<Raw>,
    size: usize,
    answer: oneshot::Sender<Result<u64, Refusal>>,
}

#[derive(Clone)]
pub(super) struct Intake {
    sender: mpsc::Sender<Job>,
}

impl Intake {
    pub(super) fn new(link: &Arc<Link>, broker: i32) -> Self {
        let (sender, jobs) = mpsc::channel(WAITING);
        tokio::spawn(run(Arc::downgrade(link), broker, jobs));
        Self { sender }
    }

    /// Appends records to a partition, one batch or part of one: the offset of the first. When it is not waited for, it
    /// is sent all the same.
    pub(super) async fn append(
        &self,
        topic: &str,
        partition: u32,
        records: Vec<Raw>,
        left: Duration,
    ) -> Result<u64, Refusal> {
        let (answer, answered) = oneshot::channel();
        let size = records.iter().map(Raw::size).sum();
        let job = Job {
            topic: topic.to_owned(),
            partition,
            records,
            size,
            answer,
        };
        let busy = || Refusal::Away(fault::unavailable(ENGINE, "too much waits to be published"));
        match tokio::time::timeout(left, self.sender.send(job)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(busy()),
        }
        match tokio::time::timeout(left, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Refusal::Unknown(fault::unavailable(ENGINE, "it is closed"))),
            Err(_) => Err(Refusal::Unknown(fault::timeout(ENGINE, left))),
        }
    }

    /// Appends a record if there is room, and does not wait.
    pub(super) fn tell(&self, topic: &str, partition: u32, record: Raw) {
        let (answer, _) = oneshot::channel();
        let size = record.size();
        // Nothing depends on it.
        let _ = self.sender.try_send(Job {
            topic: topic.to_owned(),
            partition,
            records: vec![record],
            size,
            answer,
        });
    }
}

/// A batch, as it is gathered.
#[derive(Default)]
struct Batch {
    records: Vec<Raw>,
    size: usize,
    /// Those who wait, and how many records of the batch come before theirs.
    waiting: Vec<(usize, oneshot::Sender<Result<u64, Refusal>>)>,
}

/// The batches of a request, by topic and partition.
type Batches = BTreeMap<(String, u32), Batch>;

async fn run(link: Weak<Link>, broker: i32, mut jobs: mpsc::Receiver<Job>) {
    let mut waiting: VecDeque<Job> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match jobs.recv().await {
                Some(job) => waiting.push_back(job),
                None => return,
            }
        }
        while waiting.len() < WAITING
            && let Ok(job) = jobs.try_recv()
        {
            waiting.push_back(job);
        }
        let batches = gather(&mut waiting);
        let Some(link) = link.upgrade() else { return };
        send(&link, broker, batches).await;
    }
}

/// What fits into one request, in order; of a partition nothing overtakes what did not fit.
fn gather(waiting: &mut VecDeque<Job>) -> Batches {
    let mut batches = Batches::new();
    let mut total = 0;
    let mut rest = VecDeque::new();
    for job in waiting.drain(..) {
        let place = (job.topic.clone(), job.partition);
        let is_behind = rest
            .iter()
            .any(|other: &Job| other.partition == job.partition && other.topic == job.topic);
        let held = batches.get(&place).map_or(0, |batch| batch.size);
        let fits = total == 0 || total + job.size <= REQUEST;
        let fits = fits && (held == 0 || held + job.size <= BATCH);
        if is_behind || !fits {
            rest.push_back(job);
            continue;
        }
        total += job.size;
        let batch = batches.entry(place).or_default();
        batch.size += job.size;
        batch.waiting.push((batch.records.len(), job.answer));
        batch.records.extend(job.records);
    }
    *waiting = rest;
    batches
}

async fn send(link: &Arc<Link>, broker: i32, batches: Batches) {
    let now = link.clock.now().as_millis();
    let mut topics: BTreeMap<&str, Vec<PartitionProduceData>> = BTreeMap::new();
    for ((topic, partition), batch) in &batches {
        let data = PartitionProduceData::default()
            .with_index(partition.cast_signed())
            .with_records(Some(seal(&batch.records, now)));
        topics.entry(topic).or_default().push(data);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicProduceData::default()
            .with_name(StrBytes::from_string(topic.to_owned()).into())
            .with_partition_data(partitions)
    });
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(i32::try_from(link.timeout.as_millis()).unwrap_or(i32::MAX))
        .with_topic_data(topics.collect());
    let answered = match link.publishing(broker, link.timeout).await {
        Ok(line) => line.ask(&request, link.timeout).await,
        Err(refusal) => Err(refusal),
    };
    let answer = match answered {
        Ok(answer) => answer,
        Err(refusal) => {
            let waiting = batches.into_values().flat_map(|batch| batch.waiting);
            for (_, answer) in waiting {
                let _ = answer.send(Err(refusal.again()));
            }
            return;
        }
    };
    let mut results: BTreeMap<(String, u32), Result<u64, i16>> = BTreeMap::new();
    for topic in answer.responses {
        for partition in topic.partition_responses {
            let place = (topic.name.to_string(), partition.index.cast_unsigned());
            let base = u64::try_from(partition.base_offset).unwrap_or_default();
            let result = match partition.error_code {
                0 => Ok(base),
                code => Err(code),
            };
            results.insert(place, result);
        }
    }
    for (place, batch) in batches {
        let result = results.get(&place).copied();
        for (before, answer) in batch.waiting {
            let result = match result {
                Some(Ok(base)) => Ok(base + before as u64),
                Some(Err(code)) if codes::is_unknown(code) => {
                    Err(Refusal::Unknown(codes::explain(code)))
                }
                Some(Err(code)) => Err(Refusal::Code(code)),
                None => Err(Refusal::Unknown(fault::unexpected(
                    ENGINE,
                    "a partition is absent from an answer",
                ))),
            };
            let _ = answer.send(result);
        }
    }
}
