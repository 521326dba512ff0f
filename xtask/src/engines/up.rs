use std::thread;

use anyhow::{Result, bail};
use sinew_testbed::{Etcd, Kafka, Mariadb, Memcached, Nats, Postgres, RabbitMq, Redis, S3, Server};

/// Starts these servers, tells the URLs by which Sinew reaches them, and keeps them until it is ended itself.
/// Their data goes with them.
pub(crate) fn up(names: &[&str]) -> Result<()> {
    let mut servers = Vec::new();
    for name in names {
        let server = start(name)?;
        println!("{name:<10} {}", url(name, &server));
        if *name == "s3" {
            println!("{:<10} with SINEW_S3_SECRET={}", "", S3::SECRET);
        }
        servers.push(server);
    }
    println!("They run until this is ended (Ctrl-C); their data goes with them.");
    loop {
        thread::park();
    }
}

/// Starts one server, which is installed first when it is absent.
pub(crate) fn start(name: &str) -> Result<Server> {
    super::install(&[name])?;
    match name {
        "postgres" => Server::start(Postgres::default()),
        "etcd" => Server::start(Etcd::default()),
        "nats" => Server::start(Nats::default()),
        "kafka" => Server::start(Kafka::default()),
        "rabbitmq" => Server::start(RabbitMq::default()),
        "redis" => Server::start(Redis::default()),
        "memcached" => Server::start(Memcached::default()),
        "mariadb" => Server::start(Mariadb::default()),
        "s3" => Server::start(S3),
        other => bail!("{other:?} is no server that Sinew runs over"),
    }
}

/// The URL by which Sinew reaches a server that [`start`] started.
pub(crate) fn url(name: &str, server: &Server) -> String {
    let address = server.address();
    match name {
        "postgres" => format!("postgres://sinew@{address}/postgres"),
        "rabbitmq" => format!("amqp://guest@{address}/"),
        "mariadb" => format!("mysql://sinew@{address}/sinew"),
        "s3" => {
            let (key, bucket) = (S3::ACCESS_KEY, S3::BUCKET);
            format!(
                "s3://{key}@{bucket}/sinew?endpoint=http://{address}&keys=tree&password_env=SINEW_S3_SECRET"
            )
        }
        other => format!("{other}://{address}"),
    }
}
