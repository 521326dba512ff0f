//! The connection to the server: made in the background, watched, made again.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, ServerErrorKind,
    TlsCertificates, Value, aio::MultiplexedConnection, cmd,
};
use sinew_core::{Backoff, Clock, Error, Kind, Result};
use sinew_engine::Health;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{ENGINE, script::Script};
use crate::{Address, fault};

/// How long a connection may be quiet before it is asked whether it lives.
const QUIET: Duration = Duration::from_secs(1);

/// Whether a command may be sent again after the connection broke.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It may have been carried out, and twice is not once.
    Never,
    /// It only reads, or deletes what is to be gone.
    Once,
}

enum State {
    Starting,
    Up(MultiplexedConnection),
    Away(Error),
}

pub(super) struct Link {
    state: watch::Receiver<State>,
    health: watch::Receiver<Health>,
    doubt: Arc<Notify>,
    timeout: Duration,
    keeper: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    pub(super) fn open(address: &Address, clock: Clock) -> Result<Self> {
        let client = client(address)?;
        let (state, state_seen) = watch::channel(State::Starting);
        let (health, health_seen) = watch::channel(Health::Starting);
        let doubt = Arc::new(Notify::new());
        let keeper = Keeper {
            client,
            state,
            health,
            doubt: doubt.clone(),
            timeout: address.timeout,
            clock,
            shown: address.to_string(),
        };
        Ok(Self {
            state: state_seen,
            health: health_seen,
            doubt,
            timeout: address.timeout,
            keeper: tokio::spawn(keeper.run()),
        })
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd, again: Again) -> Result<T> {
        let answer = self.query(again, |mut connection| async move {
            command.query_async::<Value>(&mut connection).await
        });
        read(answer.await?)
    }

    /// Carries out a script that the server may not know yet.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        arguments: &[&[u8]],
        again: Again,
    ) -> Result<T> {
        let command = |name: &str, which: &str| {
            let mut command = cmd(name);
            command.arg(which).arg(keys.len());
            for argument in keys.iter().chain(arguments) {
                command.arg(*argument);
            }
            command
        };
        let known = &command("EVALSHA", &script.hash);
        let answer = self.query(again, |mut connection| async move {
            match known.query_async::<Value>(&mut connection).await {
                Err(why) if why.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    let whole = command("EVAL", script.text);
                    whole.query_async(&mut connection).await
                }
                answer => answer,
            }
        });
        read(answer.await?)
    }

    /// Sends many commands in one go; the answers to all.
    pub(super) async fn pipeline(&self, pipeline: &Pipeline, again: Again) -> Result<Vec<Value>> {
        let answer = self.query(again, |mut connection| async move {
            pipeline.query_async::<Vec<Value>>(&mut connection).await
        });
        answer.await
    }

    async fn query<T, F>(&self, again: Again, ask: impl Fn(MultiplexedConnection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let connection = self.connection().await?;
        match ask(connection).await {
            Ok(answer) => Ok(answer),
            Err(why) => {
                let lost = why.is_io_error() || why.is_connection_dropped();
                if lost || why.is_timeout() {
                    self.doubt.notify_one();
                }
                if !lost || why.is_timeout() || again == Again::Never {
                    return Err(explain(&why, self.timeout));
                }
                // The keeper needs a moment to see what this call saw.
                sleep(self.timeout / 50).await;
                let connection = self.connection().await?;
                ask(connection)
                    .await
                    .map_err(|why| explain(&why, self.timeout))
            }
        }
    }

    /// The connection; waits for it, but not longer than a call may take.
    async fn connection(&self) -> Result<MultiplexedConnection> {
        if let State::Up(connection) = &*self.state.borrow() {
            return Ok(connection.clone());
        }
        let mut state = self.state.clone();
        let settled = |state: &State| match state {
            State::Up(_) => true,
            State::Away(why) => !matches!(why.kind(), Kind::Unavailable | Kind::DeadlineExceeded),
            State::Starting => false,
        };
        // What it is when it has settled, or when the time is over.
        let _ = timeout(self.timeout, state.wait_for(settled)).await;
        match &*self.state.borrow() {
            State::Up(connection) => Ok(connection.clone()),
            State::Away(why) => Err(fault::repeat(ENGINE, why)),
            State::Starting => Err(fault::unavailable(ENGINE, "not reached yet")),
        }
    }
}

fn read<T: FromRedisValue>(answer: Value) -> Result<T> {
    redis::from_redis_value(answer).map_err(|why| fault::unexpected(ENGINE, why.to_string()))
}

/// Makes the connection, and makes it again.
struct Keeper {
    client: Client,
    state: watch::Sender<State>,
    health: watch::Sender<Health>,
    doubt: Arc<Notify>,
    timeout: Duration,
    clock: Clock,
    shown: String,
}

impl Keeper {
    async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        loop {
            let why = match self
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await
            {
                Ok(connection) => match self.ping(connection.clone()).await {
                    Ok(()) => {
                        backoff.reset();
                        tracing::info!(engine = ENGINE, server = self.shown, "connected");
                        self.health.send_replace(Health::Up);
                        self.state.send_replace(State::Up(connection.clone()));
                        self.watch(connection).await
                    }
                    Err(why) => why,
                },
                Err(why) => explain(&why, self.timeout),
            };
            self.away(why);
            sleep(backoff.next_delay()).await;
        }
    }

    /// Returns when the connection does not answer any more.
    async fn watch(&self, connection: MultiplexedConnection) -> Error {
        loop {
            let _ = timeout(QUIET, self.doubt.notified()).await;
            if let Err(why) = self.ping(connection.clone()).await {
                return why;
            }
        }
    }

    async fn ping(&self, mut connection: MultiplexedConnection) -> Result<()> {
        let wait = self.timeout.min(2 * QUIET);
        match timeout(wait, cmd("PING").query_async::<()>(&mut connection)).await {
            Ok(answer) => answer.map_err(|why| explain(&why, wait)),
            Err(_) => Err(fault::unavailable(ENGINE, format!("no answer in {wait:?}"))),
        }
    }

    fn away(&self, why: Error) {
        let reason = why.detail();
        self.health.send_if_modified(|health| match health {
            Health::Away { .. } => false,
            _ => {
                tracing::warn!(engine = ENGINE, server = self.shown, reason, "away");
                *health = Health::Away {
                    since: self.clock.now(),
                    reason,
                };
                true
            }
        });
        self.state.send_replace(State::Away(why));
    }
}

fn client(address: &Address) -> Result<Client> {
    let [host] = &address.hosts[..] else {
        return Err(fault::address(
            "redis has one host; put replicas behind one address",
        ));
    };
    let database = match address.path.as_str() {
        "" => 0,
        number => number
            .parse::<u16>()
            .map_err(|_| fault::address(format!("{number:?} is not the number of a database")))?,
    };
    let mut who = RedisConnectionInfo::default().set_db(database.into());
    if let Some(user) = &address.user {
        who = who.set_username(user);
    }
    if let Some(password) = address.password() {
        who = who.set_password(password);
    }
    let made = match &address.tls {
        None => ConnectionAddr::Tcp(host.name.clone(), host.port),
        Some(_) => ConnectionAddr::TcpTls {
            host: host.name.clone(),
            port: host.port,
            insecure: false,
            tls_params: None,
        },
    }
    .into_connection_info()
    .map(|info| info.set_redis_settings(who))
    .and_then(|info| match &address.tls {
        None => Client::open(info),
        Some(tls) => Client::build_with_tls(
            info,
            TlsCertificates {
                client_tls: tls
                    .identity
                    .clone()
                    .map(|(client_cert, client_key)| ClientTlsConfig {
                        client_cert,
                        client_key,
                    }),
                root_cert: tls.ca.clone(),
            },
        ),
    });
    made.map_err(|why| fault::address(format!("redis: {why}")))
}

fn explain(why: &RedisError, after: Duration) -> Error {
    let text = why.to_string();
    if why.is_timeout() {
        return fault::timeout(ENGINE, after);
    }
    if why.is_io_error() || why.is_connection_dropped() || why.is_connection_refusal() {
        return fault::unavailable(ENGINE, text);
    }
    match (why.kind(), why.code()) {
        (ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm), _)
        | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => fault::denied(ENGINE, text),
        (
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ),
            _,
        )
        | (_, Some("MISCONF" | "BUSY")) => fault::unavailable(ENGINE, text),
        (_, Some("OOM")) => fault::unsuitable(
            ENGINE,
            "its memory is full and it may not evict; set a maxmemory-policy such as allkeys-lru",
        ),
        (_, Some("WRONGTYPE")) => fault::unsuitable(
            ENGINE,
            "there are keys in Sinew's namespace that Sinew did not write",
        ),
        _ => fault::unexpected(ENGINE, text),
    }
}
