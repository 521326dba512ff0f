//! A consumer on a channel of its own.

use futures_util::StreamExt;
use lapin::{
    Channel, Consumer, message::Delivery, options::BasicConsumeOptions, types::FieldTable,
};
use sinew_core::Result;

use super::fault as refusal;

/// Takes messages until it is dropped; then what was not acknowledged is given to others.
pub(super) struct Intake {
    pub(super) channel: Channel,
    consumer: Option<Consumer>,
    is_closed: bool,
}

impl Intake {
    pub(super) async fn open(
        channel: Channel,
        queue: &str,
        options: BasicConsumeOptions,
        arguments: FieldTable,
    ) -> Result<Self> {
        // Made first: when nobody waits for the answer any more, the channel is closed all the same, and the
        // broker does not keep a consumer that takes messages to nowhere.
        let mut intake = Self {
            channel,
            consumer: None,
            is_closed: false,
        };
        let consuming =
            intake
                .channel
                .basic_consume(queue.into(), "sinew".into(), options, arguments);
        intake.consumer = Some(consuming.await.map_err(refusal::of)?);
        Ok(intake)
    }

    /// Waits for the next message; none when the queue was deleted, or the connection is gone. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Delivery>> {
        match &mut self.consumer {
            Some(consumer) => consumer.next().await.transpose().map_err(refusal::of),
            None => Ok(None),
        }
    }

    /// Ends it; others have its messages when this answers.
    pub(super) async fn close(mut self) {
        // Cancelled, it is closed by being dropped.
        let consumer = self.consumer.take();
        close(&self.channel, consumer).await;
        self.is_closed = true;
    }
}

/// The library cancels a consumer that is dropped, and when its channel is dropped too, takes the broker's answer to that for
/// an error and ends the connection. So the channel goes first, and with it the consumer.
async fn close(channel: &Channel, consumer: Option<Consumer>) {
    // One that is broken is closed already.
    let _ = channel.close(200, "done".into()).await;
    drop(consumer);
}

impl Drop for Intake {
    fn drop(&mut self) {
        let consumer = self.consumer.take();
        if !self.is_closed
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let channel = self.channel.clone();
            runtime.spawn(async move { close(&channel, consumer).await });
        }
    }
}
