//! Kafka by its protocol, one partition a topic: what is published is batched while five requests are on their way, as Kafka's
//! own producer does it; flushed for each request, or by the system, which is Kafka's default.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use kafka_protocol::{
    messages::{
        CreateTopicsRequest, FetchRequest, FindCoordinatorRequest, OffsetCommitRequest,
        ProduceRequest, RequestHeader, ResponseHeader,
        create_topics_request::CreatableTopic,
        fetch_request::{FetchPartition, FetchTopic},
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{
        Decodable as _, HeaderVersion as _, Request, StrBytes, encode_request_header_into_buffer,
    },
    records::{
        Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE,
        Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    },
};
use sinew_testbed::{Kafka as Program, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, mpsc, oneshot},
};

use super::{Seen, Stream, Subject};

/// Requests on their way at once, and bytes a batch: Kafka's producer has one megabyte a request.
const UNDER_WAY: usize = 5;
const BATCH: usize = 1 << 20;
const FETCH: i32 = 1 << 20;
const TIMEOUT_MS: i32 = 30_000;
const GROUP: &str = "bench";

pub(super) struct Kafka {
    is_flushed: bool,
    pub(super) server: Arc<Server>,
}

impl Kafka {
    pub(super) async fn start(is_flushed: bool) -> Result<Self> {
        let program = if is_flushed {
            Program::default().with("log.flush.interval.messages", "1")
        } else {
            Program::default()
        };
        let server = tokio::task::spawn_blocking(|| Server::start(program)).await??;
        let kafka = Self {
            is_flushed,
            server: Arc::new(server),
        };
        kafka.wait_for_groups().await?;
        Ok(kafka)
    }

    /// The topic of what groups have committed is made when it is asked for.
    async fn wait_for_groups(&self) -> Result<()> {
        let line = Line::open(&self.server.address()).await?;
        let request = FindCoordinatorRequest::default().with_key(StrBytes::from_static_str(GROUP));
        for _ in 0..300 {
            if line.ask(&request, 3).await?.error_code == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("Kafka has no coordinator for groups after 30 s")
    }
}

struct Topic {
    name: StrBytes,
    address: String,
    batches: mpsc::Sender<Call>,
}

/// What one call publishes.
struct Call {
    payloads: Vec<Bytes>,
    done: oneshot::Sender<Result<()>>,
}

#[async_trait]
impl Subject for Kafka {
    fn name(&self) -> &'static str {
        if self.is_flushed {
            "kafka flushed"
        } else {
            "kafka default"
        }
    }

    fn durability(&self) -> &'static str {
        if self.is_flushed {
            "flush.messages 1, acks all"
        } else {
            "not synced before the answer, acks all"
        }
    }

    fn server(&self) -> Option<u32> {
        self.server.pid()
    }

    async fn stream(&self, name: &str) -> Result<Arc<dyn Stream>> {
        let line = Arc::new(Line::open(&self.server.address()).await?);
        let name = StrBytes::from_string(name.to_owned());
        let topic = CreatableTopic::default()
            .with_name(name.clone().into())
            .with_num_partitions(1)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(TIMEOUT_MS);
        let answer = line.ask(&request, 5).await?;
        let made = answer.topics.first().context("no answer for the topic")?;
        ensure!(made.error_code == 0, "no topic: {}", made.error_code);
        let (batches, calls) = mpsc::channel(1024);
        tokio::spawn(produce(line, name.clone(), calls));
        Ok(Arc::new(Topic {
            name,
            address: self.server.address(),
            batches,
        }))
    }
}

#[async_trait]
impl Stream for Topic {
    async fn publish(&self, payloads: Vec<Bytes>) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let sent = self.batches.send(Call { payloads, done }).await;
        sent.ok().context("the producer has ended")?;
        answer.await.context("the producer has ended")?
    }

    async fn consume(&self, seen: Arc<Seen>) -> Result<()> {
        let line = Line::open(&self.address).await?;
        let mut next = 0;
        loop {
            let part = FetchPartition::default()
                .with_fetch_offset(next)
                .with_partition_max_bytes(FETCH);
            let topic = FetchTopic::default()
                .with_topic(self.name.clone().into())
                .with_partitions(vec![part]);
            let request = FetchRequest::default()
                .with_replica_id((-1).into())
                .with_max_wait_ms(500)
                .with_min_bytes(1)
                .with_max_bytes(FETCH)
                .with_session_epoch(-1)
                .with_topics(vec![topic]);
            let answer = line.ask(&request, 12).await?;
            let mut parts = answer.responses.into_iter().flat_map(|one| one.partitions);
            let part = parts.next().context("no answer for the partition")?;
            // Its leader may not be known for a moment after it was made.
            ensure!(
                matches!(part.error_code, 0 | 3 | 5 | 6),
                "reading failed: {}",
                part.error_code
            );
            let mut batches = part.records.unwrap_or_default();
            let mut records = Vec::new();
            while is_whole(&batches) {
                records.extend(RecordBatchDecoder::decode(&mut batches)?.records);
            }
            records.retain(|record| record.offset >= next);
            let Some(last) = records.last() else {
                continue;
            };
            next = last.offset + 1;
            let values = records.iter().filter_map(|record| record.value.as_deref());
            seen.note(values);
            self.commit(&line, next).await?;
        }
    }
}

impl Topic {
    async fn commit(&self, line: &Line, next: i64) -> Result<()> {
        let part = OffsetCommitRequestPartition::default().with_committed_offset(next);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(self.name.clone().into())
            .with_partitions(vec![part]);
        let request = OffsetCommitRequest::default()
            .with_group_id(StrBytes::from_static_str(GROUP).into())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let answer = line.ask(&request, 8).await?;
        let mut parts = answer.topics.iter().flat_map(|one| &one.partitions);
        let code = parts.next().context("no answer to a commit")?.error_code;
        ensure!(code == 0, "committing failed: {code}");
        Ok(())
    }
}

/// Whether a whole batch lies at the beginning: the last one of an answer is cut off where that ends.
fn is_whole(batches: &[u8]) -> bool {
    let length = batches.get(8..12).and_then(|bytes| bytes.try_into().ok());
    length.is_some_and(|length| batches.len() >= 12 + u32::from_be_bytes(length) as usize)
}

/// Publishes what calls bring, many of them a request.
async fn produce(line: Arc<Line>, topic: StrBytes, mut calls: mpsc::Receiver<Call>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let call = tokio::select! {
            biased;
            Some(()) = under_way.next() => continue,
            call = calls.recv(), if under_way.len() < UNDER_WAY => match call {
                Some(call) => call,
                None => return,
            },
        };
        let (mut payloads, mut waiting) = (call.payloads, vec![call.done]);
        let mut bytes: usize = payloads.iter().map(Bytes::len).sum();
        while bytes < BATCH
            && let Ok(call) = calls.try_recv()
        {
            bytes += call.payloads.iter().map(Bytes::len).sum::<usize>();
            payloads.extend(call.payloads);
            waiting.push(call.done);
        }
        let (line, topic) = (Arc::clone(&line), topic.clone());
        under_way.push(async move {
            let result = append(&line, &topic, payloads).await;
            for done in waiting {
                let result = result
                    .as_ref()
                    .map_err(|cause| anyhow::anyhow!("{cause:#}"));
                // Who waited may have gone.
                let _ = done.send(result.copied());
            }
        });
    }
}

async fn append(line: &Line, topic: &StrBytes, payloads: Vec<Bytes>) -> Result<()> {
    let records: Vec<Record> = (0_i32..)
        .zip(payloads)
        .map(|(index, payload)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: index.into(),
            // Of the batch it is the first one's; one that does not grow would make a batch of each record.
            sequence: NO_SEQUENCE + index,
            timestamp: 0,
            key: None,
            value: Some(payload),
            headers: Default::default(),
        })
        .collect();
    let options = RecordEncodeOptions {
        version: 2,
        compression: Compression::None,
    };
    let mut batch = BytesMut::new();
    RecordBatchEncoder::encode(&mut batch, &records, &options)?;
    let part = PartitionProduceData::default().with_records(Some(batch.freeze()));
    let part = TopicProduceData::default()
        .with_name(topic.clone().into())
        .with_partition_data(vec![part]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(TIMEOUT_MS)
        .with_topic_data(vec![part]);
    for _ in 0..100 {
        let answer = line.ask(&request, 9).await?;
        let mut parts = answer
            .responses
            .iter()
            .flat_map(|one| &one.partition_responses);
        match parts
            .next()
            .context("no answer for the partition")?
            .error_code
        {
            0 => return Ok(()),
            // Its leader may not be known for a moment after it was made.
            3 | 5 | 6 => tokio::time::sleep(Duration::from_millis(20)).await,
            code => anyhow::bail!("publishing failed: {code}"),
        }
    }
    anyhow::bail!("the topic has no leader")
}

type Waiting = Arc<Mutex<VecDeque<oneshot::Sender<Bytes>>>>;

/// A connection; answers come in the order of their requests.
struct Line {
    waiting: Waiting,
    writing: Mutex<OwnedWriteHalf>,
}

impl Line {
    async fn open(address: &str) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (reading, writing) = socket.into_split();
        let waiting = Waiting::default();
        tokio::spawn(read(reading, Arc::clone(&waiting)));
        Ok(Self {
            waiting,
            writing: Mutex::new(writing),
        })
    }

    async fn ask<R: Request>(&self, request: &R, version: i16) -> Result<R::Response> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(StrBytes::from_static_str("bench")));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        encode_request_header_into_buffer(&mut frame, &header)?;
        request.encode(&mut frame, version)?;
        let length = i32::try_from(frame.len() - 4)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let (answer, answered) = oneshot::channel();
        {
            let mut writing = self.writing.lock().await;
            self.waiting.lock().await.push_back(answer);
            writing.write_all(&frame).await?;
        }
        let mut frame = answered.await.context("Kafka closed the connection")?;
        ResponseHeader::decode(&mut frame, R::Response::header_version(version))?;
        R::Response::decode(&mut frame, version)
    }
}

/// Ends with the connection; those who wait learn it from their dropped channels.
async fn read(mut socket: OwnedReadHalf, waiting: Waiting) {
    while let Ok(length) = socket.read_u32().await {
        let mut frame = BytesMut::zeroed(length as usize);
        if socket.read_exact(&mut frame).await.is_err() {
            break;
        }
        if let Some(answer) = waiting.lock().await.pop_front() {
            let _ = answer.send(frame.freeze());
        }
    }
    waiting.lock().await.clear();
}
