//! `sinew services`: who is registered.

use std::process::ExitCode;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sinew_node::model::{ListedService, Service, Services};

use super::instances::{Output, Where, table_of};
use crate::table;

/// `sinew services`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the services and their instances.
    List(ListArgs),
    /// Show one service.
    Show(ShowArgs),
}

/// `sinew services list`.
#[derive(clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    conditions: Conditions,
    /// The namespace; '*' for all of them
    #[arg(long, default_value = "default", value_name = "NAME")]
    namespace: String,
    #[command(flatten)]
    output: Output,
}

/// `sinew services show`.
#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// The service
    service: String,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// Which instances are wanted.
#[derive(clap::Args)]
pub(super) struct Conditions {
    /// Only those of this status: up, draining, down, out_of_service
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    /// Only those of this health: passing, unknown, warning, critical
    #[arg(long, value_name = "HEALTH")]
    health: Vec<String>,
    /// Only those in this zone
    #[arg(long, value_name = "ZONE")]
    zone: Vec<String>,
    /// Only those of this version
    // clap calls its own flag `version`.
    #[arg(long, value_name = "VERSION")]
    of_version: Vec<String>,
    /// Only those with this in their metadata
    #[arg(long, value_name = "KEY[=VALUE]")]
    metadata: Vec<String>,
    /// Wait until the node shows everything that has happened
    #[arg(long)]
    consistent: bool,
}

impl Conditions {
    /// As parameters of a query that already has some.
    pub(super) fn query(&self) -> String {
        let mut query = String::new();
        for (key, values) in [
            ("status", &self.status),
            ("health", &self.health),
            ("zone", &self.zone),
            ("version", &self.of_version),
            ("metadata", &self.metadata),
        ] {
            for value in values {
                let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
                query.push_str(&format!("&{key}={value}"));
            }
        }
        if self.consistent {
            query.push_str("&consistent=true");
        }
        query
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        None => list(&args.list),
        Some(Action::List(args)) => list(args),
        Some(Action::Show(args)) => show(args),
    }
}

/// Also `sinew instances list`.
pub(super) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let namespace = utf8_percent_encode(&args.namespace, NON_ALPHANUMERIC);
    let path = format!(
        "/v1/services?namespace={namespace}{}",
        args.conditions.query()
    );
    let services: Services = args.output.target.get(&path)?;
    if args.output.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&services)?))?;
    } else if services.services.is_empty() {
        table::print("no service is registered\n")?;
    } else {
        table::print(&render(&services.services))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let query = format!("{}{}", args.place.query(), args.conditions.query());
    let path = format!(
        "/v1/services/{}{query}",
        super::instances::part(&args.service)
    );
    let service: Service = args.output.target.get(&path)?;
    if args.output.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&service)?))?;
    } else if service.instances.is_empty() {
        table::print("it has no such instances\n")?;
    } else {
        let service = ListedService {
            namespace: service.namespace,
            name: service.name,
            panic: service.panic,
            instances: service.instances,
        };
        table::print(&render(&[service]))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(services: &[ListedService]) -> String {
    let instances = services.iter().flat_map(|service| &service.instances);
    let mut text = table_of(instances);
    for service in services.iter().filter(|service| service.panic) {
        text.push_str(&format!(
            "\n{} is in panic: most of its instances are critical, which is not believed; they count as up\n",
            service.name
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_instance() {
        let services: Services = serde_json::from_str(
            r#"{"revision":9,"services":[{"name":"carts","panic":true,"instances":[{"service":"carts",
            "id":"carts-1","address":"::1","port":80,"status":"out_of_service","health":"critical",
            "metadata":{"zone":"a","note":"x\u001b[31m\ny"},"ttl_ms":10000,"revision":9}]}]}"#,
        )
        .unwrap();
        assert_eq!(
            render(&services.services),
            "SERVICE  INSTANCE  ADDRESS   STATUS          HEALTH    TTL  METADATA\n\
             carts    carts-1   [::1]:80  out of service  critical  10s  note=x\u{fffd}[31m\u{fffd}y zone=a\n\
             \ncarts is in panic: most of its instances are critical, which is not believed; they count as up\n"
        );
    }
}
