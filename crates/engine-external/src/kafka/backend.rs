//! What the shell asks for, in terms of Kafka.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use sinew_core::{Name, Result, Timestamp};
use sinew_engine::bus::{
    Capability, Position, Record, TopicConfig, Unsettled, topic_unknown, unsupported,
};

use super::{
    ENGINE,
    batch::Raw,
    brokers::Brokers,
    catalogue::{self, Kept as Topic, hint_key, node_key, record_key, topic_key},
    envelope::seal,
    follow::Following,
    register::Listening,
    requests::{self, EARLIEST, LATEST},
};
use crate::{
    bus_shell::{Appended, Backend, Entry, Extent, Hints, Kept, Log, Put, Reader},
    fault,
};

/// Bytes that are read at once, without waiting.
const READ: i32 = 8 << 20;
/// How often a conditional write is tried again when somebody else was faster.
const TRIES: usize = 20;

/// The brokers, as the shell has them.
pub(super) struct Handle(pub(super) Arc<Brokers>);

#[async_trait]
impl Backend for Handle {
    fn capability(&self) -> &Capability {
        &self.0.capability
    }

    async fn create(&self, topic: &Name, config: &TopicConfig) -> Result<Option<Log>> {
        let brokers = &self.0;
        for _ in 0..TRIES {
            match brokers.look(topic).await? {
                Some((kept, version)) if kept.is_going => {
                    brokers.clear(topic, &kept, version).await?;
                    continue;
                }
                Some(_) => return Ok(None),
                None => {}
            }
            let incarnation = format!("{:012x}", rand::random::<u64>() >> 16);
            let kept = Topic::new(incarnation, config);
            let (key, value) = (topic_key(topic), Some(kept.write()));
            if brokers.catalogue.put(&key, value, 0).await? == Put::Conflict {
                continue;
            }
            // If this is not reached, who uses it first makes it.
            let log = kept.log(topic);
            let making = catalogue::made(&brokers.options, config);
            requests::create(&brokers.link, &brokers.topic(&log), &making).await?;
            return Ok(Some(log));
        }
        Err(fault::unavailable(
            ENGINE,
            "others change the topic all the time",
        ))
    }

    async fn configure(&self, log: &Log, config: &TopicConfig) -> Result<()> {
        let brokers = &self.0;
        for _ in 0..TRIES {
            let found = brokers.look(&log.topic).await?;
            let found = found.filter(|(kept, _)| !kept.is_going);
            let Some((kept, version)) = found else {
                return Err(topic_unknown(&log.topic));
            };
            if kept.log(&log.topic).config.retention != config.retention {
                return Err(unsupported(ENGINE, "changing what a topic keeps"));
            }
            let changed = Topic::new(kept.incarnation, config).write();
            let key = topic_key(&log.topic);
            if let Put::Done(_) = brokers.catalogue.put(&key, Some(changed), version).await? {
                return Ok(());
            }
        }
        Err(fault::unavailable(
            ENGINE,
            "others change the topic all the time",
        ))
    }

    async fn find(&self, topic: &Name) -> Result<Option<Log>> {
        let found = self.0.look(topic).await?;
        let found = found.filter(|(kept, _)| !kept.is_going);
        Ok(found.map(|(kept, _)| kept.log(topic)))
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        let mut topics = Vec::new();
        for (name, value, _) in self.0.catalogue.list("t/").await? {
            if !Topic::read(&value)?.is_going {
                topics.extend(name.parse::<Name>().ok());
            }
        }
        Ok(topics)
    }

    async fn delete(&self, topic: &Name) -> Result<()> {
        let brokers = &self.0;
        for _ in 0..TRIES {
            let Some((mut kept, version)) = brokers.look(topic).await? else {
                return Ok(());
            };
            kept.is_going = true;
            let value = Some(kept.write());
            if let Put::Done(version) = brokers
                .catalogue
                .put(&topic_key(topic), value, version)
                .await?
            {
                return brokers.clear(topic, &kept, version).await;
            }
        }
        Err(fault::unavailable(
            ENGINE,
            "others change the topic all the time",
        ))
    }

    async fn extent(&self, log: &Log) -> Result<Extent> {
        let brokers = &self.0;
        let of = |time| {
            brokers.about(log, move |topic| async move {
                requests::offsets(&brokers.link, &topic, time).await
            })
        };
        let (starts, ends, firsts, bytes) = futures_util::join!(
            of(EARLIEST),
            of(LATEST),
            of(0),
            brokers.about(log, |topic| async move {
                requests::bytes(&brokers.link, &topic).await
            })
        );
        let place = |found: Option<(u64, i64)>| found.map_or(0, |(offset, _)| offset);
        let ranges = starts?.into_iter().zip(ends?).map(|(start, end)| {
            let end = place(end);
            place(start).min(end)..end
        });
        let ranges: Vec<_> = ranges.collect();
        let is_empty = ranges.iter().all(std::ops::Range::is_empty);
        let times = firsts?.into_iter().flatten();
        let times = times.filter_map(|(_, time)| u64::try_from(time).ok());
        Ok(Extent {
            oldest: times.min().map(Timestamp).filter(|_| !is_empty),
            ranges,
            bytes: if is_empty { 0 } else { bytes? },
        })
    }

    async fn append(&self, log: &Log, entries: Vec<Entry>) -> Vec<Result<Appended>> {
        let brokers = &self.0;
        let mut parts: BTreeMap<u32, Vec<(usize, Raw)>> = BTreeMap::new();
        let mut results: Vec<Option<Result<Appended>>> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            results.push(match &entry.once {
                Some(mark) => Some(brokers.append_once(log, entry, mark).await),
                None => {
                    let raw = seal(&entry.message, None);
                    parts.entry(entry.partition).or_default().push((index, raw));
                    None
                }
            });
        }
        let appending = parts
            .into_iter()
            .map(|(partition, records)| brokers.append_part(log, partition, records));
        for (index, result) in join_all(appending).await.into_iter().flatten() {
            results[index] = Some(result);
        }
        results
            .into_iter()
            .map(|result| result.expect("each entry is in one part"))
            .collect()
    }

    async fn since(&self, log: &Log, time: Timestamp) -> Result<Vec<u64>> {
        let brokers = &self.0;
        let wanted = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let (found, ends) = futures_util::try_join!(
            brokers.about(log, |topic| async move {
                requests::offsets(&brokers.link, &topic, wanted).await
            }),
            brokers.about(log, |topic| async move {
                requests::offsets(&brokers.link, &topic, LATEST).await
            })
        )?;
        let first = |(found, end): (Option<(u64, i64)>, Option<(u64, i64)>)| {
            found.or(end).map_or(0, |(offset, _)| offset)
        };
        Ok(found.into_iter().zip(ends).map(first).collect())
    }

    async fn count(&self, log: &Log, from: Position) -> Result<u64> {
        let brokers = &self.0;
        let ends = brokers.about(log, |topic| async move {
            requests::offsets(&brokers.link, &topic, LATEST).await
        });
        let end = ends.await?.get(from.partition as usize).copied().flatten();
        let end = end.map_or(0, |(offset, _)| offset);
        Ok(end.saturating_sub(from.offset))
    }

    async fn read(&self, log: &Log, from: Position, most: usize) -> Result<Vec<Record>> {
        let brokers = &self.0;
        let Position { partition, offset } = from;
        let mut next = offset;
        let mut records = Vec::new();
        loop {
            let fetched = brokers.about(log, |topic| async move {
                requests::fetch(&brokers.link, &topic, partition, next, READ).await
            });
            let fetched = fetched.await?;
            let is_end = fetched.next >= fetched.end || fetched.next == next;
            next = fetched.next;
            records.extend(brokers.records(log, partition, fetched.records).await?);
            records.truncate(most);
            if is_end || records.len() == most {
                return Ok(records);
            }
        }
    }

    async fn follow(&self, log: &Log, from: Position) -> Result<Box<dyn Reader>> {
        match Following::new(self.0.clone(), log.clone(), from).await {
            Ok(following) => Ok(Box::new(following)),
            Err(refusal) => Err(self.0.explain(log, refusal).await),
        }
    }

    async fn trim(&self, log: &Log, first: Position) -> Result<()> {
        let brokers = &self.0;
        let Position { partition, offset } = first;
        let trimmed = brokers.about(log, |topic| async move {
            requests::trim(&brokers.link, &topic, partition, offset).await
        });
        trimmed.await
    }

    fn removes_old(&self, config: &TopicConfig) -> bool {
        config.retention.age.is_none() || config.retention.unsettled == Unsettled::Drop
    }

    async fn list(&self, log: &Log, prefix: &str) -> Result<Vec<Kept>> {
        self.0.check(log).await?;
        let found = self.0.register(log).list(&record_key(log, prefix)).await?;
        let kept = found.into_iter().map(|(rest, value, version)| Kept {
            key: format!("{prefix}{rest}"),
            value,
            version,
        });
        Ok(kept.collect())
    }

    async fn get(&self, log: &Log, key: &str) -> Result<Option<Kept>> {
        self.0.check(log).await?;
        let found = self.0.register(log).get(&record_key(log, key)).await?;
        Ok(found.map(|(value, version)| Kept {
            key: key.to_owned(),
            value,
            version,
        }))
    }

    async fn put(&self, log: &Log, key: &str, value: Bytes, expected: u64) -> Result<Put> {
        // What is not there yet must not come to be beside a topic that is gone.
        if expected == 0 {
            self.0.check(log).await?;
        }
        let register = self.0.register(log);
        let put = register
            .put(&record_key(log, key), Some(value), expected)
            .await?;
        if put == Put::Conflict {
            self.0.check(log).await?;
        }
        Ok(put)
    }

    async fn remove(&self, log: &Log, key: &str) -> Result<()> {
        let register = self.0.register(log);
        let full = record_key(log, key);
        if key.ends_with('.') {
            register.remove_all(&full).await
        } else {
            register.set(&full, None).await
        }
    }

    async fn hint(&self, log: &Log, group: &Name) {
        self.0.register(log).hint(&hint_key(log, group)).await;
    }

    async fn hints(&self, log: &Log, group: &Name) -> Result<Box<dyn Hints>> {
        let listening = self.0.register(log).listen(&hint_key(log, group)).await?;
        Ok(Box::new(listening))
    }

    async fn beat(&self, node: &str) -> Result<()> {
        self.0
            .catalogue
            .set(&node_key(node), Some(Bytes::new()))
            .await
    }

    async fn beats(&self) -> Result<Vec<(String, u64)>> {
        let brokers = &self.0;
        let found = brokers.catalogue.list("n/").await?;
        let mut beats = Vec::with_capacity(found.len());
        for (node, _, version) in found {
            let key = node_key(&node);
            if brokers.is_left(&key, version) {
                brokers.catalogue.put(&key, None, version).await?;
            } else {
                beats.push((node, version));
            }
        }
        // Whoever was deleting these is gone.
        for (name, value, version) in brokers.catalogue.list("t/").await? {
            let topic = Topic::read(&value)?;
            if topic.is_going
                && brokers.is_left(&format!("t/{name}"), version)
                && let Ok(name) = name.parse()
            {
                brokers.clear(&name, &topic, version).await?;
            }
        }
        Ok(beats)
    }

    async fn leave(&self, node: &str) -> Result<()> {
        self.0.catalogue.set(&node_key(node), None).await
    }
}

#[async_trait]
impl Hints for Listening {
    async fn next(&mut self) {
        Listening::next(self).await;
    }
}
