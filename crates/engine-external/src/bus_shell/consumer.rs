//! A consumer, and how the group answers it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use sinew_core::{Result, Timestamp};
use sinew_engine::bus::{
    Consumer, Delivery, Position, Receipt, Redeliver,
    group::{ConsumerId, Input},
    receipt_stale,
};
use tokio::sync::oneshot;

use super::{
    Guard, Shared,
    local::{Ended, Fate, Local, Now},
    records::{ProgressRecord, decode, progress_key},
};
use crate::fault;

/// Those who wait look again at least this often: the lease may have lapsed or come back.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

pub(super) struct ShellConsumer {
    pub(super) guard: Arc<Guard>,
    pub(super) local: Arc<Local>,
    pub(super) id: ConsumerId,
}

impl ShellConsumer {
    fn shared(&self) -> &Arc<Shared> {
        &self.guard.0
    }

    fn now(&self) -> Now {
        Now::of(&self.shared().clock)
    }

    /// Passes an input about a receipt to the machine. None when another node holds the partition, or nobody.
    fn input(&self, receipt: &Receipt, input: Input) -> Result<Option<super::local::Outcome>> {
        let now = self.now();
        let mut state = self.local.state();
        self.local.check(&state)?;
        if !state.held.contains_key(&receipt.position.partition) {
            return Ok(None);
        }
        let outcome = self.local.step(&mut state, input, now);
        drop(state);
        self.local.changed.send_replace(());
        Ok(Some(outcome))
    }

    async fn wait(&self, receiver: oneshot::Receiver<Fate>) -> Result<Fate> {
        let timeout = self.shared().timeout;
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(Fate::Ended)) => {
                let why = self.local.state().ended.unwrap_or(Ended::Closed);
                Err(self.local.ended(why))
            }
            Ok(Ok(fate)) => Ok(fate),
            // Its partition was taken from us in the middle.
            Ok(Err(_)) => Ok(Fate::Stale),
            Err(_) => Err(fault::timeout(self.shared().engine(), timeout)),
        }
    }

    /// Whether a message of a partition that this node does not hold is settled.
    async fn is_settled(&self, position: Position) -> Result<bool> {
        let Position { partition, offset } = position;
        if partition >= self.local.log.config.partitions {
            return Ok(false);
        }
        let key = progress_key(&self.local.group, partition);
        let Some(kept) = self.shared().backend.get(&self.local.log, &key).await? else {
            return Ok(false);
        };
        let record: ProgressRecord = decode(self.shared().engine(), &key, &kept.value)?;
        let progress = record.snapshot(Timestamp::default());
        let below = progress.settled.range(..=offset).next_back();
        let is_settled = offset < progress.cursor || below.is_some_and(|(_, end)| offset < *end);
        Ok(is_settled && record.group == self.local.incarnation)
    }
}

#[async_trait]
impl Consumer for ShellConsumer {
    async fn next_many(&self, most: usize) -> Result<Vec<Delivery>> {
        let mut changed = self.local.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let until = {
                let now = self.now();
                let epoch = self.shared().node.epoch();
                let mut state = self.local.state();
                self.local.check(&state)?;
                // Without the lease others may deliver what we hold.
                if epoch.is_some() && state.verified == epoch {
                    let with = state.machine.in_flight_with(self.id);
                    let in_flight = state.consumers.get(&self.id).copied().unwrap_or_default();
                    let take = Input::Take {
                        consumer: self.id,
                        most: most.max(1).min(in_flight.saturating_sub(with)),
                    };
                    let deliveries = self.local.step(&mut state, take, now).deliveries;
                    if !deliveries.is_empty() {
                        return Ok(deliveries);
                    }
                }
                let next = state.machine.next_timer();
                let longest = now.monotonic + LONGEST_WAIT;
                next.map_or(longest, |at| at.min(longest))
            };
            tokio::select! {
                // The sender lives in `local`.
                _ = changed.changed() => {}
                () = self.shared().clock.sleep_until(until) => {}
            }
        }
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        let mut stale = None;
        let mut elsewhere = Vec::new();
        let waits: Vec<_> = {
            let now = self.now();
            let mut state = self.local.state();
            self.local.check(&state)?;
            let mut staged = BTreeMap::new();
            for receipt in receipts {
                let Receipt { position, token } = *receipt;
                if !state.held.contains_key(&position.partition) {
                    elsewhere.push(receipt);
                    continue;
                }
                let ack = Input::Ack { position, token };
                let outcome = self.local.step(&mut state, ack, now);
                if outcome.is_stale {
                    stale = Some(receipt);
                } else if outcome.staged.contains(&position.partition) {
                    staged.entry(position.partition).or_insert(receipt);
                }
            }
            staged
                .into_iter()
                .filter_map(|(partition, receipt)| {
                    let wait = state.held.get_mut(&partition)?.wait();
                    Some((receipt, wait))
                })
                .collect()
        };
        // There may be room for more.
        self.local.changed.send_replace(());
        for (receipt, wait) in waits {
            if self.wait(wait).await? == Fate::Stale {
                stale = Some(receipt);
            }
        }
        for receipt in elsewhere {
            if !self.is_settled(receipt.position).await? {
                stale = Some(receipt);
            }
        }
        stale.map_or(Ok(()), |receipt| Err(receipt_stale(receipt)))
    }

    async fn nack(&self, receipt: &Receipt, redeliver: Redeliver) -> Result<()> {
        let limits = self.shared().backend.capability().limits;
        if let Redeliver::After(delay) = redeliver {
            limits.check_delay(delay)?;
        }
        let Receipt { position, token } = *receipt;
        let input = Input::Nack {
            position,
            token,
            redeliver,
        };
        let now = self.now();
        let waits = {
            let mut state = self.local.state();
            self.local.check(&state)?;
            if !state.held.contains_key(&position.partition) {
                return Err(receipt_stale(receipt));
            }
            let outcome = self.local.step(&mut state, input, now);
            if outcome.is_stale {
                return Err(receipt_stale(receipt));
            }
            let mut waits = Vec::new();
            let dead = outcome.dead.into_iter().find(|(of, _)| *of == position);
            waits.extend(dead.map(|death| state.await_death(death)));
            if outcome.staged.contains(&position.partition)
                && let Some(held) = state.held.get_mut(&position.partition)
            {
                waits.push(held.wait());
            }
            waits
        };
        self.local.changed.send_replace(());
        for wait in waits {
            // Stale: it could not be moved now, so it comes again.
            self.wait(wait).await?;
        }
        Ok(())
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        self.shared()
            .backend
            .capability()
            .limits
            .check_delay(time)?;
        let Receipt { position, token } = *receipt;
        let input = Input::Extend {
            position,
            token,
            time,
        };
        match self.input(receipt, input)? {
            Some(outcome) if !outcome.is_stale => Ok(()),
            _ => Err(receipt_stale(receipt)),
        }
    }
}

impl Drop for ShellConsumer {
    fn drop(&mut self) {
        let now = self.now();
        let mut state = self.local.state();
        state.consumers.remove(&self.id);
        let leave = Input::Leave { consumer: self.id };
        self.local.step(&mut state, leave, now);
        drop(state);
        self.local.changed.send_replace(());
        self.local.wake.notify_one();
    }
}
