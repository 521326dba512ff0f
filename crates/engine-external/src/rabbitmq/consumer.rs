//! What callers consume with.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::{Error, Name, Result};
use sinew_engine::bus::{
    Consumer, Delivery, Receipt, Redeliver, group::Input, group_unknown, receipt_stale,
    topic_unknown,
};
use tokio::time::{self, Instant};

use super::{CAPABILITY, Shared, host::Host, seat::Seat};

/// Those who wait look at least this often.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

pub(super) struct RabbitConsumer {
    pub(super) shared: Arc<Shared>,
    pub(super) host: Arc<Host>,
    pub(super) topic: Name,
    pub(super) topic_id: String,
    pub(super) group: Name,
    pub(super) id: u64,
    pub(super) in_flight: usize,
    /// Held while messages are taken, so that they are counted right. The seat to begin with, so that all get their turn.
    pub(super) turn: Mutex<usize>,
}

impl RabbitConsumer {
    fn take(&self, most: usize) -> Vec<Delivery> {
        let seats = &self.host.seats;
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let with: usize = seats.iter().map(|seat| seat.with(self.id)).sum();
        let most = most.max(1).min(self.in_flight.saturating_sub(with));
        *turn = (*turn + 1) % seats.len();
        let mut taken = Vec::new();
        for n in 0..seats.len() {
            if taken.len() < most {
                let seat = &seats[(*turn + n) % seats.len()];
                taken.extend(seat.take(self.id, most - taken.len()));
            }
        }
        taken
    }

    fn is_ended(&self) -> bool {
        self.host.seats.iter().any(|seat| seat.lock().is_ended)
    }

    /// What was deleted.
    async fn why_ended(&self) -> Error {
        match self.shared.look(&self.topic).await {
            Ok(topic) if topic.id == self.topic_id => group_unknown(&self.group),
            Ok(_) => topic_unknown(&self.topic),
            Err(error) => error,
        }
    }

    fn seat(&self, receipt: &Receipt) -> Option<&Arc<Seat>> {
        let partition = usize::try_from(receipt.position.partition).ok()?;
        self.host.seats.get(partition)
    }

    /// Waits until these are settled, or will not be by this; answers one that will not be.
    async fn settled<'r>(&self, receipts: &[&'r Receipt]) -> Result<Option<&'r Receipt>> {
        let deadline = Instant::now() + self.shared.link.timeout;
        let mut failed = None;
        for receipt in receipts {
            let Some(seat) = self.seat(receipt) else {
                continue;
            };
            let mut decided = seat.decided.subscribe();
            loop {
                decided.mark_unchanged();
                if let Some(is_settled) = seat.outcome(receipt) {
                    if !is_settled {
                        failed = Some(*receipt);
                    }
                    break;
                }
                if self.is_ended() {
                    return Err(self.why_ended().await);
                }
                let now = Instant::now();
                if now >= deadline {
                    return Err(self.shared.link.late());
                }
                // The sender lives in the seat, so this ends with a change or with the wait.
                let until = deadline.min(now + LONGEST_WAIT);
                let _ = time::timeout_at(until, decided.changed()).await;
            }
        }
        Ok(failed)
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next_many(&self, most: usize) -> Result<Vec<Delivery>> {
        let mut changed = self.host.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if self.is_ended() {
                return Err(self.why_ended().await);
            }
            let taken = self.take(most);
            if !taken.is_empty() {
                return Ok(taken);
            }
            // The sender lives in the host, so this ends with a change or with the wait.
            let _ = time::timeout(LONGEST_WAIT, changed.changed()).await;
        }
    }

    async fn ack(&self, receipts: &[Receipt]) -> Result<()> {
        if self.is_ended() {
            return Err(self.why_ended().await);
        }
        let (mut stale, mut waiting) = (None, Vec::new());
        for receipt in receipts {
            let ack = |position, token| Input::Ack { position, token };
            match self.seat(receipt).map(|seat| seat.say(receipt, ack)) {
                Some(outcome) if !outcome.is_stale => waiting.push(receipt),
                _ => stale = Some(receipt),
            }
        }
        let failed = self.settled(&waiting).await?;
        match stale.or(failed) {
            Some(receipt) => Err(receipt_stale(receipt)),
            None => Ok(()),
        }
    }

    async fn nack(&self, receipt: &Receipt, redeliver: Redeliver) -> Result<()> {
        if let Redeliver::After(delay) = redeliver {
            CAPABILITY.limits.check_delay(delay)?;
        }
        if self.is_ended() {
            return Err(self.why_ended().await);
        }
        let seat = self.seat(receipt).ok_or_else(|| receipt_stale(receipt))?;
        let outcome = seat.say(receipt, |position, token| Input::Nack {
            position,
            token,
            redeliver,
        });
        if outcome.is_stale {
            return Err(receipt_stale(receipt));
        }
        if outcome.settles {
            // It has been given back in any case: a dead letter that is not taken yet is tried again.
            let _ = time::timeout(self.shared.link.timeout, self.gone(seat, receipt)).await;
        }
        Ok(())
    }

    async fn extend(&self, receipt: &Receipt, time: Duration) -> Result<()> {
        CAPABILITY.limits.check_delay(time)?;
        if self.is_ended() {
            return Err(self.why_ended().await);
        }
        let seat = self.seat(receipt).ok_or_else(|| receipt_stale(receipt))?;
        let outcome = seat.say(receipt, |position, token| Input::Extend {
            position,
            token,
            time,
        });
        if outcome.is_stale {
            return Err(receipt_stale(receipt));
        }
        Ok(())
    }
}

impl RabbitConsumer {
    async fn gone(&self, seat: &Seat, receipt: &Receipt) {
        let mut decided = seat.decided.subscribe();
        while seat.outcome(receipt) != Some(true) && !self.is_ended() {
            let _ = decided.changed().await;
        }
    }
}

impl Drop for RabbitConsumer {
    fn drop(&mut self) {
        self.host.leave(self.id);
    }
}
