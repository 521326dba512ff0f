//! The connection: made in the background, watched, and asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, Request, RequestErrorKind,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use sinew_core::{Backoff, Clock, Error, Result};
use sinew_engine::Health;
use tokio::sync::watch;

use super::api::{BadAnswer, PublishAck};
use crate::{Address, Tls, fault};

pub(super) const ENGINE: &str = "nats";

/// The server must answer a ping in this time, three times, or the connection is given up.
const PING: Duration = Duration::from_secs(2);

/// What is known of the connection.
#[derive(Clone)]
struct State {
    client: Option<Client>,
    is_up: bool,
    is_denied: bool,
    /// Grows with each connection.
    epoch: u64,
}

pub(super) struct Link {
    state: watch::Sender<State>,
    health: watch::Sender<Health>,
    pub(super) timeout: Duration,
    /// Whether to say that streams have one replica; until it was said.
    warns: AtomicBool,
    clock: Clock,
}

/// Why a request to JetStream has no answer to speak of.
#[derive(Debug)]
pub(super) enum Refusal {
    /// JetStream says no, with one of its codes.
    Code(u64, u16, String),
    /// Nobody listens on the subject.
    Nobody,
    Failed(Error),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Bad { error: BadAnswer },
    Good(T),
}

impl Link {
    /// Begins to connect.
    pub(super) fn open(
        address: &Address,
        is_single: bool,
    ) -> Result<(Arc<Self>, tokio::task::JoinHandle<()>)> {
        let (state, _) = watch::channel(State {
            client: None,
            is_up: false,
            is_denied: false,
            epoch: 0,
        });
        let link = Arc::new(Self {
            state,
            health: watch::channel(Health::Starting).0,
            timeout: address.timeout,
            warns: AtomicBool::new(is_single),
            clock: Clock::system(),
        });
        let tls = address.tls.as_ref().map(tls).transpose()?;
        let scheme = if tls.is_some() { "tls" } else { "nats" };
        let servers: Vec<String> = address
            .hosts
            .iter()
            .map(|host| format!("{scheme}://{host}"))
            .collect();
        let user = address.user.clone();
        let password = address.password().map(str::to_owned);
        let connecting = link.clone();
        let task = tokio::spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
            loop {
                let options = options(&connecting, user.clone(), password.clone(), tls.clone());
                match options.connect(&servers).await {
                    Ok(client) => {
                        connecting
                            .state
                            .send_modify(|state| state.client = Some(client));
                        // From here on the client connects again by itself.
                        return;
                    }
                    Err(error) => {
                        let denied = matches!(
                            error.kind(),
                            ConnectErrorKind::AuthorizationViolation
                                | ConnectErrorKind::Authentication
                        );
                        connecting.away(error.to_string(), denied);
                    }
                }
                connecting.clock.sleep(backoff.next_delay()).await;
            }
        });
        Ok((link, task))
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn away(&self, reason: String, is_denied: bool) {
        self.state.send_modify(|state| {
            state.is_up = false;
            state.is_denied = is_denied;
        });
        let now = self.clock.now();
        self.health.send_if_modified(|health| {
            let since = match health {
                Health::Away {
                    since,
                    reason: said,
                } if *said == reason => {
                    let _ = since;
                    return false;
                }
                Health::Away { since, .. } => *since,
                _ => now,
            };
            tracing::warn!(%reason, "NATS cannot be reached");
            *health = Health::Away { since, reason };
            true
        });
    }

    fn up(&self) {
        self.state.send_modify(|state| {
            state.is_up = true;
            state.is_denied = false;
            state.epoch += 1;
        });
        self.health.send_replace(Health::Up);
        tracing::info!("connected to NATS");
        if self.warns.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                "streams have one replica: what is acknowledged survives a loss of power only if the \
                 server has `sync_interval: always`"
            );
        }
    }

    fn hear(&self, event: &Event) {
        match event {
            Event::Connected => self.up(),
            Event::Disconnected | Event::Closed => {
                self.away("the connection was lost".to_owned(), false);
            }
            Event::ServerError(error) => {
                tracing::warn!(%error, "NATS reports an error");
            }
            Event::ClientError(error) => {
                let text = error.to_string();
                if !self.state.borrow().is_up {
                    let is_denied = text.contains("authorization violation");
                    self.away(text, is_denied);
                }
            }
            Event::SlowConsumer(_) => {
                tracing::warn!("a subscription is read too slowly; it is made again");
            }
            Event::Draining | Event::LameDuckMode => {}
        }
    }

    /// The client, once it is connected.
    pub(super) async fn client(&self) -> Result<Client> {
        let mut state = self.state.subscribe();
        let ready = |state: &State| state.is_denied || (state.is_up && state.client.is_some());
        let waited = tokio::time::timeout(self.timeout, state.wait_for(ready)).await;
        match waited {
            Ok(Ok(state)) if state.is_denied => Err(fault::denied(ENGINE, self.why())),
            // The sender lives in `self`, so it is there.
            Ok(Ok(state)) => match &state.client {
                Some(client) => Ok(client.clone()),
                None => Err(fault::unavailable(ENGINE, self.why())),
            },
            _ => Err(fault::unavailable(ENGINE, self.why())),
        }
    }

    fn why(&self) -> String {
        match &*self.health.borrow() {
            Health::Away { reason, .. } => reason.clone(),
            _ => "there is no connection yet".to_owned(),
        }
    }

    /// Resolves when the connection that is there now is no longer the one.
    pub(super) fn broken(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.state.subscribe();
        let epoch = state.borrow().epoch;
        async move {
            let _ = state
                .wait_for(|state| !state.is_up || state.epoch != epoch)
                .await;
        }
    }

    /// Asks something and waits for the answer. What is asked is sent in the order in which these futures are first
    /// polled.
    pub(super) async fn ask(
        &self,
        client: &Client,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, Refusal> {
        let mut request = Request::new().payload(payload).timeout(Some(self.timeout));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let broken = self.broken();
        tokio::select! {
            biased;
            answer = client.send_request(subject, request) => answer.map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => Refusal::Nobody,
                RequestErrorKind::TimedOut => Refusal::Failed(fault::timeout(ENGINE, self.timeout)),
                RequestErrorKind::MaxPayloadExceeded => Refusal::Failed(sinew_engine::bus::message_invalid(
                    "the server takes no message of this size; its max_payload is smaller than what Sinew needs",
                )),
                _ => Refusal::Failed(fault::unavailable(ENGINE, error.to_string())),
            }),
            () = broken => Err(Refusal::Failed(fault::unavailable(ENGINE, "the connection was lost"))),
        }
    }

    /// Asks JetStream's API.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        what: &str,
        body: &serde_json::Value,
    ) -> Result<T, Refusal> {
        let client = self.client().await.map_err(Refusal::Failed)?;
        let payload = body.to_string().into();
        let answer = self
            .ask(&client, format!("$JS.API.{what}"), None, payload)
            .await?;
        read(&answer.payload)
    }
}

/// What JetStream answered.
fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    match serde_json::from_slice(payload) {
        Ok(Answer::Good(good)) => Ok(good),
        Ok(Answer::Bad { error }) => Err(error.into()),
        Err(why) => Err(unreadable(why)),
    }
}

/// What JetStream answered to a publish: not without a sequence number.
pub(super) fn read_ack(payload: &[u8]) -> Result<PublishAck, Refusal> {
    match serde_json::from_slice(payload) {
        Ok(PublishAck {
            error: Some(error), ..
        }) => Err(error.into()),
        Ok(ack @ PublishAck { seq: 1.., .. }) => Ok(ack),
        Ok(_) => Err(Refusal::Failed(fault::unexpected(
            ENGINE,
            "an acknowledgement without a number",
        ))),
        Err(why) => Err(unreadable(why)),
    }
}

fn unreadable(why: serde_json::Error) -> Refusal {
    Refusal::Failed(fault::unexpected(ENGINE, "an answer of JetStream").with_source(why))
}

impl From<BadAnswer> for Refusal {
    fn from(answer: BadAnswer) -> Self {
        Self::Code(answer.err_code, answer.code, answer.description)
    }
}

impl Refusal {
    pub(super) fn is(&self, code: u64) -> bool {
        matches!(self, Self::Code(found, ..) if *found == code)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(error) => error,
            Refusal::Nobody => {
                fault::unavailable(ENGINE, "JetStream does not answer; is it turned on?")
            }
            Refusal::Code(10039 | 10076, _, why) => fault::unsuitable(ENGINE, why),
            Refusal::Code(code, 503, why) => fault::unavailable(ENGINE, format!("{why} ({code})")),
            Refusal::Code(code, _, why) => fault::unexpected(ENGINE, format!("{why} ({code})")),
        }
    }
}

fn options(
    link: &Arc<Link>,
    user: Option<String>,
    password: Option<String>,
    tls: Option<Option<ClientConfig>>,
) -> ConnectOptions {
    let hearing = Arc::downgrade(link);
    let mut options = ConnectOptions::new()
        .name("sinew")
        .ping_interval(PING)
        .connection_timeout(link.timeout)
        .request_timeout(Some(link.timeout))
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            let bound = Duration::from_millis(50).saturating_mul(1 << attempts.min(6));
            if attempts <= 1 {
                Duration::ZERO
            } else {
                bound
                    .min(Duration::from_secs(2))
                    .mul_f64(rand::random_range(0.25..=1.0))
            }
        })
        .event_callback(move |event| {
            if let Some(link) = hearing.upgrade() {
                link.hear(&event);
            }
            std::future::ready(())
        });
    options = match (user, password) {
        (Some(user), password) => options.user_and_password(user, password.unwrap_or_default()),
        (None, Some(token)) => options.token(token),
        (None, None) => options,
    };
    match tls {
        Some(Some(config)) => options.require_tls(true).tls_client_config(config),
        Some(None) => options.require_tls(true),
        None => options,
    }
}

/// None: with the certificates that the machine trusts.
fn tls(tls: &Tls) -> Result<Option<ClientConfig>> {
    let ca = match (&tls.ca, &tls.identity) {
        (Some(ca), _) => ca,
        (None, None) => return Ok(None),
        (None, Some(_)) => {
            return Err(fault::address("with cert_file, nats needs ca_file too"));
        }
    };
    let bad = |what: &str| fault::address(format!("{what} holds no PEM that can be read"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|_| bad("ca_file"))?;
        roots.add(certificate).map_err(|_| bad("ca_file"))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| fault::address(why.to_string()))?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| bad("cert_file"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("key_file"))?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|why| fault::address(why.to_string()))?
        }
    };
    Ok(Some(config))
}
