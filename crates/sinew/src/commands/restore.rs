use std::{
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use sinew_node::backup::{self, Restored};

use super::backup::{Backup, LIST, read_list};
use crate::table;

/// `sinew restore`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder that `sinew backup` wrote into
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
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
    let chain = chain(read_list(&args.from)?, args.revision, &args.from)?;
    let files = chain
        .iter()
        .map(|backup| {
            let path = args.from.join(&backup.file);
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))
        })
        .collect::<Result<Vec<_>>>()?;
    // Before anything is written.
    for (backup, file) in chain.iter().zip(&files) {
        backup::check(file.try_clone()?)
            .map_err(|error| error.with_context(backup.file.clone()))?;
        std::io::Seek::rewind(&mut &*file)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
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
fn chain(list: Vec<Backup>, revision: Option<u64>, folder: &Path) -> Result<Vec<Backup>> {
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
        bail!("{} has no full backup ({LIST})", folder.display());
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
            chain(list.clone(), revision, Path::new("x"))
                .map(|chain| chain.into_iter().map(|b| b.file).collect::<Vec<_>>())
        };
        assert_eq!(chosen(None).unwrap(), ["0-9", "9-12"]);
        assert_eq!(chosen(Some(7)).unwrap(), ["0-5", "5-7"]);
        assert!(chosen(Some(8)).is_err());
        assert!(chain(vec![backup(5, 7)], None, Path::new("x")).is_err());
    }
}
