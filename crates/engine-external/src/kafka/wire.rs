//! One connection to one broker: frames with numbers, answered in the order in which they were sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest,
        SaslHandshakeRequest,
    },
    protocol::{Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer},
};
use sinew_core::{Error, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use super::{ENGINE, scram};
use crate::{
    fault,
    socket::{Connector, Socket},
};

/// The longest answer that is read, bytes.
const LONGEST: usize = 256 << 20;
/// Requests that may wait for their answers.
const WAITING: usize = 256;

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It did not reach the broker: nothing happened.
    Away(Error),
    /// It may have reached the broker.
    Unknown(Error),
    /// The same would fail again.
    Failed(Error),
    /// The broker, or the partition's leader, says no with this code of Kafka's.
    Code(i16),
}

impl Refusal {
    /// The same for one more who waits.
    pub(super) fn again(&self) -> Self {
        let copy = |error: &Error| match error.code() {
            "engine.denied" => fault::denied(ENGINE, error.detail()),
            "engine.unsuitable" => fault::unsuitable(ENGINE, error.detail()),
            "engine.unexpected" => fault::unexpected(ENGINE, error.detail()),
            _ => fault::unavailable(ENGINE, error.detail()),
        };
        match self {
            Self::Away(error) => Self::Away(copy(error)),
            Self::Unknown(error) => Self::Unknown(copy(error)),
            Self::Failed(error) => Self::Failed(copy(error)),
            Self::Code(code) => Self::Code(*code),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Away(error) | Refusal::Unknown(error) | Refusal::Failed(error) => error,
            Refusal::Code(code) => super::codes::explain(code),
        }
    }
}

/// Who we are, to a broker.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) mechanism: Mechanism,
    pub(super) user: String,
    pub(super) password: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Scram256,
    Scram512,
}

impl Mechanism {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Scram256 => "SCRAM-SHA-256",
            Self::Scram512 => "SCRAM-SHA-512",
        }
    }
}

/// The version in which each request is spoken. Kafka 2.8 and every newer one know them.
pub(super) fn version(key: i16) -> i16 {
    match ApiKey::try_from(key) {
        Ok(ApiKey::Produce | ApiKey::Metadata) => 9,
        Ok(ApiKey::Fetch) => 12,
        Ok(ApiKey::ListOffsets) => 6,
        Ok(ApiKey::CreateTopics | ApiKey::DeleteTopics) => 5,
        Ok(ApiKey::DeleteRecords | ApiKey::DescribeLogDirs | ApiKey::SaslAuthenticate) => 2,
        Ok(ApiKey::SaslHandshake) => 1,
        _ => 0,
    }
}

/// What a broker must know.
const NEEDED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::DeleteRecords,
    ApiKey::DescribeLogDirs,
];

struct Sending {
    frame: Bytes,
    answer: oneshot::Sender<Bytes>,
}

/// A connection that is open. Dropping it closes it.
pub(super) struct Connection {
    sender: mpsc::Sender<Sending>,
    is_broken: Arc<AtomicBool>,
    tasks: [AbortHandle; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Connection {
    /// Connects, and says who we are.
    pub(super) async fn open(
        connector: &Connector,
        credentials: Option<&Credentials>,
        timeout: Duration,
    ) -> Result<Self, Refusal> {
        let opening = async {
            let socket = connector.connect().await.map_err(Refusal::Away)?;
            let connection = Self::over(socket);
            connection.check(timeout).await?;
            if let Some(credentials) = credentials {
                connection.authenticate(credentials, timeout).await?;
            }
            Ok(connection)
        };
        match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(connection)) => Ok(connection),
            // Nothing was asked for yet.
            Ok(Err(Refusal::Unknown(error))) => Err(Refusal::Away(error)),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::Away(fault::unavailable(
                ENGINE,
                "no answer to a connection",
            ))),
        }
    }

    fn over(socket: Socket) -> Self {
        let (sender, requests) = mpsc::channel(WAITING);
        let (waiting, answers) = mpsc::channel(WAITING);
        let (reading, writing) = tokio::io::split(socket);
        let is_broken = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write(writing, requests, waiting, is_broken.clone()));
        let reader = tokio::spawn(read(reading, answers, is_broken.clone()));
        Self {
            sender,
            is_broken,
            tasks: [writer.abort_handle(), reader.abort_handle()],
        }
    }

    /// Whether it is of no use any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Asks, and waits for the answer. An answer that does not come in time breaks the connection: what comes after it
    /// would not either.
    pub(super) async fn ask<R: Request>(
        &self,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Response, Refusal> {
        let version = version(R::KEY);
        let frame = encode(request, version).map_err(Refusal::Failed)?;
        let (answer, answered) = oneshot::channel();
        let lost = || fault::unavailable(ENGINE, "the connection was lost");
        let slot = tokio::time::timeout(timeout, self.sender.reserve()).await;
        let Ok(Ok(slot)) = slot else {
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(Refusal::Away(lost()));
        };
        slot.send(Sending { frame, answer });
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(frame)) => decode::<R::Response>(frame, version).map_err(Refusal::Failed),
            Ok(Err(_)) => Err(Refusal::Unknown(lost())),
            Err(_) => {
                self.is_broken.store(true, Ordering::Relaxed);
                Err(Refusal::Unknown(fault::timeout(ENGINE, timeout)))
            }
        }
    }

    /// Whether this is a broker that we can work with.
    async fn check(&self, timeout: Duration) -> Result<(), Refusal> {
        let known = self.ask(&ApiVersionsRequest::default(), timeout).await?;
        if known.error_code != 0 {
            return Err(Refusal::Code(known.error_code));
        }
        for key in NEEDED {
            let wanted = version(*key as i16);
            let is_known = known.api_keys.iter().any(|api| {
                api.api_key == *key as i16 && (api.min_version..=api.max_version).contains(&wanted)
            });
            if !is_known {
                let why = format!(
                    "it does not know {key:?} in version {wanted}; Sinew wants Kafka 2.8 or newer"
                );
                return Err(Refusal::Failed(fault::unsuitable(ENGINE, why)));
            }
        }
        Ok(())
    }

    async fn authenticate(
        &self,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<(), Refusal> {
        let name = credentials.mechanism.name();
        let handshake =
            SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(name));
        let answer = self.ask(&handshake, timeout).await?;
        if answer.error_code != 0 {
            let known: Vec<&str> = answer.mechanisms.iter().map(|name| name.as_str()).collect();
            let why = format!(
                "it does not take {name}, but {}; see the option `sasl`",
                known.join(", ")
            );
            return Err(Refusal::Failed(fault::unsuitable(ENGINE, why)));
        }
        let (user, password) = (&credentials.user, &credentials.password);
        let hash = match credentials.mechanism {
            Mechanism::Plain => {
                let token = format!("\0{user}\0{password}");
                self.token(token.into(), timeout).await?;
                return Ok(());
            }
            Mechanism::Scram256 => scram::Hash::Sha256,
            Mechanism::Scram512 => scram::Hash::Sha512,
        };
        let nonce = format!("{:032x}", rand::random::<u128>());
        let first = scram::first(user, &nonce);
        let challenge = self.token(first.clone().into(), timeout).await?;
        let unlike = || {
            Refusal::Failed(fault::denied(
                ENGINE,
                "its part of SCRAM is not what it should be",
            ))
        };
        let answer =
            scram::answer(hash, &first, &nonce, password, &challenge).ok_or_else(unlike)?;
        let verdict = self.token(answer.text.into(), timeout).await?;
        // It must know the password too.
        if verdict != answer.expected {
            return Err(unlike());
        }
        Ok(())
    }

    async fn token(&self, token: Bytes, timeout: Duration) -> Result<Bytes, Refusal> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(token);
        let answer = self.ask(&request, timeout).await?;
        if answer.error_code != 0 {
            let why = answer.error_message.as_deref().unwrap_or_default();
            return Err(Refusal::Failed(fault::denied(ENGINE, why)));
        }
        Ok(answer.auth_bytes)
    }
}

fn encode<R: Request>(request: &R, version: i16) -> Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("sinew")));
    let mut frame = BytesMut::with_capacity(256);
    frame.put_i32(0);
    encode_request_header_into_buffer(&mut frame, &header)
        .and_then(|()| request.encode(&mut frame, version))
        .map_err(|why| fault::unexpected(ENGINE, format!("a request cannot be written: {why}")))?;
    let length = i32::try_from(frame.len() - 4)
        .map_err(|_| fault::unexpected(ENGINE, "a request is too long"))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

fn decode<T: Decodable + HeaderVersion>(mut frame: Bytes, version: i16) -> Result<T> {
    let bad = |why: &dyn std::fmt::Display| fault::unexpected(ENGINE, format!("an answer: {why}"));
    ResponseHeader::decode(&mut frame, T::header_version(version)).map_err(|why| bad(&why))?;
    T::decode(&mut frame, version).map_err(|why| bad(&why))
}

/// Sends what is asked for, and hands those who wait to the reader in the same order.
async fn write(
    mut socket: WriteHalf<Socket>,
    mut requests: mpsc::Receiver<Sending>,
    waiting: mpsc::Sender<oneshot::Sender<Bytes>>,
    is_broken: Arc<AtomicBool>,
) {
    while let Some(Sending { frame, answer }) = requests.recv().await {
        // First, so that no answer comes for which nobody waits.
        if waiting.send(answer).await.is_err() || socket.write_all(&frame).await.is_err() {
            break;
        }
        if requests.is_empty() && socket.flush().await.is_err() {
            break;
        }
    }
    is_broken.store(true, Ordering::Relaxed);
}

/// Answers in order. When it ends, those who still wait learn it from their dropped channels.
async fn read(
    mut socket: ReadHalf<Socket>,
    mut answers: mpsc::Receiver<oneshot::Sender<Bytes>>,
    is_broken: Arc<AtomicBool>,
) {
    while let Ok(frame) = frame(&mut socket).await {
        let Some(answer) = answers.recv().await else {
            break;
        };
        // Who asked may have gone.
        let _ = answer.send(frame);
    }
    is_broken.store(true, Ordering::Relaxed);
}

async fn frame(socket: &mut ReadHalf<Socket>) -> std::io::Result<Bytes> {
    let length = socket.read_i32().await?;
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= LONGEST);
    let length = length.ok_or(std::io::ErrorKind::InvalidData)?;
    let mut frame = BytesMut::with_capacity(length);
    let mut socket = socket.take(length as u64);
    while frame.len() < length {
        if socket.read_buf(&mut frame).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    // The number of the request is not looked at: answers come in order.
    Ok(frame.freeze())
}
