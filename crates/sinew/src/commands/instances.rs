//! `sinew instances`: the instances of services, one at a time.

mod change;

use std::process::ExitCode;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sinew_node::model::{Instance, InstanceHealth, InstanceStatus};

use super::services;
use crate::{client::Target, table};

/// What may stand in a part of a path as it is.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// `sinew instances`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List instances, of all services.
    List(services::ListArgs),
    /// Register an instance that does not do so itself.
    Register(change::RegisterArgs),
    /// Show an instance, or set what it says of whether it takes requests.
    Status(change::StatusArgs),
    /// Take an instance out of service, or let its own word count again.
    Maintenance(change::MaintenanceArgs),
    /// Take an instance out of the registry.
    Deregister(change::DeregisterArgs),
}

/// What every action takes.
#[derive(clap::Args)]
pub(super) struct Output {
    /// Print JSON, as the control API answers it
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

/// In which namespace a service is.
#[derive(clap::Args)]
pub(super) struct Where {
    /// The service's namespace
    #[arg(long, default_value = "default", value_name = "NAME")]
    namespace: String,
}

impl Where {
    pub(super) fn query(&self) -> String {
        format!("?namespace={}", part(&self.namespace))
    }
}

/// A part of a path.
pub(super) fn part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::List(args) => services::list(args),
        Action::Register(args) => change::register(args),
        Action::Status(args) => change::status(args),
        Action::Maintenance(args) => change::maintenance(args),
        Action::Deregister(args) => change::deregister(args),
    }
}

/// A line for each instance.
pub(super) fn table_of<'a>(instances: impl Iterator<Item = &'a Instance>) -> String {
    let rows: Vec<_> = instances.map(row).collect();
    let header = [
        "SERVICE", "INSTANCE", "ADDRESS", "STATUS", "HEALTH", "TTL", "METADATA",
    ];
    table::render(header, &rows)
}

fn row(instance: &Instance) -> [String; 7] {
    // Zone and version are shown where they have always been, wherever they come from.
    let mut metadata = instance.metadata.clone();
    for (key, value) in [("zone", &instance.zone), ("version", &instance.version)] {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    let metadata = metadata.iter().map(|(key, value)| format!("{key}={value}"));
    // An IPv6 address needs brackets before a port.
    let address = match instance.address.contains(':') {
        true => format!("[{}]:{}", instance.address, instance.port),
        false => format!("{}:{}", instance.address, instance.port),
    };
    let service = match &instance.namespace {
        Some(namespace) => format!("{namespace}/{}", instance.service),
        None => instance.service.clone(),
    };
    let ttl = instance.ttl_ms;
    [
        service,
        instance.id.clone(),
        address,
        status(instance.status).to_owned(),
        health(instance.health).to_owned(),
        ttl.map_or_else(|| "-".to_owned(), |ttl| format!("{}s", ttl.div_ceil(1000))),
        table::one_line(&metadata.collect::<Vec<_>>().join(" ")),
    ]
}

fn status(status: InstanceStatus) -> &'static str {
    match status {
        InstanceStatus::Up => "up",
        InstanceStatus::Draining => "draining",
        InstanceStatus::Down => "down",
        InstanceStatus::OutOfService => "out of service",
    }
}

fn health(health: InstanceHealth) -> &'static str {
    match health {
        InstanceHealth::Passing => "passing",
        InstanceHealth::Unknown => "-",
        InstanceHealth::Warning => "warning",
        InstanceHealth::Critical => "critical",
    }
}
