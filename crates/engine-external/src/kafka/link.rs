//! The cluster: its brokers, who leads what, connections to them, and whether they can be reached.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kafka_protocol::{
    messages::{MetadataRequest, MetadataResponse, metadata_request::MetadataRequestTopic},
    protocol::{Request, StrBytes},
};
use sinew_core::{Backoff, Clock, Result};
use sinew_engine::Health;
use tokio::sync::watch;

use super::{
    ENGINE, codes,
    intake::Intake,
    wire::{Connection, Credentials, Refusal},
};
use crate::{Address, Host, Tls, fault, socket::Connector};

/// How often the cluster is asked whether it is there.
const LOOK: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(30);
const LATER: Duration = Duration::from_millis(500);

/// What a connection is for. A broker answers the requests of a connection one after the other, so what
/// takes long has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Use {
    Asking,
    Publishing,
}

/// A connection that is made when it is needed.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

#[derive(Default)]
struct State {
    brokers: HashMap<i32, Host>,
    controller: i32,
    /// Of each topic the leaders of its partitions; -1 for none.
    leaders: HashMap<String, Vec<i32>>,
    slots: HashMap<(Host, Use), Slot>,
    intakes: HashMap<i32, Intake>,
}

pub(super) struct Link {
    hosts: Vec<Host>,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
    pub(super) timeout: Duration,
    pub(super) clock: Clock,
    state: Mutex<State>,
    health: watch::Sender<Health>,
    /// Whether to say what a loss of power takes; until it was said.
    warns: AtomicBool,
}

impl Link {
    pub(super) fn new(
        address: &Address,
        credentials: Option<Credentials>,
        warns: bool,
    ) -> Result<Self> {
        // What is wrong with the certificates is said now.
        for host in &address.hosts {
            Connector::new(ENGINE, host, address.tls.as_ref())?;
        }
        Ok(Self {
            hosts: address.hosts.clone(),
            tls: address.tls.clone(),
            credentials,
            timeout: address.timeout,
            clock: Clock::system(),
            state: Mutex::default(),
            health: watch::channel(Health::Starting).0,
            warns: AtomicBool::new(warns),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Looks for ever whether the cluster is there.
    pub(super) async fn watch(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let pause = match self.look(Vec::new(), self.timeout).await {
                Ok(_) => {
                    backoff.reset();
                    self.up();
                    LOOK
                }
                Err(refusal) => {
                    self.away(&sinew_core::Error::from(refusal).detail());
                    backoff.next_delay()
                }
            };
            self.clock.sleep(pause).await;
        }
    }

    fn up(&self) {
        let came = self.health.send_if_modified(|health| {
            let came = !health.is_up();
            *health = Health::Up;
            came
        });
        if came {
            tracing::info!("connected to Kafka");
            if self.warns.swap(false, Ordering::Relaxed) {
                tracing::warn!(
                    "topics have one replica and `flush=never`: what is acknowledged may be lost with the power"
                );
            }
        }
    }

    fn away(&self, reason: &str) {
        let now = self.clock.now();
        self.health.send_if_modified(|health| {
            let since = match health {
                Health::Away { reason: said, .. } if said == reason => return false,
                Health::Away { since, .. } => *since,
                _ => now,
            };
            tracing::warn!(%reason, "Kafka cannot be reached");
            let reason = reason.to_owned();
            *health = Health::Away { since, reason };
            true
        });
    }

    async fn connect(&self, host: &Host, left: Duration) -> Result<Connection, Refusal> {
        let connector = Connector::new(ENGINE, host, self.tls.as_ref()).map_err(Refusal::Failed)?;
        Connection::open(&connector, self.credentials.as_ref(), left).await
    }

    /// The connection for a use, made when there is none that works.
    async fn line(
        &self,
        host: &Host,
        purpose: Use,
        left: Duration,
    ) -> Result<Arc<Connection>, Refusal> {
        let slot = {
            let mut state = self.state();
            state
                .slots
                .entry((host.clone(), purpose))
                .or_default()
                .clone()
        };
        let opening = async {
            let mut slot = slot.lock().await;
            if let Some(open) = slot.as_ref().filter(|open| !open.is_broken()) {
                return Ok(open.clone());
            }
            *slot = None;
            let open = Arc::new(self.connect(host, left).await?);
            Ok(slot.insert(open).clone())
        };
        match tokio::time::timeout(left, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Refusal::Away(fault::unavailable(
                ENGINE,
                "no answer to a connection",
            ))),
        }
    }

    fn host(&self, broker: i32) -> Result<Host, Refusal> {
        let found = self.state().brokers.get(&broker).cloned();
        found.ok_or(Refusal::Code(codes::NO_LEADER))
    }

    /// A connection to a broker that is used for nothing else.
    pub(super) async fn own(&self, broker: i32, left: Duration) -> Result<Connection, Refusal> {
        self.connect(&self.host(broker)?, left).await
    }

    pub(super) async fn publishing(
        &self,
        broker: i32,
        left: Duration,
    ) -> Result<Arc<Connection>, Refusal> {
        self.line(&self.host(broker)?, Use::Publishing, left).await
    }

    /// Asks a broker.
    pub(super) async fn ask<R: Request>(
        &self,
        broker: i32,
        request: &R,
        left: Duration,
    ) -> Result<R::Response, Refusal> {
        let host = self.host(broker)?;
        let line = self.line(&host, Use::Asking, left).await?;
        line.ask(request, left).await
    }

    /// Asks whoever answers about the cluster and these topics.
    async fn look(&self, topics: Vec<String>, left: Duration) -> Result<MetadataResponse, Refusal> {
        let named = topics.into_iter().map(|topic| {
            let name = StrBytes::from_string(topic).into();
            MetadataRequestTopic::default().with_name(Some(name))
        });
        let request = MetadataRequest::default()
            .with_topics(Some(named.collect()))
            .with_allow_auto_topic_creation(false);
        let hosts: Vec<Host> = {
            let state = self.state();
            let known = state.brokers.values();
            let more = known.filter(|host| !self.hosts.contains(host));
            self.hosts.iter().chain(more).cloned().collect()
        };
        let each = left / u32::try_from(hosts.len()).unwrap_or(1).max(1);
        let mut last = None;
        for host in hosts {
            let asked = match self.line(&host, Use::Asking, each).await {
                Ok(line) => line.ask(&request, each).await,
                Err(refusal) => Err(refusal),
            };
            match asked {
                Ok(answer) => {
                    self.learn(&answer);
                    return Ok(answer);
                }
                Err(refusal) => {
                    last = match (last, refusal) {
                        // That we are not let in says more than that another one is away.
                        (Some(Refusal::Failed(why)), _) | (_, Refusal::Failed(why)) => {
                            Some(Refusal::Failed(why))
                        }
                        (_, Refusal::Unknown(why)) => Some(Refusal::Away(why)),
                        (_, refusal) => Some(refusal),
                    }
                }
            }
        }
        Err(last.unwrap_or(Refusal::Code(codes::NO_LEADER)))
    }

    fn learn(&self, answer: &MetadataResponse) {
        let mut state = self.state();
        if !answer.brokers.is_empty() {
            state.brokers = answer
                .brokers
                .iter()
                .filter_map(|broker| {
                    let host = Host {
                        name: broker.host.to_string(),
                        port: u16::try_from(broker.port).ok()?,
                    };
                    Some((broker.node_id.0, host))
                })
                .collect();
            let State {
                brokers,
                slots,
                intakes,
                ..
            } = &mut *state;
            let hosts = &self.hosts;
            slots.retain(|(host, _), _| {
                hosts.contains(host) || brokers.values().any(|known| known == host)
            });
            intakes.retain(|broker, _| brokers.contains_key(broker));
        }
        state.controller = answer.controller_id.0;
        for topic in &answer.topics {
            let Some(name) = &topic.name else { continue };
            if topic.error_code != 0 {
                state.leaders.remove(name.as_str());
                continue;
            }
            let mut leaders = vec![-1; topic.partitions.len()];
            for partition in &topic.partitions {
                let index = usize::try_from(partition.partition_index).unwrap_or(usize::MAX);
                if let Some(leader) = leaders.get_mut(index) {
                    *leader = partition.leader_id.0;
                }
            }
            state.leaders.insert(name.to_string(), leaders);
        }
    }

    /// The leaders of a topic's partitions. `NO_TOPIC` when there is none.
    pub(super) async fn leaders(&self, topic: &str, left: Duration) -> Result<Vec<i32>, Refusal> {
        if let Some(leaders) = self.state().leaders.get(topic) {
            return Ok(leaders.clone());
        }
        let answer = self.look(vec![topic.to_owned()], left).await?;
        match answer.topics.first().map(|topic| topic.error_code) {
            Some(0) => {
                let leaders = self.state().leaders.get(topic).cloned();
                leaders.ok_or(Refusal::Code(codes::NO_TOPIC))
            }
            Some(code) => Err(Refusal::Code(code)),
            None => Err(Refusal::Code(codes::NO_TOPIC)),
        }
    }

    pub(super) async fn leader(
        &self,
        topic: &str,
        partition: u32,
        left: Duration,
    ) -> Result<i32, Refusal> {
        let leaders = self.leaders(topic, left).await?;
        match leaders.get(partition as usize) {
            Some(leader @ 0..) => Ok(*leader),
            _ => {
                self.forget(topic);
                Err(Refusal::Code(codes::NO_LEADER))
            }
        }
    }

    /// The broker that makes and deletes topics.
    pub(super) async fn controller(&self, left: Duration) -> Result<i32, Refusal> {
        self.look(Vec::new(), left).await?;
        Ok(self.state().controller)
    }

    /// Who leads a topic is asked anew.
    pub(super) fn forget(&self, topic: &str) {
        self.state().leaders.remove(topic);
    }

    /// Where what is published to a broker is gathered.
    pub(super) fn intake(self: &Arc<Self>, broker: i32) -> Intake {
        let mut state = self.state();
        let intake = state.intakes.entry(broker);
        intake.or_insert_with(|| Intake::new(self, broker)).clone()
    }

    /// Tries until it succeeds, or cannot, or the time is over: what did not happen, and with `repeats` also what may have
    /// happened.
    pub(super) async fn attempt<T, F: Future<Output = Result<T, Refusal>>>(
        &self,
        topic: &str,
        repeats: bool,
        mut call: impl FnMut(Duration) -> F,
    ) -> Result<T, Refusal> {
        let start = self.clock.monotonic();
        let mut backoff = Backoff::new(SOON, LATER);
        loop {
            let left = self.timeout.saturating_sub(self.clock.monotonic() - start);
            let left = left.max(SOON);
            let refusal = match call(left).await {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            let again = match &refusal {
                Refusal::Away(_) => true,
                Refusal::Unknown(_) => repeats,
                Refusal::Failed(_) => false,
                Refusal::Code(code) => {
                    codes::may_pass(*code) || (repeats && codes::is_unknown(*code))
                }
            };
            // A broker that is gone, too, leads nothing any more.
            self.forget(topic);
            let pause = backoff.next_delay();
            let spent = self.clock.monotonic() - start + pause;
            if !again || spent >= self.timeout {
                return Err(refusal);
            }
            self.clock.sleep(pause).await;
        }
    }
}
