use std::{path::PathBuf, process::ExitCode};

use crate::logging;

/// `sinew serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file [default: ./sinew.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder; made when it does not exist
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the gateway listens, such as 0.0.0.0:8080
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// Where the control API listens, such as 127.0.0.1:7070
    #[arg(long, value_name = "ADDRESS")]
    control: Option<String>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    logging::start("info");
    let _ = args;
    Ok(ExitCode::SUCCESS)
}
