use std::process::ExitCode;

use sinew_node::model::{ListedRoute, RouteSource, Routes, RoutesStatus};

use super::Output;
use crate::{table, time::moment};

/// `sinew routes` alone.
#[derive(clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let routes: Routes = args.output.target.get("/v1/routes")?;
    if args.output.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&routes)?))?;
    } else {
        table::print(&render(&routes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(routes: &Routes) -> String {
    let mut text = if routes.routes.is_empty() {
        "there is no route; write [[routes]] into sinew.toml, or `sinew routes set NAME path=… service=…`\n"
            .to_owned()
    } else {
        let rows: Vec<_> = routes.routes.iter().map(row).collect();
        table::render(
            [
                "NAME", "HOST", "PATH", "SERVICE", "AUTH", "TIMEOUT", "RETRIES", "BODY", "FROM",
            ],
            &rows,
        )
    };
    text.push('\n');
    text.push_str(&status(&routes.status));
    text
}

/// Which stored version is served, in a line or a few.
pub(super) fn status(status: &RoutesStatus) -> String {
    let mut text = match (status.version, status.stored_version) {
        (0, Some(0)) => "no routes are stored\n".to_owned(),
        (0, _) => "none of the stored routes are served\n".to_owned(),
        (version, _) => format!(
            "version {version} of the stored routes, served since {}\n",
            moment(status.changed_ms)
        ),
    };
    if status.is_stale {
        text.push_str("STALE: the store is out of reach; there may be a newer version\n");
    }
    if let Some(failure) = &status.failure {
        text.push_str(&format!(
            "FAILED: this node cannot serve version {}: {} ({})\n",
            failure.version,
            table::one_line(&failure.reason),
            failure.code
        ));
    }
    text
}

fn row(listed: &ListedRoute) -> [String; 9] {
    let route = &listed.route;
    let dash = || "-".to_owned();
    [
        route.name.clone().unwrap_or_else(dash),
        route.host.clone().unwrap_or_else(|| "*".to_owned()),
        route.path.clone(),
        route.service.clone(),
        if route.auth.is_empty() {
            dash()
        } else {
            route.auth.join(",")
        },
        route.timeout.clone(),
        route.retries.to_string(),
        route.max_body.clone(),
        match listed.source {
            RouteSource::File => "file".to_owned(),
            RouteSource::Stored => "stored".to_owned(),
        },
    ]
}
