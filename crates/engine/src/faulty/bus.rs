use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{Name, Result};

use super::Faulty;
use crate::bus::{
    Bus, Capability, Consumer, Delivery, GroupState, Message, Position, Published, Receipt, Record,
    Redeliver, Seek, Subscription, TopicConfig, TopicState,
};

#[async_trait]
impl<B: Bus + Clone> Bus for Faulty<B> {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        self.before(false).await?;
        let made = self.inner.create_topic(topic, config).await?;
        // Its answer tells who made the topic, and no repetition can.
        self.after(false)?;
        Ok(made)
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        repeatable!(self, self.inner.configure_topic(topic, config))
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        repeatable!(self, self.inner.topic(topic))
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        repeatable!(self, self.inner.topics())
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        repeatable!(self, self.inner.delete_topic(topic))
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        // Whether they were written can be found out when they have ids, but never where.
        self.before(false).await?;
        let published = self.inner.publish(topic, messages).await?;
        self.after(false)?;
        Ok(published)
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        self.before(true).await?;
        let consumer = self.inner.subscribe(topic, group, subscription).await?;
        self.after(true)?;
        Ok(Arc::new(Faulty {
            inner: consumer,
            faults: self.faults,
            shared: Arc::clone(&self.shared),
        }))
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        repeatable!(self, self.inner.group(topic, group))
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        repeatable!(self, self.inner.groups(topic))
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        repeatable!(self, self.inner.seek(topic, group, seek))
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        repeatable!(self, self.inner.delete_group(topic, group))
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        repeatable!(self, self.inner.read(topic, from, most))
    }
}

#[async_trait]
impl Consumer for Faulty<Arc<dyn Consumer>> {
    async fn next_many(&self, most: usize) -> Result<Vec<Delivery>> {
        // What was not answered is not with the consumer, so no answer is lost.
        self.before(true).await?;
        self.inner.next_many(most).await
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        repeatable!(self, self.inner.ack(receipts))
    }

    async fn nack(&self, receipt: &Receipt, redeliver: Redeliver) -> Result<()> {
        // Nobody could tell then whether this call ended the delivery, or its time.
        self.before(false).await?;
        self.inner.nack(receipt, redeliver).await?;
        self.after(false)
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        repeatable!(self, self.inner.extend(receipt, time))
    }
}
