//! A shared bus is a bus, so that `&Arc<dyn Bus>` goes wherever `&dyn Bus` does.

use std::sync::Arc;

use async_trait::async_trait;
use sinew_core::{Name, Result};

use super::{
    Bus, Capability, Consumer, GroupState, Message, Position, Published, Record, Seek,
    Subscription, TopicConfig, TopicState,
};

#[async_trait]
impl<B: Bus + ?Sized> Bus for Arc<B> {
    fn capability(&self) -> &Capability {
        (**self).capability()
    }

    async fn create_topic(&self, topic: &Name, config: TopicConfig) -> Result<bool> {
        (**self).create_topic(topic, config).await
    }

    async fn configure_topic(&self, topic: &Name, config: TopicConfig) -> Result<()> {
        (**self).configure_topic(topic, config).await
    }

    async fn topic(&self, topic: &Name) -> Result<TopicState> {
        (**self).topic(topic).await
    }

    async fn topics(&self) -> Result<Vec<Name>> {
        (**self).topics().await
    }

    async fn delete_topic(&self, topic: &Name) -> Result<()> {
        (**self).delete_topic(topic).await
    }

    async fn publish(&self, topic: &Name, messages: Vec<Message>) -> Result<Vec<Published>> {
        (**self).publish(topic, messages).await
    }

    async fn subscribe(
        &self,
        topic: &Name,
        group: &Name,
        subscription: Subscription,
    ) -> Result<Arc<dyn Consumer>> {
        (**self).subscribe(topic, group, subscription).await
    }

    async fn group(&self, topic: &Name, group: &Name) -> Result<GroupState> {
        (**self).group(topic, group).await
    }

    async fn groups(&self, topic: &Name) -> Result<Vec<Name>> {
        (**self).groups(topic).await
    }

    async fn seek(&self, topic: &Name, group: &Name, seek: Seek) -> Result<()> {
        (**self).seek(topic, group, seek).await
    }

    async fn delete_group(&self, topic: &Name, group: &Name) -> Result<()> {
        (**self).delete_group(topic, group).await
    }

    async fn read(&self, topic: &Name, from: Position, most: usize) -> Result<Vec<Record>> {
        (**self).read(topic, from, most).await
    }
}
