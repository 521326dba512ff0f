//! Asks the primary over a connection of its own whether it lives and, when there are replicas, how far it is.

use std::{future::pending, sync::Arc, time::Duration};

use sinew_core::{Backoff, Clock};
use sinew_engine::Health;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::{sync::watch, time::timeout};

use super::{
    dialect::{Connection, Dialect},
    replicas::Samples,
};

type ConnectOptions<D> = <Connection<D> as sqlx::Connection>::Options;

/// How often a primary is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How often positions are taken: a replica's staleness is never known better than this.
pub(super) const SAMPLE: Duration = Duration::from_millis(200);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn primary<D: Dialect>(
    connect: ConnectOptions<D>,
    health: watch::Sender<Health>,
    samples: Option<Arc<Samples>>,
    clock: Clock,
    limit: Duration,
) {
    let every = if samples.is_some() { SAMPLE } else { EVERY };
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let reason = match timeout(PATIENCE, connected::<D>(&connect, limit)).await {
            Ok(Ok(mut connection)) => {
                backoff.reset();
                health.send_if_modified(|health| !std::mem::replace(health, Health::Up).is_up());
                loop {
                    let asked = async {
                        match &samples {
                            Some(samples) => {
                                let at = clock.monotonic();
                                let position = D::written(&mut connection).await?;
                                samples.add(at, position);
                                Ok(())
                            }
                            None => connection.ping().await,
                        }
                    };
                    match timeout(PATIENCE, asked).await {
                        Ok(Ok(())) => clock.sleep(every).await,
                        Ok(Err(error)) => break explain(&error),
                        Err(_) => break "no answer in time".to_owned(),
                    }
                }
            }
            Ok(Err(error)) => explain(&error),
            Err(_) => "no connection in time".to_owned(),
        };
        let since = clock.now();
        health.send_if_modified(|health| {
            // It says since when, and why now.
            let since = match health {
                Health::Away { since, .. } => *since,
                _ => since,
            };
            let reason = reason.clone();
            let away = Health::Away { since, reason };
            std::mem::replace(health, away.clone()) != away
        });
        if health.is_closed() {
            pending::<()>().await;
        }
        clock.sleep(backoff.next_delay()).await;
    }
}

pub(super) async fn connected<D: Dialect>(
    connect: &ConnectOptions<D>,
    limit: Duration,
) -> sqlx::Result<Connection<D>> {
    let mut connection = connect.connect().await?;
    D::settle(&mut connection, limit).await?;
    Ok(connection)
}

/// Why, without anything that the server was told or holds.
fn explain(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("it answers with error {code}"),
            None => "it answers with an error".to_owned(),
        },
        sqlx::Error::Io(why) => why.to_string(),
        sqlx::Error::Tls(why) => format!("TLS: {why}"),
        sqlx::Error::Configuration(why) => why.to_string(),
        _ => "its answer cannot be read".to_owned(),
    }
}
