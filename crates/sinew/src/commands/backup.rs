use std::{
    io::{Seek, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use sinew_core::Error;
use sinew_node::backup::{self, Backup, Place, Summary};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use crate::{client::Target, table};

/// `sinew backup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder that the backups go into, made when it is not there, or an object store (s3://KEY@BUCKET/PREFIX)
    #[arg(long, value_name = "DIR|URL")]
    to: String,
    /// Take a full backup, even if it would do to take what came after the last one
    #[arg(long)]
    full: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = runtime()?;
    let place = runtime.block_on(async { Place::open(&args.to) })?;
    let list = runtime.block_on(place.list())?;
    let since = match list.last() {
        Some(last) if !args.full => last.revision,
        _ => 0,
    };
    let (summary, partial) = match take(&args.target, &place, since) {
        Err(error) if since > 0 && is_forgotten(&error) => {
            eprintln!(
                "the node no longer knows what came after revision {since}; taking a full backup"
            );
            take(&args.target, &place, 0)?
        }
        taken => taken?,
    };
    let Summary {
        since,
        revision,
        entries,
        commits,
    } = summary;
    let file = match since {
        0 => format!("full-{revision}.sinew"),
        since => format!("since-{since}-to-{revision}.sinew"),
    };
    let bytes = partial.as_file().metadata()?.len();
    let backup = Backup {
        file,
        since,
        revision,
        bytes,
    };
    runtime.block_on(place.keep(partial, backup.clone()))?;
    if args.json {
        table::print(&format!("{}\n", serde_json::to_string(&backup)?))?;
    } else {
        table::print(&format!(
            "{}: {entries} keys and {commits} commits, up to revision {revision}, {bytes} bytes\n",
            place.shown(&backup.file)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What places and engines work on.
pub(crate) fn runtime() -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.worker_threads(2).enable_all().build()?)
}

/// Takes a backup into a file that does not have its name yet, and reads it back.
fn take(target: &Target, place: &Place, since: u64) -> Result<(Summary, NamedTempFile)> {
    let path = match since {
        0 => "/v1/backup".to_owned(),
        since => format!("/v1/backup?since={since}"),
    };
    let mut partial = place.partial()?;
    target.download(&path, |chunk| {
        partial
            .write_all(chunk)
            .context("cannot write what was downloaded")
    })?;
    let mut file = partial.reopen()?;
    file.rewind()?;
    Ok((backup::check(file)?, partial))
}

fn is_forgotten(error: &anyhow::Error) -> bool {
    let known = error.downcast_ref::<Error>();
    known.is_some_and(|error| ["kv.compacted", "kv.revision_unknown"].contains(&error.code()))
}
