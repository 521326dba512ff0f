use std::process::ExitCode;

use crate::client::Target;

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
    let answer: serde_json::Value = args.target.get("/v1/routes")?;
    println!("{answer:#}");
    Ok(ExitCode::SUCCESS)
}
