//! The connections to the broker, and getting them back.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future, stream};
use lapin::{
    Channel, Connection, ConnectionProperties, Event,
    options::ConfirmSelectOptions,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use sinew_core::{Backoff, Clock, Error, Result};
use sinew_engine::Health;
use tokio::{sync::watch, task::JoinHandle, time};

use super::{ENGINE, fault as refusal};
use crate::{Address, Host, fault};

/// How often a connection is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Silence of four halves of this ends a connection; the broker gives up on us after about as long.
const HEARTBEAT_SECONDS: u16 = 5;

/// What is there while the broker answers. Publishing has a connection of its own: the broker stops reading one on
/// which is published when it is short of memory.
pub(super) struct Lines {
    publishing: Connection,
    /// In confirm mode.
    pub(super) publisher: Channel,
    working: Connection,
    is_spoiled: AtomicBool,
}

impl Lines {
    async fn open(address: &Address, host: &Host) -> lapin::Result<Self> {
        let publishing = connect(address, host, "publishing").await?;
        let publisher = publishing.create_channel().await?;
        publisher
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let working = connect(address, host, "working").await?;
        Ok(Self {
            publishing,
            publisher,
            working,
            is_spoiled: AtomicBool::new(false),
        })
    }

    /// A channel for everything but publishing messages.
    pub(super) async fn channel(&self) -> Result<Channel> {
        self.working.create_channel().await.map_err(refusal::of)
    }

    /// Whether the broker reads nothing that is published.
    pub(super) fn is_blocked(&self) -> bool {
        self.publishing.status().blocked() || self.working.status().blocked()
    }

    /// Waits until a connection breaks, or the broker closes a channel for an error of ours: the library's next channel
    /// of the same number would fail with that error.
    async fn broken(&self) {
        let events = [&self.publishing, &self.working].map(Connection::events_listener);
        let errors = stream::select_all(events.map(Box::pin));
        let mut errors =
            pin!(errors.filter(|event| future::ready(matches!(event, Event::Error(_)))));
        let looking = async {
            while self.is_alive() {
                time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            error = errors.next() => {
                tracing::debug!(engine = ENGINE, ?error, "reconnecting");
                self.is_spoiled.store(true, Ordering::Relaxed);
            }
            () = looking => {}
        }
        // Whoever still waits on a connection that is well shall notice too.
        for connection in [&self.publishing, &self.working] {
            let _ = time::timeout(LOOK, connection.close(200, "reconnecting".into())).await;
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.is_spoiled.load(Ordering::Relaxed)
            && self.publishing.status().connected()
            && self.working.status().connected()
            && self.publisher.status().connected()
    }
}

#[derive(Clone)]
enum Status {
    Starting,
    Up(Arc<Lines>),
    Away(Away),
}

#[derive(Clone)]
struct Away {
    is_denied: bool,
    why: String,
}

impl Away {
    fn error(&self) -> Error {
        if self.is_denied {
            fault::denied(ENGINE, self.why.clone())
        } else {
            fault::unavailable(ENGINE, self.why.clone())
        }
    }
}

/// Keeps the connections up.
pub(super) struct Link {
    status: watch::Receiver<Status>,
    health: watch::Receiver<Health>,
    pub(super) timeout: Duration,
    task: JoinHandle<()>,
}

impl Link {
    pub(super) fn open(address: Address, clock: Clock) -> Self {
        let timeout = address.timeout;
        let (status, watched) = watch::channel(Status::Starting);
        let (health, shown) = watch::channel(Health::Starting);
        let task = tokio::spawn(keep(address, clock, status, health));
        Self {
            status: watched,
            health: shown,
            timeout,
            task,
        }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// The connections, as soon as there are any, within the timeout.
    pub(super) async fn lines(&self) -> Result<Arc<Lines>> {
        match time::timeout(self.timeout, self.connected()).await {
            Ok(lines) => Ok(lines),
            Err(_) => Err(match self.late() {
                // Up, but broken: that is not known yet.
                late if late.kind() == sinew_core::Kind::DeadlineExceeded => {
                    fault::unavailable(ENGINE, "the connection broke")
                }
                away => away,
            }),
        }
    }

    /// The connections, as soon as there are any.
    pub(super) async fn connected(&self) -> Arc<Lines> {
        let mut status = self.status.clone();
        loop {
            if let Status::Up(lines) = &*status.borrow_and_update()
                && lines.is_alive()
            {
                return Arc::clone(lines);
            }
            if status.changed().await.is_err() {
                // The task has ended: nobody will connect any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The connections, as soon as there are any over which the broker takes something.
    pub(super) async fn ready(&self) -> Arc<Lines> {
        loop {
            let lines = self.connected().await;
            if !lines.is_blocked() {
                return lines;
            }
            time::sleep(LOOK).await;
        }
    }

    /// Runs a call to its end or to the timeout, in which case it may have happened.
    pub(super) async fn within<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = time::timeout(self.timeout, call).await;
        answer.unwrap_or_else(|_| Err(self.late()))
    }

    /// The error of a call that has had its time.
    pub(super) fn late(&self) -> Error {
        match &*self.status.borrow() {
            Status::Up(_) => fault::timeout(ENGINE, self.timeout),
            Status::Away(away) => away.error(),
            Status::Starting => fault::unavailable(ENGINE, "not connected yet"),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects, watches, and connects again, for ever.
async fn keep(
    address: Address,
    clock: Clock,
    status: watch::Sender<Status>,
    health: watch::Sender<Health>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut hosts = address.hosts.iter().cycle();
    loop {
        let Some(host) = hosts.next() else {
            return;
        };
        let attempt = time::timeout(address.timeout, Lines::open(&address, host)).await;
        let away = match attempt {
            Ok(Ok(lines)) => {
                backoff.reset();
                tracing::info!(engine = ENGINE, %host, "connected");
                let lines = Arc::new(lines);
                status.send_replace(Status::Up(Arc::clone(&lines)));
                health.send_replace(Health::Up);
                lines.broken().await;
                Away {
                    is_denied: false,
                    why: format!("the connection to {host} broke"),
                }
            }
            Ok(Err(error)) => Away {
                is_denied: refusal::is_denied(&error),
                why: format!("{host}: {error}"),
            },
            Err(_) => Away {
                is_denied: false,
                why: format!("{host} does not answer"),
            },
        };
        let was_away = matches!(*health.borrow(), Health::Away { .. });
        if !was_away {
            tracing::warn!(engine = ENGINE, why = away.why, "away; trying again");
        }
        health.send_modify(|health| {
            let since = match health {
                Health::Away { since, .. } => *since,
                _ => clock.now(),
            };
            let reason = away.why.clone();
            *health = Health::Away { since, reason };
        });
        status.send_replace(Status::Away(away));
        time::sleep(backoff.next_delay()).await;
    }
}

async fn connect(address: &Address, host: &Host, purpose: &str) -> lapin::Result<Connection> {
    let scheme = match address.tls {
        Some(_) => AMQPScheme::AMQPS,
        None => AMQPScheme::AMQP,
    };
    let (username, password) = match &address.user {
        Some(user) => (user.clone(), address.password().unwrap_or_default()),
        // What a broker that was just installed knows, on loopback only.
        None => ("guest".to_owned(), address.password().unwrap_or("guest")),
    };
    let vhost = match address.path.as_str() {
        "" => "/".to_owned(),
        path => path.to_owned(),
    };
    let uri = AMQPUri {
        scheme,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username,
                password: password.to_owned(),
            },
            host: host.name.clone(),
            port: host.port,
        },
        vhost,
        query: AMQPQueryString {
            heartbeat: Some(HEARTBEAT_SECONDS),
            connection_timeout: u64::try_from(address.timeout.as_millis()).ok(),
            ..AMQPQueryString::default()
        },
    };
    let name = format!("sinew {} {purpose}", address.namespace);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let tls = address.tls.as_ref().map(|tls| OwnedTLSConfig {
        identity: tls
            .identity
            .clone()
            .map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key }),
        cert_chain: tls
            .ca
            .as_ref()
            .map(|ca| String::from_utf8_lossy(ca).into_owned()),
    });
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connect_uri_with_config(uri, properties, tls.unwrap_or_default(), runtime).await
}
