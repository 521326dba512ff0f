//! The connection that a store lives on: made in the background, watched, and replaced by one to the
//! next endpoint when it does not answer.

use std::{future::Future, sync::Arc, time::Duration};

use sinew_core::{Backoff, Clock, Error, Result};
use sinew_engine::Health;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::Status;

use super::{
    answer::{Cause, ENGINE, Failure},
    client::Client,
    layout::{FORMAT, Layout, number},
    wire::{Compare, Is, Operand, RangeRequest, RequestOp, TxnRequest},
};
use crate::{Address, fault};

/// How often a connection that nobody complains of is asked.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How long it may take to answer that.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// A store's connection. All its parts share one.
pub(super) struct Link {
    pub(super) address: Address,
    pub(super) layout: Layout,
    state: watch::Sender<State>,
    health: watch::Sender<Health>,
    suspected: Notify,
}

#[derive(Clone)]
enum State {
    /// Why, when that is not just the network.
    Away(Option<Why>),
    Up(Connection),
    Closed,
}

/// Why a server that is there cannot be used.
#[derive(Clone)]
enum Why {
    Denied(String),
    Unsuitable(String),
}

impl Why {
    fn error(self) -> Error {
        match self {
            Self::Denied(why) => fault::denied(ENGINE, why),
            Self::Unsuitable(why) => fault::unsuitable(ENGINE, why),
        }
    }
}

/// One connection, and which it is.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) number: u64,
}

impl Link {
    pub(super) fn new(address: Address, layout: Layout) -> Arc<Self> {
        Arc::new(Self {
            address,
            layout,
            state: watch::Sender::new(State::Away(None)),
            health: watch::Sender::new(Health::Starting),
            suspected: Notify::new(),
        })
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// The connection as soon as there is one, at the latest at `deadline`.
    pub(super) async fn connection(&self, deadline: Instant) -> Result<Connection> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Away(None)));
        let known = timeout_at(deadline, known).await;
        // A copy, so that nothing is locked.
        match known.map(|state| state.map_or(State::Closed, |state| state.clone())) {
            Ok(State::Up(connection)) => Ok(connection),
            Ok(State::Away(Some(why))) => Err(why.error()),
            Ok(State::Closed) => Err(fault::unavailable(ENGINE, "it was closed")),
            Ok(State::Away(None)) | Err(_) => {
                let why = match &*self.health.borrow() {
                    Health::Away { reason, .. } => reason.clone(),
                    _ => "no connection yet".to_owned(),
                };
                Err(fault::unavailable(ENGINE, why))
            }
        }
    }

    /// The connection, however long it takes; `None` when the store is closed.
    pub(super) async fn connection_at_last(&self) -> Option<Connection> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Away(_)));
        match known.await.as_deref() {
            Ok(State::Up(connection)) => Some(connection.clone()),
            _ => None,
        }
    }

    /// Returns when this connection is not the one to use any more.
    pub(super) async fn replaced(&self, number: u64) {
        let mut state = self.state.subscribe();
        let other = |state: &State| !matches!(state, State::Up(up) if up.number == number);
        // An error means that nobody is left to tell.
        let _ = state.wait_for(other).await;
    }

    /// Says that a call had no answer.
    pub(super) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Asks for something that may be asked for again and again, until it is answered or the time is up.
    pub(super) async fn read<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + self.address.timeout;
        // So that a member which is cut off leaves time to ask another.
        let patience = self.address.timeout / 3;
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let connection = self.connection(deadline).await.map_err(refused)?;
            let failure = match call(connection.client.with_timeout(patience)).await {
                Ok(answer) => return Ok(answer),
                Err(status) => Failure::from(status),
            };
            match failure {
                Failure::Lost(_) | Failure::Late | Failure::Token | Failure::Busy => {}
                settled => return Err(settled),
            }
            self.suspect();
            let delay = backoff.next_delay();
            if Instant::now() + delay >= deadline {
                return Err(failure);
            }
            sleep(delay).await;
        }
    }

    /// Asks once for something that must not happen twice; again only when it certainly did not happen.
    pub(super) async fn write<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + self.address.timeout;
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let connection = self.connection(deadline).await.map_err(refused)?;
            let left = deadline.saturating_duration_since(Instant::now());
            let failure = match call(connection.client.with_timeout(left)).await {
                Ok(answer) => return Ok(answer),
                Err(status) => Failure::from(status),
            };
            let delay = match failure {
                Failure::Token | Failure::Busy => backoff.next_delay(),
                Failure::Lost(_) | Failure::Late => {
                    self.suspect();
                    return Err(failure);
                }
                settled => return Err(settled),
            };
            self.suspect();
            if Instant::now() + delay >= deadline {
                return Err(failure);
            }
            sleep(delay).await;
        }
    }

    /// A failure as our callers see it.
    pub(super) fn error(&self, failure: Failure) -> Error {
        failure.error(self.address.timeout)
    }

    pub(super) fn close(&self) {
        self.state.send_replace(State::Closed);
    }

    /// Keeps a connection until the store is closed.
    pub(super) async fn run(self: Arc<Self>, clock: Clock) {
        let mut closed = self.state.subscribe();
        tokio::select! {
            () = self.keep_connected(&clock) => {}
            _ = closed.wait_for(|state| matches!(state, State::Closed)) => {}
        }
    }

    async fn keep_connected(&self, clock: &Clock) {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let hosts = self.address.hosts.len();
        for number in 0u64.. {
            let host = &self.address.hosts[usize::try_from(number).unwrap_or(0) % hosts];
            match self.connect(host).await {
                Ok(client) => {
                    backoff.reset();
                    tracing::debug!(%host, "connected to etcd");
                    self.show(
                        clock,
                        State::Up(Connection {
                            client: client.clone(),
                            number,
                        }),
                        None,
                    );
                    let why = self.until_it_fails(&client).await;
                    tracing::warn!(%host, why, "etcd does not answer");
                    self.show(clock, State::Away(None), Some(why));
                }
                Err((why, reason)) => {
                    tracing::debug!(%host, reason, "cannot connect to etcd");
                    self.show(clock, State::Away(why), Some(reason));
                    // All endpoints quickly one after the other, then a pause.
                    if (number + 1).is_multiple_of(hosts as u64) {
                        sleep(backoff.next_delay()).await;
                    }
                }
            }
        }
    }

    fn show(&self, clock: &Clock, state: State, away: Option<String>) {
        let changed = self.state.send_if_modified(|now| {
            let open = !matches!(now, State::Closed);
            if open {
                *now = state;
            }
            open
        });
        if !changed {
            return;
        }
        match away {
            None => drop(self.health.send_replace(Health::Up)),
            Some(reason) => self.health.send_modify(|health| {
                let since = match health {
                    Health::Away { since, .. } => *since,
                    _ => clock.now(),
                };
                *health = Health::Away { since, reason };
            }),
        }
    }

    async fn connect(&self, host: &crate::Host) -> Result<Client, (Option<Why>, String)> {
        let connecting = async {
            let client = Client::connect(&self.address, host).await?;
            let version = client.version().await?;
            let known = self.prepare(&client).await?;
            Ok::<_, Status>((client, version, known))
        };
        let (client, version, known) = match timeout(self.address.timeout, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(status)) => {
                return Err(match Failure::from(status) {
                    Failure::Refused(Cause::Denied, why) => (
                        Some(Why::Denied(why)),
                        "etcd refuses the credentials".to_owned(),
                    ),
                    failure => (None, self.error(failure).detail()),
                });
            }
            Err(_) => return Err((None, "no answer in time".to_owned())),
        };
        let unsuitable = if !is_recent(&version) {
            format!("it is version {version}, and 3.4 is the oldest that can be used")
        } else if !known {
            let namespace = &self.address.namespace;
            format!("what is stored under {namespace}/ was not written by this version of Sinew")
        } else {
            return Ok(client);
        };
        Err((Some(Why::Unsuitable(unsuitable.clone())), unsuitable))
    }

    /// Makes the keys that every store has; tells whether those that were there are ours.
    async fn prepare(&self, client: &Client) -> Result<bool, Status> {
        let (format, floor) = (self.layout.format(), self.layout.floor());
        let txn = TxnRequest {
            compare: vec![Compare::key(format.clone(), Is::Equal, Operand::Version(0))],
            success: vec![
                RequestOp::put(format.clone(), FORMAT.into()),
                RequestOp::put(floor, number(0)),
            ],
            failure: vec![RangeRequest::key(format).op()],
        };
        let answer = client.txn(txn).await?;
        let mut known = answer.succeeded;
        for kv in answer.ranges().into_iter().flat_map(|range| range.kvs) {
            known = kv.value == FORMAT;
        }
        Ok(known)
    }

    /// Answers when and why a connection cannot be used any more.
    async fn until_it_fails(&self, client: &Client) -> String {
        let client = client.with_timeout(PROBE_TIMEOUT.min(self.address.timeout));
        loop {
            // Either is reason enough to ask.
            let _ = timeout(PROBE_INTERVAL, self.suspected.notified()).await;
            if let Err(status) = client.range(RangeRequest::key(self.layout.format())).await {
                return match Failure::from(status) {
                    Failure::Token => "the token has expired".to_owned(),
                    failure => self.error(failure).detail(),
                };
            }
            // Many complaints are answered by one probe.
            sleep(FIRST_DELAY).await;
        }
    }
}

/// An error of ours, where a failure is asked for.
fn refused(error: Error) -> Failure {
    match error.code() {
        "engine.denied" => Failure::Refused(Cause::Denied, error.detail()),
        "engine.unsuitable" => Failure::Unsuitable(error.message().to_owned()),
        _ => Failure::Lost(error.detail()),
    }
}

/// Whether a release has all that we use: transactions inside transactions, watches in parts.
fn is_recent(version: &str) -> bool {
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    release >= (3, 4)
}

#[cfg(test)]
mod tests {
    use super::is_recent;

    #[test]
    fn old_servers_are_told() {
        assert!(is_recent("3.4.23") && is_recent("3.6.0-rc.1") && is_recent("4.0.0"));
        assert!(!is_recent("3.3.27") && !is_recent("2.3") && !is_recent(""));
    }
}
