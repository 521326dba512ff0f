//! The simulated bank behind payments. It is idempotent by order, as real ones are by key, and an
//! authorisation that is never captured lapses by itself, so it needs no books of its own.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    domain::bank::approves,
    fault::{Fault, Result},
    storage::payments::Bank,
};

/// Nobody waits longer for the bank.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the bank whether the order's buyer can pay. Errors: `shop.bank_unavailable`.
pub(crate) async fn authorise(bank: Bank, order: Uuid) -> Result<bool> {
    reach(bank).await?;
    Ok(approves(order, bank.seed, bank.decline_permille))
}

/// Has the bank send money back. Errors: `shop.bank_unavailable`.
pub(crate) async fn give_back(bank: Bank) -> Result<()> {
    reach(bank).await
}

async fn reach(bank: Bank) -> Result<()> {
    let unavailable = || {
        Fault::unavailable(
            "shop.bank_unavailable",
            "the bank cannot be reached",
            Duration::from_secs(2),
        )
    };
    if bank.outage {
        return Err(unavailable());
    }
    let latency = Duration::from_millis(bank.latency_ms.unsigned_abs());
    timeout(PATIENCE, sleep(latency))
        .await
        .map_err(|_| unavailable())
}
