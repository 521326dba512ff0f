use std::process::ExitCode;

use sinew_node::model::{EngineState, KvStatus, MemoryStatus, RoutesStatus, Status};

use crate::{client::Target, table};

/// `sinew status`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON, as the control API answers it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let status: Status = args.target.get("/v1/status")?;
    if args.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?;
    } else {
        table::print(&render(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(status: &Status) -> String {
    let gateway = &status.gateway;
    let lines = [
        ("version", status.version.clone()),
        ("process", status.pid.to_string()),
        ("up for", duration(status.uptime_ms / 1000)),
        ("data", status.data.clone()),
        ("kv", kv(&status.kv)),
        ("memory", memory(status.memory.as_ref())),
        ("gateway", gateway.address.clone()),
        (
            "requests",
            format!("{} ({} in flight)", gateway.requests, gateway.in_flight),
        ),
        ("routes", routes(&status.routes)),
        ("connections", gateway.connections.to_string()),
        (
            "services",
            format!("{} ({} instances)", status.services, status.instances),
        ),
    ];
    lines
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<13}{value}\n"))
        .collect()
}

fn routes(routes: &RoutesStatus) -> String {
    let mut text = match (routes.version, routes.stored_version) {
        (0, Some(0)) => "none stored".to_owned(),
        (version, _) => format!("stored version {version}"),
    };
    if routes.is_stale {
        text.push_str(", STALE: the store is out of reach");
    }
    if let Some(failure) = &routes.failure {
        text.push_str(&format!(
            ", FAILED to serve version {}: {}",
            failure.version,
            table::one_line(&failure.reason)
        ));
    }
    text
}

/// Of the engines in the node's process; nothing when there are none.
fn memory(memory: Option<&MemoryStatus>) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    memory.map_or_else(String::new, |memory| {
        let (used, budget) = (mib(memory.used), mib(memory.budget));
        format!("{used} of {budget} MiB for embedded engines")
    })
}

fn kv(kv: &KvStatus) -> String {
    let engine = &kv.engine;
    match (kv.state, kv.revision, &kv.reason) {
        (EngineState::Up, Some(revision), _) => format!("{engine}, revision {revision}"),
        (EngineState::Up, None, _) => format!("{engine}, does not tell its revision now"),
        (EngineState::Starting, ..) => format!("{engine}, not reached yet"),
        (EngineState::Away, _, reason) => {
            let reason = reason.as_deref().unwrap_or("no reason known");
            format!("{engine}, AWAY: {reason}")
        }
    }
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let shown = [0, 59, 61, 3_700, 90_000].map(duration);
        assert_eq!(shown, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
