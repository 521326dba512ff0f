//! Sinew beside its peers, in the same minute on the same cores. Run by `cargo xtask bench NAME`,
//! which builds what is needed and installs the peers.

#![expect(
    clippy::disallowed_methods,
    reason = "a bench measures the machine's own time"
)]

mod blob;
mod bus;
mod cache;
mod gateway;
mod http;
mod kv;
mod measure;
mod node;
mod process;
mod registration;
mod report;
mod sql;
mod wrk;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: sinew-bench blob|bus|cache|gateway|kv|registration|sql [--quick] [--only PART] [--json FILE]";

/// What every bench is told.
pub(crate) struct Options {
    /// Few, short rounds: a look, not a measurement.
    pub(crate) quick: bool,
    /// Just this part of it; see the bench's own text.
    pub(crate) only: Option<String>,
    /// Where the JSON lines go.
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().context(USAGE)?;
    if name == "kv-fill" {
        // The process that the kv bench starts and kills.
        let (folder, mib) = args.next().zip(args.next()).context(USAGE)?;
        return kv::fill(&folder, &mib);
    }
    let mut options = Options {
        quick: false,
        only: None,
        json: None,
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--only" => options.only = Some(args.next().context("--only needs a part's name")?),
            "--json" => options.json = Some(args.next().context("--json needs a file")?.into()),
            _ => bail!("unknown option {arg}; {USAGE}"),
        }
    }
    match name.as_str() {
        "blob" => blob::run(&options),
        "bus" => bus::run(&options),
        "cache" => cache::run(&options),
        "gateway" => gateway::run(&options),
        "kv" => kv::run(&options),
        "registration" => registration::run(&options),
        "sql" => sql::run(&options),
        _ => bail!("no bench {name:?}; {USAGE}"),
    }
}
