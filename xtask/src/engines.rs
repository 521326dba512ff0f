//! The real software that benches and suites run beside or over Sinew, from the system's packages.

pub(crate) mod conformance;
mod up;

use anyhow::{Result, bail};
use sinew_testbed::{Autobahn, Kafka, Nats, S3, find, h2spec};

use crate::run::step;

pub(crate) use up::{start, up, url};

struct Engine {
    name: &'static str,
    program: &'static str,
    /// Where the program is when it is not on the path.
    places: &'static [&'static str],
    package: &'static str,
    why: &'static str,
    /// How it comes when no package has it.
    build: Option<fn() -> Result<()>>,
    /// What that needs: programs, and the packages that have them.
    needs: &'static [(&'static str, &'static str)],
}

impl Engine {
    const fn new(
        name: &'static str,
        program: &'static str,
        package: &'static str,
        why: &'static str,
    ) -> Self {
        Self {
            name,
            program,
            places: &[
                "/usr/local/sbin",
                "/usr/lib/postgresql/17/bin",
                "/usr/lib/postgresql/16/bin",
                "/usr/lib/postgresql/15/bin",
            ],
            package,
            why,
            build: None,
            needs: &[],
        }
    }

    /// One that is built from a Go module when it is absent.
    const fn go(
        name: &'static str,
        program: &'static str,
        build: fn() -> Result<()>,
        why: &'static str,
    ) -> Self {
        let mut engine = Self::new(name, program, "(built with Go)", why);
        engine.build = Some(build);
        engine
    }

    /// One that is fetched from Maven's central repository when it is absent.
    const fn maven(
        name: &'static str,
        program: &'static str,
        build: fn() -> Result<()>,
        why: &'static str,
    ) -> Self {
        let mut engine = Self::new(name, program, "(from Maven)", why);
        engine.build = Some(build);
        engine.needs = &[("java", "default-jre-headless"), ("mvn", "maven")];
        engine
    }

    /// One that is fetched from Python's package index when it is absent.
    const fn pip(
        name: &'static str,
        program: &'static str,
        build: fn() -> Result<()>,
        why: &'static str,
    ) -> Self {
        let mut engine = Self::new(name, program, "(from pip)", why);
        engine.build = Some(build);
        engine
    }

    fn is_installed(&self) -> bool {
        if self.build.is_some() {
            let has = |(program, package): &(&str, &str)| find(program, &[], package).is_ok();
            return sinew_testbed::programs().join(self.program).exists()
                && self.needs.iter().all(has);
        }
        find(self.program, self.places, self.package).is_ok()
    }
}

const ENGINES: &[Engine] = &[
    Engine::new("nginx", "nginx", "nginx-light", "peer of the gateway"),
    Engine::new("haproxy", "haproxy", "haproxy", "peer of the gateway"),
    Engine::new("wrk", "wrk", "wrk", "load for the gateway's bench"),
    Engine::new(
        "h2load",
        "h2load",
        "nghttp2-client",
        "load over HTTP/2 for the gateway's bench",
    ),
    Engine::new(
        "postgres",
        "initdb",
        "postgresql",
        "Kv and Sql over PostgreSQL",
    ),
    Engine::new("etcd", "etcd", "etcd-server", "Kv over etcd"),
    Engine::new(
        "nats",
        "nats-server",
        "nats-server",
        "Bus over NATS JetStream",
    ),
    Engine::new(
        "rabbitmq",
        "rabbitmq-server",
        "rabbitmq-server",
        "Bus over RabbitMQ",
    ),
    Engine::new("redis", "redis-server", "redis-server", "Cache over Redis"),
    Engine::new(
        "memcached",
        "memcached",
        "memcached",
        "Cache over Memcached",
    ),
    Engine::new("mariadb", "mariadbd", "mariadb-server", "Sql over MariaDB"),
    Engine::go(
        "nats-synced",
        "nats-server",
        Nats::install,
        "Bus over NATS that syncs each message",
    ),
    Engine::maven("kafka", Kafka::FOLDER, Kafka::install, "Bus over Kafka"),
    Engine::go("s3", "versitygw", S3::install, "Blob over S3"),
    Engine::go(
        "h2spec",
        "h2spec",
        || h2spec().map(drop),
        "HTTP/2 cases for the gateway",
    ),
    Engine::pip(
        "autobahn",
        Autobahn::FOLDER,
        Autobahn::install,
        "WebSocket cases for the gateway",
    ),
];

/// The peers that `bench gateway` needs.
pub(crate) const GATEWAY_PEERS: &[&str] = &["nginx", "haproxy", "wrk", "h2load"];
/// What the suites of the engines run over.
pub(crate) const SUITES: &[&str] = &[
    "postgres",
    "etcd",
    "nats",
    "rabbitmq",
    "redis",
    "memcached",
    "mariadb",
    "nats-synced",
    "kafka",
    "s3",
];

pub(crate) fn list() -> Result<()> {
    for engine in ENGINES {
        let state = if engine.is_installed() {
            "installed"
        } else {
            "absent"
        };
        let Engine {
            name, package, why, ..
        } = engine;
        println!("{name:<12} {state:<10} {package:<16} {why}");
    }
    Ok(())
}

/// Installs what is absent, `all` of it or what is named; what cannot be installed is an error, never skipped.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let all: Vec<_> = ENGINES.iter().map(|engine| engine.name).collect();
    let names = if names == ["all"] { &all[..] } else { names };
    let mut packages = Vec::new();
    let mut builds = Vec::new();
    for name in names {
        let Some(engine) = ENGINES.iter().find(|engine| engine.name == *name) else {
            bail!("no engine {name:?}; known are {}", all.join(", "));
        };
        match engine.build {
            _ if engine.is_installed() => {}
            Some(build) => {
                let absent =
                    |(program, package): &&(&str, &str)| find(program, &[], package).is_err();
                packages.extend(
                    engine
                        .needs
                        .iter()
                        .filter(absent)
                        .map(|(_, package)| *package),
                );
                builds.push(build);
            }
            None => packages.push(engine.package),
        }
    }
    install_packages(packages)?;
    builds.into_iter().try_for_each(|build| build())
}

pub(crate) fn install_packages(packages: Vec<&str>) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    step("apt-get", &["update", "-qq"], &[])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(packages);
    // Services that a package would start by itself would take ports and cores from the bench.
    step(
        "apt-get",
        &args,
        &[("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")],
    )
}
