use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sinew_core::Error;
use sinew_node::backup::{self, Summary};

use crate::{client::Target, table};

/// `sinew backup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder that the backups go into; made when it is not there
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Take a full backup, even if it would do to take what came after the last one
    #[arg(long)]
    full: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// The list of what a folder of backups holds, in the order in which it was taken.
pub(crate) const LIST: &str = "backups.json";

/// A backup in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backup {
    pub(crate) file: String,
    /// The revision that it begins after; 0 for a full one.
    pub(crate) since: u64,
    /// The revision that it reaches.
    pub(crate) revision: u64,
    pub(crate) bytes: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let folder = &args.to;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut list = read_list(folder)?;
    let since = match list.last() {
        Some(last) if !args.full => last.revision,
        _ => 0,
    };
    let (since, summary, bytes, partial) = match take(&args.target, folder, since) {
        Err(error) if since > 0 && is_forgotten(&error) => {
            eprintln!(
                "the node no longer knows what came after revision {since}; taking a full backup"
            );
            take(&args.target, folder, 0)?
        }
        taken => taken?,
    };
    let revision = summary.revision;
    let file = match since {
        0 => format!("full-{revision}.sinew"),
        since => format!("since-{since}-to-{revision}.sinew"),
    };
    fs::rename(&partial, folder.join(&file))?;
    let backup = Backup {
        file,
        since,
        revision,
        bytes,
    };
    list.push(backup.clone());
    write_list(folder, &list)?;
    if args.json {
        table::print(&format!("{}\n", serde_json::to_string(&backup)?))?;
    } else {
        let Summary {
            entries, commits, ..
        } = summary;
        let path = folder.join(&backup.file);
        table::print(&format!(
            "{}: {entries} keys and {commits} commits, up to revision {revision}, {bytes} bytes\n",
            path.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a backup into a file that does not have its name yet, and reads it back.
fn take(target: &Target, folder: &Path, since: u64) -> Result<(u64, Summary, u64, PathBuf)> {
    let path = match since {
        0 => "/v1/backup".to_owned(),
        since => format!("/v1/backup?since={since}"),
    };
    let partial = folder.join("partial");
    let in_file = || format!("cannot write {}", partial.display());
    let mut file = File::create(&partial).with_context(in_file)?;
    let mut bytes = 0;
    target.download(&path, |chunk| {
        bytes += chunk.len() as u64;
        file.write_all(chunk).with_context(in_file)
    })?;
    file.sync_all().with_context(in_file)?;
    let summary = backup::check(File::open(&partial)?)?;
    Ok((since, summary, bytes, partial))
}

fn is_forgotten(error: &anyhow::Error) -> bool {
    let known = error.downcast_ref::<Error>();
    known.is_some_and(|error| ["kv.compacted", "kv.revision_unknown"].contains(&error.code()))
}

/// The backups of a folder; none when it has no list yet.
pub(crate) fn read_list(folder: &Path) -> Result<Vec<Backup>> {
    let path = folder.join(LIST);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a list of backups", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces the list as a whole, durably.
fn write_list(folder: &Path, list: &[Backup]) -> Result<()> {
    let partial = folder.join("partial-list");
    let mut file = File::create(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(list)?)?;
    file.sync_all()?;
    fs::rename(&partial, folder.join(LIST))?;
    File::open(folder)?.sync_all()?;
    Ok(())
}
