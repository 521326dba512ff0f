//! Reading a partition as it grows, over a connection of its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::Result;
use sinew_engine::bus::{Position, Record};

use super::{
    brokers::Brokers,
    requests,
    wire::{Connection, Refusal},
};
use crate::bus_shell::{Log, Reader};

/// How long a broker holds a request when there is nothing to read.
const HOLD: Duration = Duration::from_secs(2);
/// Bytes that are read at once.
const READ: i32 = 4 << 20;

pub(super) struct Following {
    pub(super) brokers: Arc<Brokers>,
    pub(super) log: Log,
    pub(super) line: Connection,
    pub(super) next: Position,
    pub(super) ahead: VecDeque<Record>,
}

impl Following {
    pub(super) async fn new(
        brokers: Arc<Brokers>,
        log: Log,
        from: Position,
    ) -> Result<Self, Refusal> {
        let topic = brokers.topic(&log);
        let (link, name) = (&brokers.link, &topic);
        let opened = link.attempt(name, true, |left| async move {
            let leader = link.leader(name, from.partition, left).await?;
            link.own(leader, left).await
        });
        let line = opened.await?;
        Ok(Self {
            brokers,
            log,
            line,
            next: from,
            ahead: VecDeque::new(),
        })
    }
}

#[async_trait]
impl Reader for Following {
    async fn next(&mut self, most: usize) -> Result<Vec<Record>> {
        if self.ahead.is_empty() {
            let topic = self.brokers.topic(&self.log);
            let Position { partition, offset } = self.next;
            let times = (HOLD, self.brokers.link.timeout);
            let fetched =
                requests::fetch_over(&self.line, &topic, partition, offset, READ, times).await;
            let fetched = match fetched {
                Ok(fetched) => fetched,
                Err(refusal) => {
                    self.brokers.link.forget(&topic);
                    return Err(self.brokers.explain(&self.log, refusal).await);
                }
            };
            let next = fetched.next;
            let records = self.brokers.records(&self.log, partition, fetched.records);
            // Not before: it may have failed, or been given up.
            self.ahead = records.await?.into();
            self.next.offset = next;
        }
        let count = most.min(self.ahead.len());
        Ok(self.ahead.drain(..count).collect())
    }
}
