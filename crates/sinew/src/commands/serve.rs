use std::{
    io::{IsTerminal, stderr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use sinew_node::{Config, DataFolder, HandOver, Node, Sources};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::logging;

/// What a shell reports of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// `sinew serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file [default: ./sinew.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder; made when it does not exist [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Where the gateway listens; port 0 takes any free one [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// Where the control API listens; port 0 takes any free one [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS")]
    control: Option<String>,
    /// Go on in the place of the node that runs on the data folder, without a connection lost; start as usual when
    /// none runs
    #[arg(long)]
    take_over: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    logging::start("info");
    let take_over = args.take_over;
    let sources = args.sources();
    let config = Config::load(sources.clone())?;
    // Only signals are waited for here; the node brings its own threads.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(config, sources, take_over))
}

impl Args {
    fn sources(self) -> Sources {
        let flags = [
            ("--data", "node.data", self.data),
            ("--gateway", "gateway.address", self.gateway),
            ("--control", "control.address", self.control),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(name, key, value)| Some((name, key, value?)));
        Sources {
            file: self.config,
            flags: flags.collect(),
            ..Sources::from_environment()
        }
    }
}

async fn serve(config: Config, sources: Sources, take_over: bool) -> anyhow::Result<ExitCode> {
    // Before the node starts, so that a signal during the start is not lost.
    let mut signals = Signals::new().context("signals cannot be waited for")?;
    let drain = config.drain;
    let mut node = match take_over {
        true => Node::take_over(config).await?,
        false => Node::start(config).await?,
    };
    announce(&node);

    let has_terminal = stderr().is_terminal();
    let signal = loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            successor = node.successor() => {
                let handed = tokio::select! {
                    biased;
                    handed = node.hand_over(successor, drain) => handed?,
                    signal = signals.next_end() => return Ok(stop_at_once(signal)),
                };
                match handed {
                    HandOver::Done(cut_off) => {
                        tell_stopped(cut_off);
                        return Ok(ExitCode::SUCCESS);
                    }
                    HandOver::Back(same) => node = *same,
                }
                continue;
            }
        };
        match signal {
            // A terminal that is closed sends the same signal, and who closes it wants the node to end.
            Signals::RELOAD if !has_terminal || stderr().is_terminal() => {
                reload(&node, sources.clone());
            }
            signal => break signal,
        }
    };
    tracing::info!(
        signal,
        limit_ms = millis(drain),
        "stopping; a second signal stops at once"
    );
    let stopping = node.drain_and_stop(drain);
    tokio::select! {
        biased;
        cut_off = stopping => tell_stopped(cut_off?),
        signal = signals.next_end() => return Ok(stop_at_once(signal)),
    }
    Ok(ExitCode::SUCCESS)
}

fn tell_stopped(cut_off: u64) {
    match cut_off {
        0 => tracing::info!("stopped"),
        cut_off => tracing::warn!(cut_off, "stopped; requests that took too long were cut off"),
    }
}

fn stop_at_once(signal: &str) -> ExitCode {
    tracing::warn!(signal, "stopped at once");
    // Everything acknowledged is on disk already; there is nothing to tidy.
    std::process::exit(INTERRUPTED);
}

/// Reads the configuration anew. What is wrong with it is said, and everything goes on as before.
fn reload(node: &Node, sources: Sources) {
    if let Err(error) = Config::load(sources).and_then(|config| node.reload(config)) {
        tracing::error!(
            code = error.code(),
            error = error.detail(),
            "the configuration cannot be taken in; everything stays as it was"
        );
    }
}

fn announce(node: &Node) {
    let endpoints = node.endpoints();
    let folder = node.folder().path();
    if node.tokens_are_new() {
        tracing::info!(
            admin = %folder.join(DataFolder::ADMIN_TOKEN).display(),
            service = %folder.join(DataFolder::SERVICE_TOKEN).display(),
            "wrote new tokens for the control API, readable by this user only"
        );
    }
    tracing::info!(
        gateway = endpoints.gateway,
        control = endpoints.control,
        data = %folder.display(),
        pid = endpoints.pid,
        "the node is up"
    );
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Asks to read the configuration anew.
    const RELOAD: &str = "SIGHUP";

    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => Self::RELOAD,
        }
    }

    /// The next one that asks for an end.
    async fn next_end(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Self::RELOAD => {}
                signal => return signal,
            }
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
