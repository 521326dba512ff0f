//! `sinew demo`: a node, the shop's five services as processes of their own, shoppers who order
//! through the gateway, and at the end an audit of the services' databases.

mod folder;
mod outages;
mod platform;
mod services;
mod show;
mod summary;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use shop::shoppers::{Options, Outages, Shoppers};
use sinew_core::{Clock, Name, Result};

use self::{
    folder::Folder, outages::Watch, platform::Platform, services::Services, show::Show,
    summary::Summary,
};
use crate::logging;

/// How long everything may take to be healthy; on an idle machine it takes about a second.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long shoppers may take to finish what they are at.
const SHOPPERS_LIMIT: Duration = Duration::from_secs(45);
/// How long orders may take to come to rest. An order whose replica died waits for its lease.
const SETTLE_LIMIT: Duration = Duration::from_secs(45);
/// How long an outage counts after the instance is back.
const OUTAGE_GRACE: Duration = Duration::from_secs(3);

/// Run a whole shop behind the gateway, with simulated shoppers and an audit at the end.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep all data in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Run several instances of a service, such as orders=3; may be given again
    #[arg(long, value_name = "SERVICE=N", value_parser = services::replicas)]
    replicas: Vec<(Name, u32)>,
    /// How many shoppers shop at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    shoppers: u32,
    /// Stop after this many orders [default: go on until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    orders: Option<u64>,
    /// What the shoppers and the bank decide follows from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Start everything but the shoppers
    #[arg(long, conflicts_with = "orders")]
    no_traffic: bool,
    /// Where the gateway listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    gateway: SocketAddr,
    /// Where the control API listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    control: SocketAddr,
    /// The key-value engine that the platform runs over, such as postgres://sinew@localhost/sinew
    #[arg(long, value_name = "URL", default_value = "embedded:")]
    kv: String,
    /// Print JSON lines instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    // The node says that it has no keys to verify tokens by, which is so until the users service is
    // there; then it has them at once.
    logging::start("warn,sinew_node::keys=error");
    // The shoppers and the control plane share these threads; the gateway has its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let sound = runtime.block_on(demo(args))?;
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the whole of it; answers whether everything was as it should be.
async fn demo(args: Args) -> Result<bool> {
    let clock = Clock::system();
    let mut stop = Stop::listen()?;
    let mut show = Show::new(args.json, clock.clone());
    let mut folder = Folder::new(args.data.clone())?;
    let platform = Platform::start(folder.path(), args.gateway, args.control, &args.kv).await?;
    let services = Services::start(&folder, &platform, &args.replicas, args.seed).await?;
    let outages = Arc::new(Outages::new(clock.clone(), OUTAGE_GRACE));
    let mut watch = Watch::start(&services, &platform, outages.clone());

    let healthy = tokio::select! {
        healthy = services.healthy(&platform, &clock, START_LIMIT) => healthy,
        () = stop.asked() => {
            services.stop().await;
            platform.stop().await;
            return Ok(true);
        }
    };
    let table = match healthy {
        Ok(table) => table,
        Err(error) => {
            services.stop().await;
            platform.stop().await;
            folder.keep();
            return Err(error.with_context(format!("logs: {}", folder.logs().display())));
        }
    };
    show.ready(
        &table,
        platform.gateway_url(),
        platform.control_url(),
        folder.path(),
        !args.no_traffic,
    );

    let mut shoppers = None;
    if !args.no_traffic {
        let options = Options {
            gateway: platform.gateway(),
            shoppers: args.shoppers,
            orders: args.orders,
            seed: args.seed,
            think: Duration::from_millis(5),
            admin_password: folder.admin_password()?,
        };
        shoppers = Some(Shoppers::start(options, clock.clone(), outages.clone()));
    }
    let began = clock.monotonic();
    loop {
        let finished = async {
            match &shoppers {
                Some(shoppers) => shoppers.finished().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = finished => break,
            () = stop.asked() => break,
            note = watch.note() => show.say(&note),
            () = clock.sleep(show.pace()) => {
                if let Some(shoppers) = &shoppers {
                    show.progress(&shoppers.figures(), &outages);
                }
            }
        }
    }

    // From here on, a second Ctrl-C skips what is waited for; children are stopped all the same.
    let ran = clock.monotonic().saturating_sub(began);
    if let Some(shoppers) = &mut shoppers {
        show.say("the shoppers finish what they are at");
        tokio::select! {
            () = shoppers.stop(SHOPPERS_LIMIT) => {}
            () = stop.asked() => {}
        }
        tokio::select! {
            () = folder.settled(&clock, SETTLE_LIMIT, &show) => {}
            () = stop.asked() => {}
        }
    }
    show.say("stopping the services");
    watch.stop();
    let stopped = services.stop().await;
    platform.stop().await;

    let summary = Summary::new(&folder, shoppers.as_ref(), &outages, ran, stopped)?;
    let sound = summary.sound();
    show.summary(&summary);
    if !sound {
        folder.keep();
    }
    show.kept(&folder);
    Ok(sound)
}

/// Ctrl-C and SIGTERM.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|error| {
                let text = "signals cannot be listened to";
                sinew_core::Error::new(sinew_core::Kind::Internal, "demo.signals", text)
                    .with_source(error)
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Returns at the next signal that asks to stop. Cancel safe.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
