//! What is asked of the cluster, one function for each question.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kafka_protocol::{
    messages::{
        CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeLogDirsRequest,
        FetchRequest, ListOffsetsRequest,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        describe_log_dirs_request::DescribableLogDirTopic,
        fetch_request::{FetchPartition, FetchTopic},
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    },
    protocol::StrBytes,
};

use super::{
    ENGINE,
    batch::{Bad, Found, Raw, unseal},
    codes,
    link::Link,
    wire::{Connection, Refusal},
};
use crate::fault;

/// As the time of [`offsets`]: the first offset that there is.
pub(super) const EARLIEST: i64 = -2;
/// As the time of [`offsets`]: the offset that comes next.
pub(super) const LATEST: i64 = -1;

/// What a partition answered to reading.
pub(super) struct Fetched {
    pub(super) records: Vec<Found>,
    /// Where to go on.
    pub(super) next: u64,
    /// Below this everything is with all replicas that must have it.
    pub(super) end: u64,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn offset(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or_default()
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

fn absent() -> Refusal {
    Refusal::Failed(fault::unexpected(
        ENGINE,
        "a partition is absent from an answer",
    ))
}

fn check(code: i16) -> Result<(), Refusal> {
    match code {
        0 => Ok(()),
        code => Err(Refusal::Code(code)),
    }
}

/// The request that reads a partition from an offset on, and waits so long when there is nothing.
pub(super) fn reading(
    topic: &str,
    partition: u32,
    from: u64,
    bytes: i32,
    wait: Duration,
) -> FetchRequest {
    let part = FetchPartition::default()
        .with_partition(partition.cast_signed())
        .with_fetch_offset(signed(from))
        .with_partition_max_bytes(bytes);
    let part = FetchTopic::default()
        .with_topic(text(topic).into())
        .with_partitions(vec![part]);
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(millis(wait))
        .with_min_bytes(i32::from(!wait.is_zero()))
        .with_max_bytes(bytes)
        .with_session_epoch(-1)
        .with_topics(vec![part])
}

/// What came of [`reading`].
pub(super) fn read(
    answer: kafka_protocol::messages::FetchResponse,
    from: u64,
) -> Result<Fetched, Refusal> {
    check(answer.error_code)?;
    let part = answer
        .responses
        .into_iter()
        .flat_map(|topic| topic.partitions);
    let part = part.into_iter().next().ok_or_else(absent)?;
    check(part.error_code)?;
    let (records, next) = unseal(part.records.unwrap_or_default(), from).map_err(|bad| {
        Refusal::Failed(match bad {
            Bad::Damaged => fault::unexpected(ENGINE, "a batch whose checksum is wrong"),
            Bad::Foreign => {
                fault::unsuitable(ENGINE, "a message in its topic was not written by Sinew")
            }
        })
    })?;
    Ok(Fetched {
        records,
        next: next.unwrap_or(from).max(from),
        end: offset(part.high_watermark),
    })
}

/// Reads without waiting.
pub(super) async fn fetch(
    link: &Link,
    topic: &str,
    partition: u32,
    from: u64,
    bytes: i32,
) -> Result<Fetched, Refusal> {
    link.attempt(topic, true, |left| async move {
        let leader = link.leader(topic, partition, left).await?;
        let request = reading(topic, partition, from, bytes, Duration::ZERO);
        read(link.ask(leader, &request, left).await?, from)
    })
    .await
}

/// Reads over a connection of one's own, and waits for something to read.
pub(super) async fn fetch_over(
    line: &Connection,
    topic: &str,
    partition: u32,
    from: u64,
    bytes: i32,
    (wait, timeout): (Duration, Duration),
) -> Result<Fetched, Refusal> {
    let request = reading(topic, partition, from, bytes, wait);
    read(line.ask(&request, wait + timeout).await?, from)
}

/// Appends to a partition: the offset of the first record. It is not tried again when it may have happened.
pub(super) async fn append(
    link: &Arc<Link>,
    topic: &str,
    partition: u32,
    records: Vec<Raw>,
) -> Result<u64, Refusal> {
    link.attempt(topic, false, |left| {
        let records = records.clone();
        async move {
            let leader = link.leader(topic, partition, left).await?;
            let intake = link.intake(leader);
            intake.append(topic, partition, records, left).await
        }
    })
    .await
}

/// Of each partition the offset, and the time of the message there, from which on messages entered at this time or later; or
/// [`EARLIEST`], [`LATEST`]. None: there is no such message.
pub(super) async fn offsets(
    link: &Link,
    topic: &str,
    time: i64,
) -> Result<Vec<Option<(u64, i64)>>, Refusal> {
    link.attempt(topic, true, |left| async move {
        let leaders = link.leaders(topic, left).await?;
        let mut found = vec![None; leaders.len()];
        for (leader, partitions) in by_leader(&leaders)? {
            let wanted = partitions.into_iter().map(|partition| {
                ListOffsetsPartition::default()
                    .with_partition_index(partition)
                    .with_current_leader_epoch(-1)
                    .with_timestamp(time)
            });
            let part = ListOffsetsTopic::default()
                .with_name(text(topic).into())
                .with_partitions(wanted.collect());
            let request = ListOffsetsRequest::default()
                .with_replica_id((-1).into())
                .with_topics(vec![part]);
            let answer = link.ask(leader, &request, left).await?;
            for part in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
                check(part.error_code)?;
                let index = usize::try_from(part.partition_index).map_err(|_| absent())?;
                let place = found.get_mut(index).ok_or_else(absent)?;
                *place = (part.offset >= 0).then(|| (offset(part.offset), part.timestamp));
            }
        }
        Ok(found)
    })
    .await
}

fn by_leader(leaders: &[i32]) -> Result<BTreeMap<i32, Vec<i32>>, Refusal> {
    let mut parts: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (partition, leader) in (0..).zip(leaders) {
        if *leader < 0 {
            return Err(Refusal::Code(codes::NO_LEADER));
        }
        parts.entry(*leader).or_default().push(partition);
    }
    Ok(parts)
}

/// What a topic's files are long, bytes, each partition once.
pub(super) async fn bytes(link: &Link, topic: &str) -> Result<u64, Refusal> {
    link.attempt(topic, true, |left| async move {
        let leaders = link.leaders(topic, left).await?;
        let mut total = 0;
        for (leader, partitions) in by_leader(&leaders)? {
            let part = DescribableLogDirTopic::default()
                .with_topic(text(topic).into())
                .with_partitions(partitions);
            let request = DescribeLogDirsRequest::default().with_topics(Some(vec![part]));
            let answer = link.ask(leader, &request, left).await?;
            for folder in answer.results {
                check(folder.error_code)?;
                let parts = folder.topics.iter().flat_map(|topic| &topic.partitions);
                let sizes = parts.filter(|part| !part.is_future_key);
                total += sizes.map(|part| offset(part.partition_size)).sum::<u64>();
            }
        }
        Ok(total)
    })
    .await
}

/// How a topic is to be made.
pub(super) struct Making {
    pub(super) partitions: u32,
    pub(super) replicas: u8,
    pub(super) settings: Vec<(&'static str, String)>,
}

/// Makes a topic; it is well if there is one.
pub(super) async fn create(link: &Link, topic: &str, making: &Making) -> Result<(), Refusal> {
    link.attempt(topic, true, |left| async move {
        let settings = making.settings.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
        });
        let wanted = CreatableTopic::default()
            .with_name(text(topic).into())
            .with_num_partitions(making.partitions.cast_signed())
            .with_replication_factor(i16::from(making.replicas))
            .with_configs(settings.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(millis(left));
        let controller = link.controller(left).await?;
        let answer = link.ask(controller, &request, left).await?;
        let result = answer.topics.first().ok_or_else(absent)?;
        if let Some(why) = &result.error_message
            && result.error_code != codes::TOPIC_EXISTS
        {
            tracing::debug!(topic, why = why.as_str(), "a topic is not made");
        }
        match result.error_code {
            0 | codes::TOPIC_EXISTS => {}
            code => return Err(Refusal::Code(code)),
        }
        // Brokers learn of it one after the other.
        link.forget(topic);
        match link.leaders(topic, left).await {
            Ok(leaders) if leaders.iter().all(|leader| *leader >= 0) => Ok(()),
            Ok(_) | Err(Refusal::Code(codes::NO_TOPIC)) => Err(Refusal::Code(codes::NO_LEADER)),
            Err(refusal) => Err(refusal),
        }
    })
    .await
}

/// Deletes a topic; it is well if there is none.
pub(super) async fn delete(link: &Link, topic: &str) -> Result<(), Refusal> {
    link.attempt(topic, true, |left| async move {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![text(topic).into()])
            .with_timeout_ms(millis(left));
        let controller = link.controller(left).await?;
        let answer = link.ask(controller, &request, left).await?;
        link.forget(topic);
        match answer.responses.first().ok_or_else(absent)?.error_code {
            0 | codes::NO_TOPIC => Ok(()),
            code => Err(Refusal::Code(code)),
        }
    })
    .await
}

/// Removes what lies below an offset of a partition.
pub(super) async fn trim(
    link: &Link,
    topic: &str,
    partition: u32,
    first: u64,
) -> Result<(), Refusal> {
    link.attempt(topic, true, |left| async move {
        let part = DeleteRecordsPartition::default()
            .with_partition_index(partition.cast_signed())
            .with_offset(signed(first));
        let part = DeleteRecordsTopic::default()
            .with_name(text(topic).into())
            .with_partitions(vec![part]);
        let request = DeleteRecordsRequest::default()
            .with_topics(vec![part])
            .with_timeout_ms(millis(left));
        let leader = link.leader(topic, partition, left).await?;
        let answer = link.ask(leader, &request, left).await?;
        let mut parts = answer.topics.into_iter().flat_map(|topic| topic.partitions);
        match parts.next().ok_or_else(absent)?.error_code {
            // It is gone already.
            0 | codes::OUT_OF_RANGE => Ok(()),
            code => Err(Refusal::Code(code)),
        }
    })
    .await
}
