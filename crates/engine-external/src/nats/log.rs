//! Reading a stream.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_nats::{Client, Message, Subscriber};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use sinew_core::{Error, Result, Timestamp};
use sinew_engine::bus::{Position, Record};

use super::{
    api::{ConsumerInfo, From, consumer},
    envelope::unseal,
    link::{ENGINE, Link, Refusal},
};
use crate::{bus_shell::Reader, fault};

/// How long the server holds a request for messages when there are none.
const HOLD: Duration = Duration::from_secs(5);

/// A consumer of a stream that is read from a place on. It keeps nothing on the server that matters.
pub(super) struct Following {
    link: Arc<Link>,
    client: Client,
    stream: String,
    consumer: String,
    inbox: String,
    messages: Subscriber,
    partition: u32,
    /// Messages that were asked for and have not come.
    outstanding: usize,
    broken: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_broken: bool,
    pub(super) pending: u64,
}

/// Where and when a message was stored.
struct Place {
    sequence: u64,
    time: Timestamp,
}

impl Following {
    pub(super) async fn new(
        link: &Arc<Link>,
        stream: &str,
        filter: Option<&str>,
        from: &From,
        partition: u32,
    ) -> Result<Self, Refusal> {
        let what = format!("CONSUMER.CREATE.{stream}");
        let broken = Box::pin(link.broken());
        let made: ConsumerInfo = link.api(&what, &consumer(stream, filter, from)).await?;
        let client = link.client().await.map_err(Refusal::Failed)?;
        let inbox = client.new_inbox();
        let messages = client
            .subscribe(inbox.clone())
            .await
            .map_err(|why| Refusal::Failed(fault::unavailable(ENGINE, why.to_string())))?;
        Ok(Self {
            link: link.clone(),
            client,
            stream: stream.to_owned(),
            consumer: made.name,
            inbox,
            messages,
            partition,
            outstanding: 0,
            broken,
            is_broken: false,
            pending: made.num_pending,
        })
    }

    async fn ask(&mut self, most: usize, is_waiting: bool) -> Result<()> {
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            self.stream, self.consumer
        );
        let hold = u64::try_from(HOLD.as_nanos()).unwrap_or_default();
        let body = if is_waiting {
            json!({ "batch": most, "expires": hold })
        } else {
            json!({ "batch": most, "no_wait": true })
        };
        self.client
            .publish_with_reply(subject, self.inbox.clone(), body.to_string().into())
            .await
            .map_err(|why| fault::unavailable(ENGINE, why.to_string()))?;
        self.outstanding = most;
        Ok(())
    }

    /// The next message; none when there are no more for now.
    async fn message(&mut self, patience: Duration) -> Result<Option<Message>> {
        loop {
            // Asked once more, it would not know that it has ended.
            if self.is_broken {
                return Err(fault::unavailable(ENGINE, "the connection was lost"));
            }
            let message = tokio::select! {
                biased;
                message = self.messages.next() => message,
                () = &mut self.broken => None,
                () = tokio::time::sleep(patience) => {
                    return Err(fault::timeout(ENGINE, patience));
                }
            };
            let Some(message) = message else {
                self.is_broken = true;
                continue;
            };
            match message.status.map(|status| status.as_u16()) {
                None => {
                    self.outstanding = self.outstanding.saturating_sub(1);
                    return Ok(Some(message));
                }
                // The server has nothing more for this request.
                Some(404 | 408) => {
                    self.outstanding = 0;
                    return Ok(None);
                }
                Some(100) => {}
                Some(status) => {
                    let why = message.description.unwrap_or_default();
                    return Err(fault::unavailable(
                        ENGINE,
                        format!("reading ended: {status} {why}"),
                    ));
                }
            }
        }
    }

    /// All that there is now, in raw form.
    pub(super) async fn all(&mut self, most: u64) -> Result<Vec<Message>> {
        let count = usize::try_from(self.pending.min(most)).unwrap_or(usize::MAX);
        let mut found = Vec::with_capacity(count);
        if count > 0 {
            self.ask(count, false).await?;
        }
        while found.len() < count {
            match self.message(self.link.timeout).await? {
                Some(message) => found.push(message),
                None => break,
            }
        }
        Ok(found)
    }

    pub(super) fn record(&self, message: Message) -> Result<Record> {
        record(self.partition, message)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Best effort: the server forgets it by itself, later.
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, self.consumer);
        let client = self.client.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let sent = client.publish(subject, bytes::Bytes::new());
                let _ = tokio::time::timeout(Duration::from_secs(1), sent).await;
            });
        }
    }
}

#[async_trait]
impl Reader for Following {
    async fn next(&mut self, most: usize) -> Result<Vec<Record>> {
        if self.outstanding == 0 {
            self.ask(most, true).await?;
        }
        let patience = HOLD + self.link.timeout.min(HOLD);
        let Some(first) = self.message(patience).await? else {
            return Ok(Vec::new());
        };
        let mut found = vec![self.record(first)?];
        while found.len() < most && self.outstanding > 0 {
            match self.message(patience).now_or_never() {
                Some(Ok(Some(message))) => found.push(self.record(message)?),
                // What is broken is found out with the next call.
                _ => break,
            }
        }
        Ok(found)
    }
}

fn record(partition: u32, message: Message) -> Result<Record> {
    let Place { sequence, time } = place(&message)?;
    let offset = sequence - 1;
    Ok(Record {
        position: Position { partition, offset },
        published: time,
        message: Arc::new(unseal(message.payload)?),
    })
}

/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer's sequence>.<nanoseconds>.<pending>`; newer servers put a
/// domain and an account behind the first two.
fn place(message: &Message) -> Result<Place> {
    let reply = message.reply.as_deref().unwrap_or_default();
    let tokens: Vec<&str> = reply.split('.').collect();
    let shift = if tokens.len() >= 11 { 2 } else { 0 };
    let number = |index: usize| tokens.get(index + shift)?.parse::<u64>().ok();
    match (number(5), number(7)) {
        (Some(sequence @ 1..), Some(nanoseconds)) => Ok(Place {
            sequence,
            time: Timestamp(nanoseconds / 1_000_000),
        }),
        _ => Err(unplaced(reply)),
    }
}

fn unplaced(reply: &str) -> Error {
    fault::unexpected(
        ENGINE,
        format!("a message came with the reply subject {reply:?}"),
    )
}

/// The sequence at which a message was stored.
pub(super) fn sequence(message: &Message) -> Result<u64> {
    place(message).map(|place| place.sequence)
}
