//! `Sql` over SQLite, PostgreSQL and MariaDB or MySQL.
//!
//! - `sqlite:path/to/file.db`: the file is made when it is missing.
//! - `postgres://user@host:5432/database`
//! - `mysql://user@host:3306/database`, `mariadb://…`
//!
//! Options, besides those of every [`Address`]: `pool` (connections, 10), `pool_wait` (how long to wait for one, as the `timeout`), `idle`
//! (a connection that was not used for so long is closed, 10m), `lifetime` (a connection is renewed after it, 30m), `rows` (answered at once
//! without being asked for fewer, 10000), `replicas` (`host:port,host:port`, servers that replicate the first). `timeout` is the longest that a
//! statement may take. `namespace` keeps the two-phase branches of several Sinews on one server apart.

#[cfg_attr(
    not(all(feature = "sql-sqlite", feature = "sql-mysql")),
    allow(dead_code, reason = "each of the two needs a part of it")
)]
mod calendar;
#[cfg_attr(
    not(any(feature = "sql-postgres", feature = "sql-mysql")),
    allow(dead_code, reason = "SQLite has no branches")
)]
mod dialect;
mod engine;
mod monitor;
#[cfg(feature = "sql-mysql")]
mod mysql;
mod pool;
#[cfg(feature = "sql-postgres")]
mod postgres;
mod replicas;
mod session;
#[cfg(feature = "sql-sqlite")]
mod sqlite;
mod stream;
mod text;

use std::{sync::Arc, time::Duration};

use sinew_core::{Result, units};
use sinew_engine::sql::Sql;

use crate::{Address, fault};

const KNOWN: &[&str] = &["pool", "pool_wait", "idle", "lifetime", "rows", "replicas"];

/// What every dialect is opened with.
struct Options {
    connections: u32,
    pool_wait: Duration,
    idle: Duration,
    lifetime: Duration,
    statement: Duration,
    rows: usize,
    batch: usize,
    namespace: String,
}

impl Options {
    fn read(address: &Address) -> Result<Self> {
        let time = |name: &str, usual: Duration| match address.option(name) {
            None => Ok(usual),
            Some(text) => units::read_duration(text)
                .filter(|time| !time.is_zero())
                .ok_or_else(|| fault::address(format!("{name} is a time like 5s, not {text:?}"))),
        };
        let number = |name: &str, usual: u32| match address.option(name) {
            None => Ok(usual),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| fault::address(format!("{name} is a number above 0, not {text:?}"))),
        };
        Ok(Self {
            connections: number("pool", 10)?,
            pool_wait: time("pool_wait", address.timeout)?,
            idle: time("idle", Duration::from_secs(600))?,
            lifetime: time("lifetime", Duration::from_secs(1800))?,
            statement: address.timeout,
            rows: usize::try_from(number("rows", 10_000)?).unwrap_or(usize::MAX),
            batch: 1_000,
            namespace: address.namespace.to_string(),
        })
    }
}

/// Opens a database by its URL. Answers at once: it connects in the background. Errors are only those of the URL
/// (`engine.address`). Wants to be called within tokio's runtime.
pub fn open(url: &str) -> Result<Arc<dyn Sql>> {
    let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
    match scheme {
        "sqlite" => open_sqlite(url),
        "postgres" | "postgresql" => open_postgres(url),
        "mysql" | "mariadb" => open_mysql(url),
        _ => Err(fault::address(
            "a database's URL begins with sqlite:, postgres:// or mysql://",
        )),
    }
}

#[cfg(not(all(
    feature = "sql-sqlite",
    feature = "sql-postgres",
    feature = "sql-mysql"
)))]
fn left_out(what: &str) -> Result<Arc<dyn Sql>> {
    Err(fault::address(format!(
        "this build has no {what}: it was left out when it was compiled"
    )))
}

#[cfg(feature = "sql-sqlite")]
fn open_sqlite(url: &str) -> Result<Arc<dyn Sql>> {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    if rest.starts_with("//") {
        return Err(fault::address(
            "SQLite's URL has the shape sqlite:path/to/file.db",
        ));
    }
    // A file is on this host, and everything else is as with the others.
    let address = Address::parse(&format!("sqlite://localhost/{rest}"), 1, KNOWN)?;
    if address.path.is_empty() || address.path.starts_with(":memory:") {
        return Err(fault::address("SQLite needs the path of a file"));
    }
    if address.option("replicas").is_some() {
        return Err(fault::address("SQLite has no replicas"));
    }
    let options = Options::read(&address)?;
    let connect = quiet(sqlite::connect(&address.path, options.statement));
    let opened = engine::Opened::<sqlite::Lite>::new(connect, Vec::new(), &options);
    Ok(Arc::new(opened))
}

#[cfg(not(feature = "sql-sqlite"))]
fn open_sqlite(_url: &str) -> Result<Arc<dyn Sql>> {
    left_out("SQLite")
}

#[cfg(feature = "sql-postgres")]
fn open_postgres(url: &str) -> Result<Arc<dyn Sql>> {
    use sqlx::postgres::{PgConnectOptions, PgSslMode};

    let address = Address::parse(url, 5432, KNOWN)?;
    let options = Options::read(&address)?;
    let (host, replicas) = hosts(&address, 5432)?;
    let connect = |host: &crate::Host| {
        // Nothing from the environment or from files in the home.
        let mut connect = PgConnectOptions::new_without_pgpass()
            .host(&host.name)
            .port(host.port)
            .username(address.user.as_deref().unwrap_or("postgres"))
            .application_name("sinew")
            .ssl_mode(PgSslMode::Disable)
            .options([
                (
                    "statement_timeout",
                    options.statement.as_millis().to_string(),
                ),
                ("standard_conforming_strings", "on".to_owned()),
                ("TimeZone", "UTC".to_owned()),
            ]);
        if !address.path.is_empty() {
            connect = connect.database(&address.path);
        }
        if let Some(password) = address.password() {
            connect = connect.password(password);
        }
        if let Some(tls) = &address.tls {
            connect = connect.ssl_mode(PgSslMode::VerifyFull);
            if let Some(ca) = &tls.ca {
                connect = connect.ssl_root_cert_from_pem(ca.clone());
            }
            if let Some((cert, key)) = &tls.identity {
                connect = connect
                    .ssl_client_cert_from_pem(cert)
                    .ssl_client_key_from_pem(key);
            }
        }
        quiet(connect)
    };
    let replicas = replicas
        .iter()
        .map(|host| (host.to_string(), connect(host)))
        .collect();
    let opened = engine::Opened::<postgres::Pg>::new(connect(&host), replicas, &options);
    Ok(Arc::new(opened))
}

#[cfg(not(feature = "sql-postgres"))]
fn open_postgres(_url: &str) -> Result<Arc<dyn Sql>> {
    left_out("PostgreSQL")
}

#[cfg(feature = "sql-mysql")]
fn open_mysql(url: &str) -> Result<Arc<dyn Sql>> {
    use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

    let address = Address::parse(url, 3306, KNOWN)?;
    let options = Options::read(&address)?;
    if options.namespace.len() > mysql::NAMESPACE {
        return Err(fault::address(format!(
            "namespace: the names of branches leave {} characters for it",
            mysql::NAMESPACE
        )));
    }
    let (host, replicas) = hosts(&address, 3306)?;
    let connect = |host: &crate::Host| {
        let mut connect = MySqlConnectOptions::new()
            .host(&host.name)
            .port(host.port)
            .username(address.user.as_deref().unwrap_or("root"))
            .ssl_mode(MySqlSslMode::Disabled);
        if !address.path.is_empty() {
            connect = connect.database(&address.path);
        }
        if let Some(password) = address.password() {
            connect = connect.password(password);
        }
        if let Some(tls) = &address.tls {
            connect = connect.ssl_mode(MySqlSslMode::VerifyIdentity);
            if let Some(ca) = &tls.ca {
                connect = connect.ssl_ca_from_pem(ca.clone());
            }
            if let Some((cert, key)) = &tls.identity {
                connect = connect
                    .ssl_client_cert_from_pem(cert)
                    .ssl_client_key_from_pem(key);
            }
        }
        quiet(connect)
    };
    let replicas = replicas
        .iter()
        .map(|host| (host.to_string(), connect(host)))
        .collect();
    let opened = engine::Opened::<mysql::Maria>::new(connect(&host), replicas, &options);
    Ok(Arc::new(opened))
}

#[cfg(not(feature = "sql-mysql"))]
fn open_mysql(_url: &str) -> Result<Arc<dyn Sql>> {
    left_out("MariaDB or MySQL")
}

/// The primary and the replicas.
#[cfg(any(feature = "sql-postgres", feature = "sql-mysql"))]
fn hosts(address: &Address, port: u16) -> Result<(crate::Host, Vec<crate::Host>)> {
    let [primary] = &address.hosts[..] else {
        return Err(fault::address(
            "a database has one primary; its replicas are named by ?replicas=host:port,host:port",
        ));
    };
    let replicas = match address.option("replicas") {
        None => Vec::new(),
        Some(hosts) => {
            let tls = if address.tls.is_some() { "on" } else { "off" };
            let url = format!("{}://{hosts}?tls={tls}", address.scheme);
            Address::parse(&url, port, &[])?.hosts
        }
    };
    Ok((primary.clone(), replicas))
}

/// Statements are the services' own and stay out of Sinew's log.
fn quiet<O: sqlx::ConnectOptions>(options: O) -> O {
    options.disable_statement_logging()
}

#[cfg(test)]
mod tests;
