//! Publishing: into which partition a message goes, and what became of it.

use std::{pin::Pin, sync::atomic::Ordering, task::Poll, time::Duration};

use sinew_core::{Name, Result};
use sinew_engine::bus::{Message, Published, TopicConfig};
use tokio::time::{self, Instant};

use super::{
    ENGINE, Known, Shared, envelope, fault as refusal,
    link::Lines,
    streams::{self, Sent},
};
use crate::fault;

/// KiB of messages that may wait for their confirmation.
pub(super) const UNCONFIRMED_KIB: u32 = 32 << 10;
/// How often a publisher looks whether the broker takes messages again.
const BLOCKED: Duration = Duration::from_millis(50);

impl Shared {
    fn partition(&self, message: &Message, partitions: usize) -> u32 {
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX).max(1);
        match &message.key {
            Some(key) => (hash(key) % u64::from(partitions)) as u32,
            None => self.spread.fetch_add(1, Ordering::Relaxed) % partitions,
        }
    }

    /// Waits until the broker takes messages.
    async fn unblocked(&self, lines: &Lines) -> Result<()> {
        let deadline = Instant::now() + self.link.timeout;
        while lines.is_blocked() {
            if Instant::now() >= deadline {
                return Err(refusal::blocked());
            }
            time::sleep(BLOCKED).await;
        }
        Ok(())
    }

    pub(super) async fn publish(
        &self,
        topic: &Name,
        messages: &[Message],
    ) -> Result<Vec<Published>> {
        for _ in 0..2 {
            let known = self.known(topic).await?;
            let lines = self.link.lines().await?;
            self.unblocked(&lines).await?;
            let sent = self.send(&lines, &known, messages).await?;
            if let Some(published) = sent {
                return Ok(published);
            }
            // The streams that we knew are gone.
            if self.look(topic).await?.id == known.id {
                break;
            }
        }
        Err(fault::unavailable(
            ENGINE,
            "the topic has no stream, or was deleted while messages were published to it",
        ))
    }

    /// Publishes in this order. None when there was no stream for one.
    async fn send(
        &self,
        lines: &Lines,
        known: &Known,
        messages: &[Message],
    ) -> Result<Option<Vec<Published>>> {
        let now = self.clock.now();
        let weight: u64 = messages.iter().map(|message| message.weight() + 64).sum();
        let kib = u32::try_from(weight / 1024 + 1)
            .unwrap_or(u32::MAX)
            .min(UNCONFIRMED_KIB);
        let sending = async {
            let permits = self.unconfirmed.acquire_many(kib).await;
            let _permits = permits.map_err(|_| fault::unavailable(ENGINE, "closed"))?;
            let mut sending = Vec::with_capacity(messages.len());
            for message in messages {
                let partition = self.partition(message, known.streams.len());
                let body = envelope::encode(message, now);
                let stream = &known.streams[partition as usize];
                let mut sent: Pin<Box<dyn Future<Output = Result<Sent>> + Send>> =
                    Box::pin(async move { streams::append(lines, stream, &body).await });
                // The first poll is what puts it behind those before it; waiting for each to be written takes a
                // thread's switch a message.
                let first =
                    std::future::poll_fn(|context| Poll::Ready(sent.as_mut().poll(context)));
                sending.push(match first.await {
                    Poll::Ready(answer) => (partition, Err(answer)),
                    Poll::Pending => (partition, Ok(sent)),
                });
            }
            let (mut published, mut is_lost) = (Vec::with_capacity(sending.len()), false);
            for (partition, sent) in sending {
                let sent = match sent {
                    Ok(sent) => sent.await,
                    Err(answer) => answer,
                };
                match sent? {
                    Sent::Written => published.push(Published::In(partition)),
                    Sent::Nowhere => is_lost = true,
                    Sent::Refused => {
                        return Err(fault::unavailable(ENGINE, "the broker refused a message"));
                    }
                }
            }
            if is_lost && !published.is_empty() {
                return Err(fault::unavailable(
                    ENGINE,
                    "the topic was deleted meanwhile",
                ));
            }
            Ok((!is_lost).then_some(published))
        };
        self.link.within(sending).await
    }

    /// Publishes a dead letter.
    pub(super) async fn bury(&self, topic: &Name, message: Message) -> Result<()> {
        match self.publish(topic, std::slice::from_ref(&message)).await {
            Err(error) if error.code() == "bus.topic_unknown" => {
                self.with_catalogue(async |lines, held| {
                    let config = TopicConfig::default();
                    self.make_topic(lines, held, topic, &config).await
                })
                .await?;
                self.publish(topic, &[message]).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }
}

/// FNV-1a, with its high bits mixed in: the same on every node, for ever.
fn hash(key: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_partitions_for_ever() {
        let places: Vec<u64> = [&b""[..], b"a", b"order-17"]
            .map(|key| hash(key) % 16)
            .into();
        assert_eq!(places, [1, 0, 8]);
    }
}
