//! Reading a store of keys that may be damaged, from its files and from parts of the log, and
//! writing what was read as a new one. Nothing here changes the files that are read.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use sinew_core::{Error, Kind};
use sinew_engine::kv::{LeaseId, Revision, Span};

use super::{
    FOLDER, Stored,
    failure::{StoreError, damaged},
    history::{self, HistoryFile},
    layer::Layer,
    manifest::{self, Manifest},
    run::{self, Notes, PageBudget, Run, RunWriter, Through},
    source::{Merged, Source},
    upgrade,
};
use crate::{
    damage::Damage,
    kv::{
        SyncFailure,
        change::{self, Commit, Operation},
        leased::Leased,
    },
    log::Sequence,
    storage::{Storage, to_usize},
};

/// What can be read of a store's files.
pub(crate) struct Salvage {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    manifest: Option<Manifest>,
    leased: Leased,
    /// The newest first, when there is a manifest.
    runs: Vec<Found>,
    history: Vec<HistoryFile>,
    /// What keeps the store from being opened, or read.
    damage: Vec<Damage>,
    history_is_whole: bool,
    has_format: bool,
}

/// A file of the manifest.
struct Found {
    number: u64,
    run: Option<Arc<Run>>,
    bytes: u64,
}

/// The numbers of a store, and the part of it that is only in the log.
pub(crate) struct Head {
    pub(crate) revision: Revision,
    pub(crate) floor: Revision,
    pub(crate) last_lease: u64,
    pub(crate) leases: usize,
    leased: Leased,
    layer: Layer,
    /// The first commit that does not follow on what is known, if there is one.
    pub(crate) missing: Option<(Revision, Revision)>,
}

/// What a walk over all keys found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) keys: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    /// Versions of keys in files.
    pub(crate) versions: u64,
    pub(crate) damage: Vec<Damage>,
    /// The runs that are damaged and hold what nothing else does.
    pub(crate) lost: Vec<PathBuf>,
}

/// A file of the store.
pub(crate) struct FileState {
    pub(crate) file: PathBuf,
    pub(crate) bytes: u64,
}

/// A key as it is.
pub(crate) struct Current<'v> {
    pub(crate) key: &'v [u8],
    pub(crate) revision: Revision,
    pub(crate) value: &'v [u8],
    pub(crate) lease: Option<LeaseId>,
}

/// What a new store is to be.
pub(crate) struct Target<'t> {
    pub(crate) folder: &'t Path,
    /// The log's first record that it does not hold.
    pub(crate) next: Sequence,
    pub(crate) revision: Revision,
    pub(crate) last_lease: u64,
    pub(crate) keys: u64,
}

impl Salvage {
    /// Reads what leads to the data of the store in `dir`. `kv.format_newer` (FailedPrecondition),
    /// and `repair.format` when it has an older format, which opening it brings to today's.
    pub(crate) fn open(storage: &Arc<dyn Storage>, dir: &Path) -> Result<Self, Error> {
        Self::open_inner(storage, dir).map_err(|StoreError(error)| error)
    }

    fn open_inner(storage: &Arc<dyn Storage>, dir: &Path) -> Stored<Self> {
        let mut damage = Vec::new();
        match upgrade::format(&**storage, dir) {
            Ok(Some(upgrade::FORMAT)) => {}
            Ok(Some(newer)) if newer > upgrade::FORMAT => return Err(upgrade::newer(newer)),
            Ok(Some(_)) => {
                return Err(StoreError(Error::new(
                    Kind::FailedPrecondition,
                    "repair.format",
                    "the store has an older format: open it once with `sinew serve`, which brings it \
                     to today's, and try again",
                )));
            }
            Ok(None) => damage.push(place(&damaged(
                &dir.join("format"),
                0,
                "the file is missing",
            ))),
            Err(error) => damage.push(place(&error)),
        }
        let has_format = damage.is_empty();
        let folder = dir.join(FOLDER);
        let (manifest, leased) = match manifest::read(&**storage, &folder) {
            Ok(Some((manifest, leased))) => (Some(manifest), leased),
            Ok(None) => {
                let path = folder.join(manifest::NAME);
                damage.push(place(&damaged(&path, 0, "the manifest is missing")));
                (None, Leased::default())
            }
            Err(error) if is_damage(&error) => {
                damage.push(place(&error));
                (None, Leased::default())
            }
            Err(error) => return Err(error),
        };
        let numbers = |suffix: &str| -> Vec<u64> {
            let names = storage.list(&folder).unwrap_or_default();
            let numbers = names.iter().filter_map(|name| name.strip_suffix(suffix));
            let mut numbers: Vec<u64> = numbers.filter_map(|name| name.parse().ok()).collect();
            numbers.sort_unstable();
            numbers
        };
        let (runs, histories) = match &manifest {
            Some(manifest) => (manifest.runs.clone(), manifest.history.clone()),
            None => (numbers(".run"), numbers(".history")),
        };
        let mut salvage = Self {
            storage: Arc::clone(storage),
            folder,
            manifest,
            leased,
            runs: Vec::new(),
            history: Vec::new(),
            damage,
            history_is_whole: true,
            has_format,
        };
        salvage.open_runs(&runs)?;
        salvage.open_history(&histories)?;
        Ok(salvage)
    }

    fn open_runs(&mut self, numbers: &[u64]) -> Stored<()> {
        let budget = Arc::new(PageBudget::new(0));
        for number in numbers.iter().copied() {
            let path = self.folder.join(run::file_name(number));
            let bytes = self.storage.open(&path).and_then(|file| file.len());
            let opened = Run::open_without_filter(&self.storage, &self.folder, number, &budget);
            let run = match opened {
                Ok((run, broken_filter)) => {
                    if let Some(at) = broken_filter {
                        let what = "the filter does not match its checksum";
                        self.damage.push(place(&damaged(&path, at, what)));
                    }
                    Some(Arc::new(run))
                }
                Err(error) if is_damage(&error) => {
                    self.damage.push(place(&error));
                    None
                }
                Err(error) => return Err(error),
            };
            self.runs.push(Found {
                number,
                run,
                bytes: bytes.unwrap_or_default(),
            });
        }
        Ok(())
    }

    /// Opens the files of the history, and reads all of it.
    fn open_history(&mut self, numbers: &[u64]) -> Stored<()> {
        for number in numbers {
            let opened = HistoryFile::open(&self.storage, &self.folder, *number);
            let checked = opened.and_then(|file| {
                let mut after = file.before;
                while after < file.last() {
                    let mut commits = Vec::new();
                    file.read(after, 256, &mut commits)?;
                    after = commits.last().map_or(file.last(), |commit| commit.revision);
                }
                Ok(file)
            });
            match checked {
                Ok(file) => self.history.push(file),
                Err(error) if is_damage(&error) => {
                    self.damage.push(place(&error));
                    self.history_is_whole = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The log's first record that the files do not hold; nothing when nobody knows.
    pub(crate) fn next(&self) -> Option<Sequence> {
        Some(self.manifest.as_ref()?.next)
    }

    /// The version of the format, when it can be read: others are refused.
    pub(crate) fn format(&self) -> Option<u64> {
        self.has_format.then_some(upgrade::FORMAT)
    }

    pub(crate) fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }

    /// What keeps the store from being opened. [`Salvage::survey`] finds the rest.
    pub(crate) fn damage(&self) -> &[Damage] {
        &self.damage
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = FileState> {
        let runs = self.runs.iter().map(|found| FileState {
            file: self.folder.join(run::file_name(found.number)),
            bytes: found.bytes,
        });
        let history = self.history.iter().map(|file| FileState {
            file: file.path.clone(),
            bytes: file.bytes,
        });
        runs.chain(history)
    }

    /// The store's numbers with the parts of the log's records that the files do not hold, in order.
    pub(crate) fn head<'p>(
        &self,
        parts: impl Iterator<Item = (Sequence, &'p Bytes)>,
    ) -> Result<Head, Error> {
        self.head_inner(parts).map_err(|StoreError(error)| error)
    }

    fn head_inner<'p>(&self, parts: impl Iterator<Item = (Sequence, &'p Bytes)>) -> Stored<Head> {
        let known = match &self.manifest {
            Some(manifest) => manifest.clone(),
            None => self.guess(),
        };
        let mut head = Head {
            revision: known.revision,
            floor: known.floor,
            last_lease: known.last_lease,
            leases: 0,
            leased: self.leased.clone(),
            layer: Layer::new(1 << 20, known.revision),
            missing: None,
        };
        for (sequence, part) in parts {
            if self.next().is_none_or(|next| next <= sequence) {
                head.add(part)?;
            }
        }
        head.leases = head.leased.ttls.len();
        Ok(head)
    }

    /// What the manifest said about revisions, from the files themselves.
    fn guess(&self) -> Manifest {
        let notes = RefCell::default();
        let mut last_lease = 0;
        for run in self.runs.iter().filter_map(|found| found.run.as_ref()) {
            let mut through = Through::new(run, &notes);
            while through.key().is_some() {
                let lease = through.value().and_then(|(_, lease)| lease);
                last_lease = last_lease.max(lease.map_or(0, |lease| lease.0));
                // It cannot fail: it passes over what it cannot read.
                let _ = through.advance();
            }
        }
        let history = self.history.iter().map(HistoryFile::last).max();
        let revision = notes.borrow().newest.max(history.unwrap_or_default());
        Manifest {
            revision,
            floor: revision,
            last_lease,
            ..Manifest::default()
        }
    }

    /// Visits all keys as they are, in order; what cannot be read is in the answer. The history,
    /// which may have what a damaged run has lost, is asked too when that is wanted.
    pub(crate) fn survey(
        &self,
        head: &Head,
        with_history: bool,
        mut visit: impl FnMut(Current<'_>) -> Result<(), Error>,
    ) -> Result<Survey, Error> {
        let mut visit = |current: Current<'_>| visit(current).map_err(StoreError);
        let surveyed = self.survey_inner(head, with_history, &mut visit);
        surveyed.map_err(|StoreError(error)| error)
    }

    fn survey_inner(
        &self,
        head: &Head,
        with_history: bool,
        visit: &mut dyn FnMut(Current<'_>) -> Stored<()>,
    ) -> Stored<Survey> {
        let notes: Vec<RefCell<Notes>> = self.runs.iter().map(|_| RefCell::default()).collect();
        let mut survey = Survey::default();
        let history = with_history.then(|| self.history_layer()).transpose()?;
        {
            let everything = Span::all();
            let mut sources: Vec<Box<dyn Source + '_>> =
                vec![Box::new(head.layer.source(&everything))];
            sources.extend(
                history
                    .iter()
                    .map(|layer| Box::new(layer.source(&everything)) as Box<dyn Source + '_>),
            );
            for (found, notes) in self.runs.iter().zip(&notes) {
                if let Some(run) = &found.run {
                    sources.push(Box::new(Through::new(run, notes)));
                }
            }
            let mut versions = Merged::new(sources);
            let mut last = Vec::new();
            while let Some(key) = versions.key() {
                // No key is empty, so the first one is another.
                if versions.revision() <= head.revision && last != key {
                    key.clone_into(&mut last);
                    if let Some((value, lease)) = versions.value() {
                        survey.keys += 1;
                        survey.key_bytes += key.len() as u64;
                        survey.value_bytes += value.len() as u64;
                        visit(Current {
                            key,
                            revision: versions.revision(),
                            value,
                            lease,
                        })?;
                    }
                }
                versions.advance()?;
            }
        }
        let mut older = 0;
        let history_from = self.history_from();
        for (found, notes) in self.runs.iter().zip(&notes).rev() {
            let notes = notes.borrow();
            let is_damaged = found.run.is_none() || !notes.damage.is_empty();
            // All that a run holds is newer than what the older ones hold.
            if is_damaged && history_from.is_none_or(|from| from > older) {
                survey
                    .lost
                    .push(self.folder.join(run::file_name(found.number)));
            }
            older = older.max(notes.newest);
            survey.versions += notes.versions;
            survey.damage.extend(notes.damage.iter().cloned());
        }
        Ok(survey)
    }

    /// The history holds all commits after this one; nothing when a part of it is lost.
    fn history_from(&self) -> Option<Revision> {
        let first = self.history.first()?;
        let is_known = self.history_is_whole && self.manifest.is_some();
        is_known.then_some(first.before)
    }

    fn history_layer(&self) -> Stored<Layer> {
        let layer = Layer::new(1 << 20, 0);
        for file in &self.history {
            let mut after = file.before;
            while after < file.last() {
                let mut commits = Vec::new();
                file.read(after, usize::MAX, &mut commits)?;
                layer.add(after, &Bytes::new(), &commits)?;
                after = commits.last().map_or(file.last(), |commit| commit.revision);
            }
        }
        Ok(layer)
    }

    /// Writes all keys as a new store; answers how many were left out because nobody knows their
    /// lease any more. History is left behind: watchers list again.
    pub(crate) fn write(&self, head: &Head, target: &Target<'_>) -> Result<u64, Error> {
        self.write_inner(head, target)
            .map_err(|StoreError(error)| error)
    }

    fn write_inner(&self, head: &Head, target: &Target<'_>) -> Stored<u64> {
        let folder = target.folder.join(FOLDER);
        self.storage.create_dir(&folder)?;
        self.storage.sync_dir(target.folder)?;
        let keys = to_usize(target.keys);
        let mut writer = RunWriter::new(&*self.storage, &folder, 1, keys)?;
        let mut leased = Leased::default();
        let mut left_out = 0;
        self.survey_inner(head, true, &mut |current| {
            if let Some(LeaseId(lease)) = current.lease {
                if !head.leased.ttls.contains_key(&lease) {
                    left_out += 1;
                    return Ok(());
                }
                leased.attach(&Bytes::copy_from_slice(current.key), Some(lease));
            }
            let value = Some((current.value, current.lease));
            writer.add(current.key, current.revision, value).map(drop)
        })?;
        leased.ttls = head.leased.ttls.clone();
        let mut manifest = Manifest {
            next: target.next,
            revision: target.revision,
            floor: target.revision,
            last_lease: target.last_lease,
            next_file: 1,
            ..Manifest::default()
        };
        if writer.is_empty() {
            self.storage.remove(&folder.join(run::file_name(1)))?;
        } else {
            writer.finish()?;
            manifest.runs = vec![1];
        }
        let sync_failure = SyncFailure::default();
        manifest::write(&*self.storage, &folder, &manifest, &leased, &sync_failure)?;
        upgrade::set(&*self.storage, target.folder)?;
        Ok(left_out)
    }

    /// The files that a store consists of which is as this one, by name.
    pub(crate) fn names(&self) -> Vec<String> {
        let runs = self.runs.iter().map(|found| run::file_name(found.number));
        let history = self
            .history
            .iter()
            .map(|file| history::file_name(file.number));
        runs.chain(history)
            .chain([manifest::NAME.to_owned()])
            .collect()
    }

    /// Says of which format the store in a folder is.
    pub(crate) fn set_format(&self, dir: &Path) -> Result<(), Error> {
        upgrade::set(&*self.storage, dir).map_err(|StoreError(error)| error)
    }
}

impl Head {
    fn add(&mut self, part: &Bytes) -> Stored<()> {
        let before = self.revision;
        let mut commits: Vec<Commit> = Vec::new();
        for operation in change::operations(part) {
            let operation = operation?;
            match &operation {
                Operation::Commit(commit) if commit.revision <= self.revision => continue,
                Operation::Commit(commit) => {
                    if commit.revision > self.revision + 1 {
                        self.missing
                            .get_or_insert((self.revision + 1, commit.revision));
                    }
                    self.revision = commit.revision;
                    commits.push(commit.clone());
                }
                Operation::Granted { lease, .. } => self.last_lease = self.last_lease.max(*lease),
                Operation::Ended { .. } => {}
                Operation::Floor(floor) => self.floor = self.floor.max(*floor),
            }
            self.leased.apply(&operation)?;
        }
        self.layer.add(before, part, &commits)
    }
}

/// The newest revision that a part of a record speaks of.
pub(crate) fn newest_revision(part: &Bytes) -> Revision {
    let operations = change::operations(part).map_while(Result::ok);
    let revisions = operations.filter_map(|operation| match operation {
        Operation::Commit(commit) => Some(commit.revision),
        _ => None,
    });
    revisions.max().unwrap_or_default()
}

fn is_damage(error: &StoreError) -> bool {
    error.0.kind() == Kind::DataLoss
}

fn place(error: &StoreError) -> Damage {
    Damage::of(&error.0)
}
