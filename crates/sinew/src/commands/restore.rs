use std::{io::Seek, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use sinew_node::backup::{self, Backup, Place, Restored};

use super::backup::runtime;
use crate::table;

/// `sinew restore`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder or object store (s3://KEY@BUCKET/PREFIX) that `sinew backup` wrote into
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// The state as of this revision, which a backup has to reach exactly [default: the newest]
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
    /// The new data folder; no node may run on it
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The key-value engine to restore into, empty
    #[arg(long, value_name = "URL", default_value = "embedded:")]
    kv: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = runtime()?;
    let place = runtime.block_on(async { Place::open(&args.from) })?;
    let list = runtime.block_on(place.list())?;
    let chain = chain(list, args.revision, &place.shown(""))?;
    let mut files = Vec::new();
    // Before anything is written.
    for backup in &chain {
        let mut file = runtime.block_on(place.fetch(&backup.file))?;
        backup::check(file.try_clone()?)
            .map_err(|error| error.with_context(backup.file.clone()))?;
        file.rewind()?;
        files.push(file);
    }
    let restored = runtime.block_on(backup::restore_into(&args.data, &args.kv, files))?;
    let Restored { revision, writes } = restored;
    table::print(&format!(
        "restored {writes} writes from {} backups, up to revision {revision}; start it with\n  \
         sinew serve --data {}\n",
        chain.len(),
        args.data.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The last full backup at or before what is wanted, and what follows it.
fn chain(list: Vec<Backup>, revision: Option<u64>, place: &str) -> Result<Vec<Backup>> {
    let end = match revision {
        None => list.len(),
        Some(revision) => {
            let at = list.iter().rposition(|backup| backup.revision == revision);
            let Some(at) = at else {
                let known: Vec<_> = list.iter().map(|b| b.revision.to_string()).collect();
                bail!(
                    "no backup reaches revision {revision} exactly; there are {}",
                    known.join(", ")
                );
            };
            at + 1
        }
    };
    let list = &list[..end];
    let Some(full) = list.iter().rposition(|backup| backup.since == 0) else {
        bail!("{place} has no full backup");
    };
    Ok(list[full..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(since: u64, revision: u64) -> Backup {
        Backup {
            file: format!("{since}-{revision}"),
            since,
            revision,
            bytes: 1,
        }
    }

    #[test]
    fn the_chain_begins_with_the_last_full_backup() {
        let list = vec![backup(0, 5), backup(5, 7), backup(0, 9), backup(9, 12)];
        let chosen = |revision| {
            chain(list.clone(), revision, "x")
                .map(|chain| chain.into_iter().map(|b| b.file).collect::<Vec<_>>())
        };
        assert_eq!(chosen(None).unwrap(), ["0-9", "9-12"]);
        assert_eq!(chosen(Some(7)).unwrap(), ["0-5", "5-7"]);
        assert!(chosen(Some(8)).is_err());
        assert!(chain(vec![backup(5, 7)], None, "x").is_err());
    }
}
