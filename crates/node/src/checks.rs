//! Does the instances' active checks. Of the nodes over one store one does them all, so that each is
//! done once: the one that holds the key `registry-checks/owner`, which goes with its lease.

mod probe;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use sinew_coordination::registry::{CheckKey, Checks, Due, Edit, Health, Registry, Watcher};
use sinew_core::{Clock, Result};
use sinew_engine::kv::{Condition, Kv, LeaseId, Outcome, Write};
use tokio_util::task::AbortOnDropHandle;

/// Who does the checks is somebody else so long after a node has died.
const LEASE: Duration = Duration::from_secs(10);
/// How often a node that does not do them tries to.
const CAMPAIGN: Duration = Duration::from_secs(3);
/// How long the store may take.
const STORE: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(100);
/// How often a changed registry is looked through for checks.
const TAKE: Duration = Duration::from_secs(1);
/// Checks under way at once.
const AT_ONCE: usize = 256;
const OWNER: &str = "registry-checks/owner";

/// Does the checks until it is dropped.
pub(crate) struct Checker {
    _task: AbortOnDropHandle<()>,
}

impl Checker {
    /// `elsewhere`: whether checks may look at other hosts than their instance's.
    pub(crate) fn start(
        registry: Registry,
        kv: Arc<dyn Kv>,
        clock: Clock,
        elsewhere: bool,
    ) -> Self {
        let doer = Doer {
            registry,
            kv,
            clock,
            elsewhere,
        };
        let task = tokio::spawn(async move { doer.run().await });
        Self {
            _task: AbortOnDropHandle::new(task),
        }
    }
}

struct Doer {
    registry: Registry,
    kv: Arc<dyn Kv>,
    clock: Clock,
    elsewhere: bool,
}

impl Doer {
    async fn run(&self) {
        loop {
            match self.campaign().await {
                Ok(Some(lease)) => {
                    tracing::info!("this node does the instances' checks");
                    self.work(lease).await;
                    tracing::info!("this node does not do the instances' checks any more");
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(error = error.detail(), "cannot tell who does the checks");
                }
            }
            let spread = rand::random_range(0.8..1.2);
            self.clock.sleep(CAMPAIGN.mul_f64(spread)).await;
        }
    }

    /// The lease of the one who does the checks, if this node becomes that one. Nobody does when there
    /// are none.
    async fn campaign(&self) -> Result<Option<LeaseId>> {
        let services = self.registry.list().services;
        let mut instances = services.iter().flat_map(|service| &service.instances);
        if !instances.any(|instance| !instance.checks().is_empty()) {
            return Ok(None);
        }
        let lease = self.within(self.kv.grant(LEASE)).await?;
        let claim = Write::Put {
            key: OWNER.into(),
            value: std::process::id().to_string().into(),
            lease: Some(lease),
        };
        let free = vec![Condition::Absent(OWNER.into())];
        let outcome = self.within(self.kv.commit(free, vec![claim])).await;
        if matches!(outcome, Ok(Outcome::Committed(_))) {
            return Ok(Some(lease));
        }
        // Nothing hangs on it; if this fails too it ends by itself.
        let _ = self.within(self.kv.revoke(lease)).await;
        outcome.map(|_| None)
    }

    /// Does the checks for as long as this node is known to be the one.
    async fn work(&self, lease: LeaseId) {
        let mut checks = Checks::default();
        let (mut watcher, _) = self.registry.watch_all();
        let mut probes = FuturesUnordered::new();
        let mut reports = FuturesUnordered::new();
        let mut changed = true;
        let mut taken = None;
        // The clock that only goes forward: a lease is lost by it too.
        let mut renewed = self.clock.monotonic();
        let mut renewal = renewed;
        let mut renewing = FuturesUnordered::new();
        loop {
            let now = self.clock.monotonic();
            if now.saturating_sub(renewed) >= LEASE {
                return;
            }
            if changed && taken.is_none_or(|taken| now.saturating_sub(taken) >= TAKE) {
                let services = self.registry.list().services;
                checks.take(&services, now, || rand::random_range(0.0..1.0));
                (changed, taken) = (false, Some(now));
            }
            if now.saturating_sub(renewal) >= LEASE / 3 && renewing.is_empty() {
                renewal = now;
                renewing.push(self.within(self.kv.keep_alive(lease)));
            }
            for due in checks.due(now, AT_ONCE.saturating_sub(probes.len())) {
                probes.push(self.probe(due));
            }
            tokio::select! {
                Some((key, outcome)) = probes.next() => {
                    let now = self.clock.monotonic();
                    let spread = rand::random_range(0.0..1.0);
                    if let Some(edit) = checks.done(&key, outcome, now, spread) {
                        reports.push(self.report(key, edit));
                    }
                }
                Some(reported) = reports.next() => changed |= !reported,
                Some(kept) = renewing.next() => match kept {
                    Ok(_) => renewed = renewal,
                    Err(error) if error.code() == "kv.lease_unknown" => return,
                    Err(error) => tracing::debug!(error = error.detail(), "the store is away"),
                },
                alive = next(&mut watcher) => match alive {
                    true => changed = true,
                    false => return,
                },
                () = self.clock.sleep(TICK) => {}
            }
        }
    }

    async fn probe(&self, due: Due) -> (CheckKey, std::result::Result<Health, String>) {
        let outcome = tokio::time::timeout(due.timeout, probe::run(&due, self.elsewhere)).await;
        let late = || Err(format!("no answer within {} ms", due.timeout.as_millis()));
        let outcome = outcome.unwrap_or_else(|_| late());
        (due.key, outcome)
    }

    /// Answers whether it is written, or need not be any more.
    async fn report(&self, key: CheckKey, edit: Edit) -> bool {
        let CheckKey {
            service, instance, ..
        } = &key;
        let written = self.registry.edit(service, instance, edit.clone()).await;
        match written {
            Ok(_) => {
                if let Edit::Report(check, health, why) = edit {
                    tracing::info!(%service, %instance, %check, ?health, why, "a check says otherwise");
                }
                true
            }
            Err(error) => {
                tracing::debug!(error = error.detail(), "what a check saw is not written");
                error.code() == "registry.instance_unknown"
            }
        }
    }

    async fn within<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(STORE, request).await {
            Ok(answer) => answer,
            Err(_) => Err(sinew_core::Error::new(
                sinew_core::Kind::DeadlineExceeded,
                "registry.timeout",
                format!("the store did not answer within {} ms", STORE.as_millis()),
            )),
        }
    }
}

/// Waits for a change. `false` when the registry has ended.
async fn next(watcher: &mut Watcher) -> bool {
    match watcher.next().await {
        Ok(_) => true,
        // Everything is looked through anyway.
        Err(error) => error.code() == "registry.watch_lagged",
    }
}
