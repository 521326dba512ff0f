//! Connections: how they are made, what goes wrong with them, and a small pool for reads.
//!
//! sqlx's own pool asks the server after each use whether the connection still works. Here one that
//! failed is dropped, and what was asked is asked again on another.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sinew_core::{Backoff, Clock, Error, Kind, Result};
use sinew_engine::Health;
use sqlx::{
    ConnectOptions, Connection, PgConnection, Postgres, Row,
    postgres::{PgArguments, PgConnectOptions, PgDatabaseError, PgRow, PgSeverity, PgSslMode},
    query::Query,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};

use super::schema;
use crate::{Address, fault};

pub(super) const ENGINE: &str = "postgresql";

/// The oldest server that knows all that is asked of it (`plan_cache_mode`, `gen_random_uuid`).
const OLDEST: i32 = 130_000;

/// A transaction that waits for its client longer than this is ended by the server, so that an
/// instance which stands still cannot hold a lock for ever.
const IDLE_TRANSACTION: &str = "3s";

/// What went wrong, as far as the next step depends on it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection is of no use any more, or never was; what was under way may have happened.
    Away(String),
    /// The server says that nothing happened, and that it may work the next time.
    Again(String),
    /// The server does not let us in, or not do what we need.
    Denied(String),
    /// What is stored there is not ours, or the server is not what we need.
    Unsuitable(String),
    /// The disk is full. Nothing happened.
    Full(String),
    /// What should not be. Nothing happened.
    Unexpected(String),
}

impl Trouble {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Away(why)
            | Self::Again(why)
            | Self::Denied(why)
            | Self::Unsuitable(why)
            | Self::Full(why)
            | Self::Unexpected(why) => why,
        }
    }

    pub(super) fn error(&self) -> Error {
        let why = self.reason().to_owned();
        match self {
            Self::Away(_) | Self::Again(_) => fault::unavailable(ENGINE, why),
            Self::Denied(_) => fault::denied(ENGINE, why),
            Self::Unsuitable(_) => fault::unsuitable(ENGINE, why),
            Self::Full(_) => Error::new(
                Kind::ResourceExhausted,
                "kv.disk_full",
                "the database has no room; nothing was written",
            )
            .with_context(why),
            Self::Unexpected(_) => fault::unexpected(ENGINE, why),
        }
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        let why = error.to_string();
        let sqlx::Error::Database(database) = error else {
            return match error {
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Unexpected(why),
                _ => Self::Away(why),
            };
        };
        let Some(said) = database.try_downcast_ref::<PgDatabaseError>() else {
            return Self::Unexpected(why);
        };
        let ended = matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic);
        match said.code() {
            code if code.starts_with("28") => Self::Denied(why),
            "42501" => Self::Denied(why),
            // There is no such database.
            "3D000" => Self::Unsuitable(why),
            _ if ended => Self::Away(why),
            // Serialisation failure, deadlock, a lock or a statement that took too long.
            "40001" | "40P01" | "55P03" | "57014" => Self::Again(why),
            "53100" => Self::Full(why),
            code if code.starts_with("53") => Self::Again(why),
            // It has become a standby, or the session was exchanged below us.
            "25006" | "26000" => Self::Away(why),
            _ => Self::Unexpected(why),
        }
    }
}

pub(super) struct Server {
    clock: Clock,
    hosts: Vec<PgConnectOptions>,
    pub(super) namespace: String,
    /// How long a call may take, and a statement too.
    pub(super) timeout: Duration,
    health: watch::Sender<Health>,
    /// Why nothing can be done, when waiting would not help.
    refusal: Mutex<Option<Trouble>>,
    idle: Mutex<Vec<PgConnection>>,
    places: Semaphore,
}

impl Server {
    pub(super) fn new(address: &Address, connections: usize, clock: Clock) -> Result<Self> {
        let namespace = address.namespace.to_string();
        // PostgreSQL cuts longer names off, and two namespaces would become one.
        if schema::name(&namespace).len() > 63 {
            return Err(fault::address(
                "a namespace over postgresql has at most 57 characters",
            ));
        }
        let hosts = address
            .hosts
            .iter()
            .map(|host| connect_options(address, &host.name, host.port))
            .collect();
        let (health, _) = watch::channel(Health::Starting);
        Ok(Self {
            clock,
            hosts,
            namespace,
            timeout: address.timeout,
            health,
            refusal: Mutex::default(),
            idle: Mutex::default(),
            places: Semaphore::new(connections),
        })
    }

    pub(super) fn hosts(&self) -> &[PgConnectOptions] {
        &self.hosts
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// A connection to the first host that takes writes, with the store's tables in place.
    pub(super) async fn connect(&self) -> Result<PgConnection, Trouble> {
        let mut last = Trouble::Away("no host".to_owned());
        for options in &self.hosts {
            let connecting = self.connect_to(options);
            match timeout(self.timeout, connecting).await {
                Ok(Ok(connection)) => {
                    *self.refusal() = None;
                    return Ok(connection);
                }
                Ok(Err(why)) => last = why,
                Err(_) => last = Trouble::Away("no answer in time".to_owned()),
            }
        }
        let lasting = matches!(last, Trouble::Denied(_) | Trouble::Unsuitable(_));
        *self.refusal() = lasting.then(|| match &last {
            Trouble::Denied(why) => Trouble::Denied(why.clone()),
            other => Trouble::Unsuitable(other.reason().to_owned()),
        });
        Err(last)
    }

    async fn connect_to(&self, options: &PgConnectOptions) -> Result<PgConnection, Trouble> {
        let mut connection = PgConnection::connect_with(options).await?;
        let row = sqlx::query(SESSION).fetch_one(&mut connection).await?;
        let (is_standby, version): (bool, i32) = (row.try_get(0)?, row.try_get(1)?);
        if version < OLDEST {
            return Err(Trouble::Unsuitable(format!(
                "it must be PostgreSQL 13 or newer, not {}",
                version / 10_000
            )));
        }
        if is_standby {
            return Err(Trouble::Away("this host is a standby".to_owned()));
        }
        schema::prepare(&mut connection, &self.namespace).await?;
        Ok(connection)
    }

    /// What is asked, read; asked again while the server is away, until `timeout` is over.
    pub(super) async fn rows(
        &self,
        ask: impl Fn() -> Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>> {
        let until = Instant::now() + self.timeout;
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        loop {
            let trouble = match timeout_at(until, self.try_rows(ask())).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(trouble @ (Trouble::Away(_) | Trouble::Again(_)))) => trouble,
                Ok(Err(trouble)) => return Err(trouble.error()),
                Err(_) => return Err(self.gave_up()),
            };
            let delay = backoff.next_delay();
            if Instant::now() + delay >= until {
                return Err(trouble.error());
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// The same without trying again.
    pub(super) async fn try_rows(
        &self,
        query: Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Trouble> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(Trouble::Away("the store is closed".to_owned()));
        };
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // Dropped when this fails or is given up: what it would answer next is not known.
        let rows = match timeout(self.timeout, query.fetch_all(&mut connection)).await {
            Ok(rows) => rows?,
            Err(_) => return Err(Trouble::Away("no answer in time".to_owned())),
        };
        self.idle().push(connection);
        Ok(rows)
    }

    /// The error of a call that has waited long enough.
    pub(super) fn gave_up(&self) -> Error {
        if let Some(refusal) = &*self.refusal() {
            return refusal.error();
        }
        let why = match &*self.health.borrow() {
            Health::Away { reason, .. } => reason.clone(),
            _ => "no answer in time".to_owned(),
        };
        fault::unavailable(ENGINE, why)
    }

    pub(super) fn is_up(&self) {
        let changed = self.health.send_if_modified(|health| {
            let changed = !health.is_up();
            *health = Health::Up;
            changed
        });
        if changed {
            tracing::info!(namespace = self.namespace, "postgresql answers");
        }
    }

    pub(super) fn is_away(&self, why: &Trouble) {
        // Those that are left would only be found out one by one.
        self.idle().clear();
        let since = self.clock.now();
        let mut changed = false;
        self.health.send_if_modified(|health| {
            let (since, said) = match health {
                Health::Away { since, reason } => (*since, reason.as_str()),
                _ => {
                    changed = true;
                    (since, "")
                }
            };
            let is_new = said != why.reason();
            if is_new || changed {
                let reason = why.reason().to_owned();
                *health = Health::Away { since, reason };
            }
            is_new || changed
        });
        if changed {
            tracing::warn!(
                namespace = self.namespace,
                reason = why.reason(),
                "postgresql does not answer; trying again"
            );
        }
    }

    fn refusal(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks what the host is, and sees to it that a commit is on disk before it is answered, whatever
/// the database's default is.
const SESSION: &str = "
SELECT pg_is_in_recovery(), current_setting('server_version_num')::integer,
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', false) END";

fn connect_options(address: &Address, host: &str, port: u16) -> PgConnectOptions {
    let millis = address
        .timeout
        .as_millis()
        .clamp(100, 3_600_000)
        .to_string();
    let search_path = format!("\"{}\"", schema::name(address.namespace.as_str()));
    let settings = [
        ("search_path", search_path.as_str()),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("statement_timeout", &millis),
        ("lock_timeout", &millis),
        ("idle_in_transaction_session_timeout", IDLE_TRANSACTION),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        // All statements go by an index, whatever the statistics say: the plans are made once for each
        // session, and stay right when a table grows from nothing.
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
    ];
    let database = if address.path.is_empty() {
        "postgres"
    } else {
        &address.path
    };
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(port)
        .database(database)
        .username(address.user.as_deref().unwrap_or("sinew"))
        .application_name("sinew")
        .ssl_mode(PgSslMode::Disable)
        .options(settings)
        .disable_statement_logging();
    if let Some(password) = address.password() {
        options = options.password(password);
    }
    if let Some(tls) = &address.tls {
        options = options.ssl_mode(PgSslMode::VerifyFull);
        if let Some(ca) = &tls.ca {
            options = options.ssl_root_cert_from_pem(ca.clone());
        }
        if let Some((certificate, key)) = &tls.identity {
            options = options
                .ssl_client_cert_from_pem(certificate)
                .ssl_client_key_from_pem(key);
        }
    }
    options
}
