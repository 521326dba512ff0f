use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{Name, Result};

use super::{Retrying, is_unknown, may_pass};
use crate::bus::{
    Bus, Capability, Consumer, Delivery, GroupState, Message, Position, Published, Receipt, Record,
    Redeliver, Seek, Subscription, TopicConfig, TopicState,
};

impl<B: Bus> Retrying<B> {
    /// Whether messages may be published once more: the topic knows them again by their ids.
    async fn knows_again(&self, topic: &Name, messages: &[Message]) -> bool {
        let all_have_ids = messages.iter().all(|message| message.id.is_some());
        if !all_have_ids || !self.inner.capability().deduplication {
            return false;
        }
        let state = repeat!(self, self.inner.topic(topic));
        // The last repetition must still fall into the window.
        state.is_ok_and(|state| state.config.deduplication > self.policy.within * 2)
    }
}

#[async_trait]
impl<B: Bus + Clone> Bus for Retrying<B> {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    /// When an answer was lost, `false` may mean that this call made it.
    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        repeat!(self, self.inner.create_topic(topic, config))
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        repeat!(self, self.inner.configure_topic(topic, config))
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        repeat!(self, self.inner.topic(topic))
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        repeat!(self, self.inner.topics())
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        repeat!(self, self.inner.delete_topic(topic))
    }

    /// Repeated when nothing was written, and, when the fate of an attempt is unknown, if all messages have ids and the
    /// topic remembers ids for more than twice [`super::Policy::within`]. What an attempt wrote whose answer was lost is answered
    /// as [`Published::Duplicate`].
    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        let mut trial = self.trial();
        loop {
            let error = match self.inner.publish(topic, messages.clone()).await {
                Ok(published) => {
                    self.budget.succeeded();
                    return Ok(published);
                }
                Err(error) => error,
            };
            let may_go_on = if is_unknown(&error) {
                self.knows_again(topic, &messages).await
            } else {
                // A full topic is the caller's to hear of: that is the backpressure.
                may_pass(&error) && error.code() != "bus.full"
            };
            if !may_go_on || !trial.wait(&error).await {
                return Err(error);
            }
        }
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        let consumer = repeat!(
            self,
            self.inner.subscribe(topic, group, subscription.clone())
        )?;
        Ok(Arc::new(Retrying::new(consumer, self.policy)))
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        repeat!(self, self.inner.group(topic, group))
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        repeat!(self, self.inner.groups(topic))
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        repeat!(self, self.inner.seek(topic, group, seek))
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        repeat!(self, self.inner.delete_group(topic, group))
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        repeat!(self, self.inner.read(topic, from, most))
    }
}

#[async_trait]
impl Consumer for Retrying<Arc<dyn Consumer>> {
    async fn next_many(&self, most: usize) -> Result<Vec<Delivery>> {
        repeat!(self, self.inner.next_many(most))
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        repeat!(self, self.inner.ack(receipts))
    }

    async fn nack(&self, receipt: &Receipt, redeliver: Redeliver) -> Result<()> {
        let mut may_have_happened = false;
        repeat!(self, async {
            match self.inner.nack(receipt, redeliver).await {
                // The delivery has ended, as was asked.
                Err(error) if error.code() == "bus.receipt_stale" && may_have_happened => Ok(()),
                Err(error) => {
                    may_have_happened |= is_unknown(&error);
                    Err(error)
                }
                Ok(()) => Ok(()),
            }
        })
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        repeat!(self, self.inner.extend(receipt, time))
    }
}
