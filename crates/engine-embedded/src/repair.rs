//! Saving what can be saved of a damaged store.
//!
//! The damaged folder is only read. What is provably whole is written as a new store beside it, which is
//! opened once as a proof, and then the two change names in one step: the damaged one stays, under
//! a name of its own, until somebody removes it.
//!
//! Of the log everything counts up to the first record that is broken and that no file holds: a
//! record rests on those before it. Files may hold more than that; what they hold stays.

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use sinew_core::{Clock, Result};

use crate::{
    damage::Damage,
    examine::{Examined, failed},
    journal::record,
    kv::{
        EmbeddedKv,
        index::salvage::{Head, Survey, Target, newest_revision},
    },
    log::{self, Sequence},
    storage::Storage,
    store::{Store, StoreOptions},
};

/// Revisions beyond the last known one that are passed over when some were lost: whoever has seen
/// one of those must not see it again with other contents, nor a fencing token that goes back.
const PASSED_OVER: u64 = 1_000_000;
/// Commits that a lost record may have held.
const COMMITS_PER_RECORD: u64 = 4096;

/// What a repair found and did.
#[derive(Clone, Debug, Default)]
pub struct StoreRepaired {
    /// The store's folder.
    pub folder: PathBuf,
    /// What was damaged. When nothing was, nothing was changed.
    pub damage: Vec<Damage>,
    /// What could not be saved, in words; nothing when all could.
    pub lost: Vec<String>,
    /// Where the damaged store is kept.
    pub kept: Option<PathBuf>,
    /// Keys of the store.
    pub keys: u64,
    /// Its revision.
    pub revision: u64,
}

/// What is to be written.
struct Plan {
    head: Head,
    survey: Survey,
    /// Whether the files of the keys are written anew.
    writes_kv: bool,
    /// The first record of the new log, and the one after its last.
    first: Sequence,
    next: Sequence,
    revision: u64,
    last_lease: u64,
    lost: Vec<String>,
}

/// Repairs the store in `folder`, or in `kv` in it, which must not be open. Blocks while all of it is
/// read, and what is whole is written.
///
/// Errors: `repair.unknown` (NotFound), `kv.locked`, `repair.format`, `kv.format_newer`,
/// `bus.format_newer`, `log.version` (FailedPrecondition), `repair.failed` (Unavailable) and
/// `kv.disk_full` (ResourceExhausted); the damaged store is untouched then.
pub fn repair_store(folder: &Path) -> Result<StoreRepaired> {
    repair_with(folder, &StoreOptions::default())
}

fn repair_with(folder: &Path, options: &StoreOptions) -> Result<StoreRepaired> {
    let examined = Examined::open(folder)?;
    let head = examined.head()?;
    let survey = examined.kv.survey(&head, false, |_| Ok(()))?;
    let damage = examined.damage(&survey);
    if damage.is_empty() {
        return Ok(StoreRepaired {
            folder: examined.folder.clone(),
            keys: survey.keys,
            revision: head.revision,
            ..StoreRepaired::default()
        });
    }
    let mut plan = plan(&examined, head, &survey)?;
    let target = beside(&examined.folder, ".repairing");
    remove_broken_off(&target)?;
    let written = write(&examined, &mut plan, &target, options)
        .and_then(|()| prove(examined.bus.is_some(), &target, options));
    if let Err(error) = written {
        // It is of no use; the next repair would remove it otherwise.
        let _ = fs::remove_dir_all(&target);
        return Err(error);
    }
    let kept = exchange(&examined.folder, &target)?;
    Ok(StoreRepaired {
        folder: examined.folder.clone(),
        damage,
        lost: plan.lost,
        kept: Some(kept),
        keys: plan.survey.keys,
        revision: plan.revision,
    })
}

fn plan(examined: &Examined, head: Head, found: &Survey) -> Result<Plan> {
    let Examined { kv, bus, .. } = examined;
    let end = examined.end();
    let kv_next = kv.next();
    let bus_next = bus.as_ref().map(|bus| bus.next().unwrap_or(end));
    let is_ahead = |next: Option<Sequence>| next.is_none_or(|next| next > end);
    let writes_kv = !kv.damage().is_empty()
        || !found.damage.is_empty()
        || examined.cut.is_some()
        || is_ahead(kv_next)
        || bus_next.is_some_and(|next| next > end);
    // What was lost may be in the history.
    let survey = if writes_kv {
        kv.survey(&head, true, |_| Ok(()))?
    } else {
        found.clone()
    };
    let mut lost = Vec::new();
    for file in &survey.lost {
        lost.push(format!(
            "keys that were only in the broken part of {}: they are gone, or have the value of an earlier time",
            file.display()
        ));
    }
    let mut last_lease = head.last_lease;
    if !kv.has_manifest() {
        last_lease += PASSED_OVER;
    }
    if let Some((from, until)) = head.missing {
        lost.push(format!("the commits of revisions {from} to {}", until - 1));
    }
    let mut revision = head.revision;
    if let Some(cut) = examined.cut {
        let newest = examined
            .left_out()?
            .iter()
            .map(|(_, part)| newest_revision(part))
            .max();
        let after = examined.log.next.unwrap_or(cut).max(cut);
        let count = after - cut;
        revision = revision.max(newest.unwrap_or_default())
            + PASSED_OVER.max(COMMITS_PER_RECORD.saturating_mul(count));
        last_lease += PASSED_OVER;
        let later = examined
            .records
            .iter()
            .filter(|(sequence, _)| *sequence >= cut);
        lost.push(format!(
            "everything from record {cut} of the log on ({} later records are whole, but rest on what is lost)",
            later.count()
        ));
        if kv_next.is_some_and(|next| next > cut) || bus_next.is_some_and(|next| next > cut) {
            lost.push(
                "what was committed together with messages may be there in part: files hold more of one side".to_owned(),
            );
        }
    } else if !kv.has_manifest() || !survey.lost.is_empty() {
        revision += PASSED_OVER;
    }
    let bus_needs = bus_next.filter(|next| *next < end);
    let kv_needs = kv_next.filter(|next| !writes_kv && *next < end);
    let oldest = examined
        .records
        .first()
        .map_or(end, |(sequence, _)| *sequence);
    let needs = [bus_needs, kv_needs].into_iter().flatten().min();
    let next = end
        .max(bus_next.unwrap_or(1))
        .max(if writes_kv { 1 } else { kv_next.unwrap_or(1) });
    Ok(Plan {
        head,
        survey,
        writes_kv,
        first: needs.map_or(next, |first| first.max(oldest)),
        next,
        revision,
        last_lease,
        lost,
    })
}

fn write(
    examined: &Examined,
    plan: &mut Plan,
    target: &Path,
    options: &StoreOptions,
) -> Result<()> {
    let Examined {
        kv, bus, storage, ..
    } = examined;
    fs::create_dir(target).map_err(|cause| failed("making", target, cause))?;
    if plan.writes_kv {
        let left_out = kv.write(
            &plan.head,
            &Target {
                folder: target,
                next: plan.next,
                revision: plan.revision,
                last_lease: plan.last_lease,
                keys: plan.survey.keys,
            },
        )?;
        if left_out > 0 {
            plan.survey.keys -= left_out;
            plan.lost.push(format!("{left_out} keys that went with leases, and the leases: they say who is alive, and that is found out anew"));
        }
    } else {
        link(&examined.folder.join("kv"), &target.join("kv"), &kv.names())?;
        kv.set_format(target)?;
    }
    if let Some(bus) = bus {
        let folder = target.join("bus");
        fs::create_dir(&folder).map_err(|cause| failed("making", &folder, cause))?;
        let parts = examined.bus_parts()?;
        let parts: Vec<&Bytes> = parts.iter().map(|(_, part)| part).collect();
        plan.lost.extend(bus.write(&folder, plan.next, &parts)?);
    }
    let records = examined.records.iter();
    let mut records: Vec<Bytes> = records
        .filter(|(sequence, _)| (plan.first..plan.next).contains(sequence))
        .map(|(_, payload)| payload.clone())
        .collect();
    if records.is_empty() && plan.next > 1 {
        // A log without a record would count from 1 again.
        plan.first = plan.next - 1;
        records.push(record::begin().into());
    }
    let folder = target.join("log");
    log::write_log(
        storage,
        &folder,
        &options.kv.of_log(),
        plan.first,
        records.into_iter(),
    )?;
    sync(storage, target)
}

/// Opens the new store once, as a node would.
fn prove(has_bus: bool, target: &Path, options: &StoreOptions) -> Result<()> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|cause| failed("opening", target, cause))?;
        let options = options.clone();
        if has_bus {
            let store = Store::open(target, Clock::system(), options)?;
            runtime.block_on(store.close());
            Ok(())
        } else {
            let kv = EmbeddedKv::open(target, Clock::system(), options.kv)?;
            runtime.block_on(kv.close())
        }
    };
    // On a thread of its own: whoever calls may be within a runtime.
    let proved = thread::scope(|scope| scope.spawn(run).join());
    proved.unwrap_or_else(|_| {
        let cause = io::Error::other("a thread broke off");
        Err(failed("opening", target, cause))
    })
}

/// Files that never change are shared with the damaged store, where the file system can.
fn link(from: &Path, to: &Path, names: &[String]) -> Result<()> {
    fs::create_dir(to).map_err(|cause| failed("making", to, cause))?;
    for name in names {
        let (from, to) = (from.join(name), to.join(name));
        let linked = fs::hard_link(&from, &to);
        let made =
            linked.or_else(|_| fs::copy(&from, &to).and_then(|_| fs::File::open(&to)?.sync_all()));
        made.map_err(|cause| failed("copying", &from, cause))?;
    }
    fs::File::open(to)
        .and_then(|folder| folder.sync_all())
        .map_err(|cause| failed("syncing", to, cause))
}

fn sync(storage: &Arc<dyn Storage>, folder: &Path) -> Result<()> {
    storage
        .sync_dir(folder)
        .map_err(|cause| failed("syncing", folder, cause))
}

/// Gives the repaired store the name of the damaged one; answers the name that this one gets.
fn exchange(folder: &Path, repaired: &Path) -> Result<PathBuf> {
    let free = (1..1000)
        .map(|nth| beside(folder, &format!(".damaged-{nth}")))
        .find(|path| !path.exists());
    let kept = free.ok_or_else(|| {
        let cause = io::Error::from(io::ErrorKind::AlreadyExists);
        failed("naming", folder, cause)
    })?;
    let renaming = |cause| failed("renaming", folder, cause);
    // In one step: a node that starts at the wrong moment must not find nothing, and begin anew.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        let flags = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, repaired, AT_FDCWD, folder, flags)
            .map_err(|errno| renaming(errno.into()))?;
        fs::rename(repaired, &kept).map_err(renaming)?;
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        fs::rename(folder, &kept).map_err(renaming)?;
        fs::rename(repaired, folder).map_err(renaming)?;
    }
    if let Some(parent) = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        let synced = fs::File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|cause| failed("syncing", parent, cause))?;
    }
    Ok(kept)
}

/// What a repair has left that did not come to its end.
fn remove_broken_off(target: &Path) -> Result<()> {
    match fs::remove_dir_all(target) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing", target, cause))
        }
        _ => Ok(()),
    }
}

fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    folder.with_file_name(name)
}
