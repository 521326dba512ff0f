use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sinew_core::units;
use sinew_node::model::Instance;

use super::{Output, Where, part, table_of};
use crate::{client::Ask, table};

/// Which instance.
#[derive(clap::Args)]
struct Which {
    /// The service
    service: String,
    /// The instance's id
    id: String,
    #[command(flatten)]
    place: Where,
}

impl Which {
    fn path(&self, below: &str) -> String {
        let (service, id) = (part(&self.service), part(&self.id));
        let query = self.place.query();
        format!("/v1/services/{service}/instances/{id}{below}{query}")
    }
}

/// `sinew instances register`.
#[derive(clap::Args)]
pub(super) struct RegisterArgs {
    #[command(flatten)]
    which: Which,
    /// Where it can be reached, such as 10.0.0.7:8080 or db.example.com:5432; IPv6 in brackets
    address: String,
    /// How long it stays without a heartbeat; without this it stays for ever
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// Its share of the requests, compared with others
    #[arg(long, default_value_t = 1.0)]
    weight: f64,
    /// Where it is
    #[arg(long)]
    zone: Option<String>,
    /// What it is
    #[arg(long, value_name = "VERSION")]
    of_version: Option<String>,
    /// A pair of its metadata
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Let the node look every 10 s: tcp, http:/health, grpc or grpc:service
    #[arg(long, value_name = "KIND[:WHAT]", value_parser = check)]
    check: Vec<Value>,
    /// Deregister it when it has been critical for so long
    #[arg(long, value_name = "TIME", value_parser = time)]
    deregister_after: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

/// `sinew instances status`.
#[derive(clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// up, draining, down or out_of_service
    status: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// `sinew instances maintenance`.
#[derive(clap::Args)]
pub(super) struct MaintenanceArgs {
    #[command(flatten)]
    which: Which,
    /// Whether it is in maintenance
    mode: Mode,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Mode {
    /// It is out of service, whatever it says
    On,
    /// Its own word counts
    Off,
}

/// `sinew instances deregister`.
#[derive(clap::Args)]
pub(super) struct DeregisterArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: Output,
}

pub(super) fn register(args: &RegisterArgs) -> Result<ExitCode> {
    let (host, port) = args
        .address
        .rsplit_once(':')
        .with_context(|| format!("{} is no address: write HOST:PORT", args.address))?;
    let port: u16 = port
        .parse()
        .with_context(|| format!("{port} is no port; use 1 to 65535"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let metadata: BTreeMap<_, _> = args.metadata.iter().cloned().collect();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let body = json!({
        "address": host,
        "port": port,
        "ttl_ms": args.ttl.map(millis),
        "persistent": args.ttl.is_none(),
        "weight": args.weight,
        "zone": args.zone,
        "version": args.of_version,
        "metadata": metadata,
        "checks": args.check,
        "deregister_after_ms": args.deregister_after.map(millis),
    });
    ask(&args.output, "PUT", &args.which.path(""), Some(&body))
}

pub(super) fn status(args: &StatusArgs) -> Result<ExitCode> {
    match &args.status {
        None => ask(&args.output, "GET", &args.which.path(""), None),
        Some(status) => {
            let body = json!({ "status": status });
            ask(
                &args.output,
                "PUT",
                &args.which.path("/status"),
                Some(&body),
            )
        }
    }
}

pub(super) fn maintenance(args: &MaintenanceArgs) -> Result<ExitCode> {
    let path = args.which.path("/override");
    match args.mode {
        Mode::On => {
            let body = json!({"status": "out_of_service"});
            ask(&args.output, "PUT", &path, Some(&body))
        }
        Mode::Off => ask(&args.output, "DELETE", &path, None),
    }
}

pub(super) fn deregister(args: &DeregisterArgs) -> Result<ExitCode> {
    let request = Ask {
        method: "DELETE",
        path: &args.which.path(""),
        if_match: None,
        body: None,
    };
    args.output.target.tell(&request)?;
    if !args.output.json {
        let (service, id) = (&args.which.service, &args.which.id);
        table::print(&format!("{id} of {service} is not registered any more\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for something of which the answer is the instance as it then stands.
fn ask(output: &Output, method: &str, path: &str, body: Option<&Value>) -> Result<ExitCode> {
    let instance: Instance = output.target.ask(&Ask {
        method,
        path,
        if_match: None,
        body,
    })?;
    if output.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&instance)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = table_of(std::iter::once(&instance));
    for check in &instance.checks {
        let health = super::health(check.health);
        let line = table::one_line(&format!("check {}: {health} {}", check.id, check.output));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    table::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn time(text: &str) -> Result<Duration, String> {
    units::read_duration(text).ok_or_else(|| "write a time such as 30s or 5m".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn check(text: &str) -> Result<Value, String> {
    let (kind, what) = text.split_once(':').unwrap_or((text, ""));
    let kind = match kind {
        "tcp" => json!({"tcp": {"target": what}}),
        "http" => json!({"http": {"target": if what.is_empty() { "/" } else { what }}}),
        "grpc" => json!({"grpc": {"service": what}}),
        _ => return Err("write tcp, http:/health or grpc[:service]".to_owned()),
    };
    Ok(json!({"id": text, "kind": kind}))
}

#[cfg(test)]
mod tests {
    use sinew_node::model::Check;

    use super::*;

    #[test]
    fn checks_are_what_the_node_takes() {
        for text in [
            "tcp",
            "tcp:10.0.0.1:80",
            "http:/health",
            "http",
            "grpc",
            "grpc:shop.Orders",
        ] {
            let value = check(text).unwrap();
            assert!(serde_json::from_value::<Check>(value).is_ok(), "{text}");
        }
        assert!(check("exec:rm").is_err());
    }
}
