use std::process::ExitCode;

use sinew_node::model::{Route, Routes};

use crate::{client::Target, table};

/// `sinew routes`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON, as the control API answers it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let routes: Routes = args.target.get("/v1/routes")?;
    if args.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&routes)?))?;
    } else if routes.routes.is_empty() {
        table::print("no route is configured; write [[routes]] into sinew.toml\n")?;
    } else {
        table::print(&render(&routes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(routes: &Routes) -> String {
    let rows: Vec<_> = routes.routes.iter().map(row).collect();
    table::render(
        [
            "HOST", "PATH", "SERVICE", "AUTH", "TIMEOUT", "RETRIES", "BODY",
        ],
        &rows,
    )
}

fn row(route: &Route) -> [String; 7] {
    let dash = || "-".to_owned();
    [
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
    ]
}
