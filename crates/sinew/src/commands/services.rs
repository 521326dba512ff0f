use std::process::ExitCode;

use sinew_node::model::{Instance, InstanceStatus, Services};

use crate::{client::Target, table};

/// `sinew services`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON, as the control API answers it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let services: Services = args.target.get("/v1/services")?;
    if args.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&services)?))?;
    } else if services.services.is_empty() {
        table::print("no service is registered\n")?;
    } else {
        table::print(&render(&services))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(services: &Services) -> String {
    let instances = services
        .services
        .iter()
        .flat_map(|service| &service.instances);
    let rows: Vec<_> = instances.map(row).collect();
    table::render(
        [
            "SERVICE", "INSTANCE", "ADDRESS", "STATUS", "TTL", "METADATA",
        ],
        &rows,
    )
}

fn row(instance: &Instance) -> [String; 6] {
    let metadata = instance
        .metadata
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    // An IPv6 address needs brackets before a port.
    let address = match instance.address.contains(':') {
        true => format!("[{}]:{}", instance.address, instance.port),
        false => format!("{}:{}", instance.address, instance.port),
    };
    [
        instance.service.clone(),
        instance.id.clone(),
        address,
        status(instance.status).to_owned(),
        format!("{}s", instance.ttl_ms.div_ceil(1000)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_instance() {
        let services: Services = serde_json::from_str(
            r#"{"revision":9,"services":[{"name":"carts","instances":[{"service":"carts",
            "id":"carts-1","address":"::1","port":80,"status":"out_of_service",
            "metadata":{"zone":"a","note":"x\u001b[31m\ny"},"ttl_ms":10000,"revision":9}]}]}"#,
        )
        .unwrap();
        assert_eq!(
            render(&services),
            "SERVICE  INSTANCE  ADDRESS   STATUS          TTL  METADATA\n\
             carts    carts-1   [::1]:80  out of service  10s  note=x\u{fffd}[31m\u{fffd}y zone=a\n"
        );
    }
}
