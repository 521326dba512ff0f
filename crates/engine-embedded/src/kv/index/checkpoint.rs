//! The thread that writes frozen layers as runs, and merges runs into larger ones.

mod merge;

use std::{
    any::Any,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use sinew_core::Kind;
use sinew_engine::kv::Span;

use super::{
    Frozen, Index, Layer, Opened, Progress, Sources, State, Stored, View,
    failure::{StoreError, damaged},
    history::{self, HistoryFile},
    manifest::{self, Manifest},
    retained::Retained,
    run::{self, PageBudget, Run, RunWriter},
    source::Source,
};
use crate::{
    journal::Hold,
    kv::{
        Options,
        change::{self, Commit, Operation},
        leased::Leased,
        options::SyncFailure,
        unavailable,
    },
    storage::Storage,
};

/// After a failure, the time until the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody still reads what is not needed any more.
const LOOK: Duration = Duration::from_millis(100);

/// The handle of the thread. Dropping it waits until the thread has ended.
pub(super) struct Checkpointer {
    bell: Arc<Bell>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    again: bool,
    ends: bool,
}

/// Opens the files that the manifest names, and starts the thread.
pub(super) fn open(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    options: &Options,
    hold: Hold,
) -> Stored<Opened> {
    let Some((manifest, leased)) = manifest::read(&**storage, folder)? else {
        return Err(damaged(
            &folder.join(manifest::NAME),
            0,
            "the manifest is missing",
        ));
    };
    remove_strangers(&**storage, folder, &manifest)?;
    let budget = Arc::new(PageBudget::new(options.cache_bytes));
    let runs = manifest
        .runs
        .iter()
        .map(|number| Run::open(storage, folder, *number, &budget).map(Arc::new));
    let runs = runs.collect::<Stored<Vec<_>>>()?;
    let history = manifest
        .history
        .iter()
        .map(|number| HistoryFile::open(storage, folder, *number).map(Arc::new));
    let history = history.collect::<Stored<Vec<_>>>()?;
    let sizes = history
        .iter()
        .flat_map(|file| file.sizes(manifest.floor))
        .collect();
    let state = Arc::new(State {
        view: parking_lot::RwLock::new(View {
            revision: manifest.revision,
            floor: manifest.floor,
            sources: Arc::new(Sources {
                active: Arc::new(Layer::new(options.layer_bytes, manifest.revision)),
                frozen: Vec::new(),
                runs,
                history,
            }),
        }),
        layer_bytes: options.layer_bytes,
        pages: Arc::clone(&budget),
        progress: tokio::sync::watch::Sender::default(),
    });
    let opened = (
        manifest.next,
        manifest.revision,
        manifest.floor,
        manifest.last_lease,
        leased.clone(),
    );
    let bell = Arc::new(Bell::default());
    let work = Work {
        bell: Arc::clone(&bell),
        state: Arc::clone(&state),
        storage: Arc::clone(storage),
        folder: folder.to_owned(),
        next_file: manifest.next_file,
        manifest,
        leased,
        hold,
        budget,
        sync_failure: options.sync_failure.clone(),
        retired: Vec::new(),
    };
    let thread = thread::Builder::new()
        .name("kv-checkpoint".to_owned())
        .spawn(move || work.run())
        .map_err(|error| {
            StoreError(unavailable("the checkpoint thread could not start").with_source(error))
        })?;
    let checkpointer = Checkpointer {
        bell,
        thread: Some(thread),
    };
    let (next, revision, floor, last_lease, leased) = opened;
    Ok(Opened {
        index: Index {
            state,
            checkpointer,
        },
        next,
        revision,
        floor,
        last_lease,
        leased,
        sizes,
    })
}

/// Removes what a crash has left: files that were not finished, or not needed any more.
fn remove_strangers(storage: &dyn Storage, folder: &Path, manifest: &Manifest) -> Stored<()> {
    let runs = manifest.runs.iter().map(|number| run::file_name(*number));
    let history = manifest.history.iter().map(|n| history::file_name(*n));
    let known: Vec<String> = runs.chain(history).collect();
    for name in storage.list(folder)? {
        if name != manifest::NAME && !known.contains(&name) {
            storage.remove(&folder.join(name))?;
        }
    }
    Ok(())
}

impl Checkpointer {
    /// There may be something to do.
    pub(super) fn wake(&self) {
        self.bell.rung.lock().again = true;
        self.bell.changed.notify_all();
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.bell.rung.lock().ends = true;
        self.bell.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Bell {
    fn ends(&self) -> bool {
        self.rung.lock().ends
    }

    /// Waits until there may be something to do; tells whether to go on.
    fn wait(&self, time: Duration) -> bool {
        let mut rung = self.rung.lock();
        if !rung.again && !rung.ends {
            self.changed.wait_for(&mut rung, time);
        }
        rung.again = false;
        !rung.ends
    }
}

/// A layer or a file that is not part of the store any more.
type Retired = Arc<dyn Any + Send + Sync>;

/// What is there before, and not after.
fn retired<'a, T: Any + Send + Sync>(
    before: &'a [Arc<T>],
    after: &'a [Arc<T>],
) -> impl Iterator<Item = Retired> {
    let is_gone = |one: &&Arc<T>| !after.iter().any(|other| Arc::ptr_eq(one, other));
    before
        .iter()
        .filter(is_gone)
        .map(|one| Arc::clone(one) as Retired)
}

/// What the thread works with.
struct Work {
    bell: Arc<Bell>,
    state: Arc<State>,
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    /// As it is on the disk.
    manifest: Manifest,
    /// The leases at its revision.
    leased: Leased,
    /// No name is used twice, whatever became of the file.
    next_file: u64,
    hold: Hold,
    budget: Arc<PageBudget>,
    sync_failure: SyncFailure,
    /// What is not part of the store any more, as long as somebody reads it.
    retired: Vec<Retired>,
}

/// Whether a merge came to its end.
#[derive(PartialEq, Eq)]
enum Merging {
    Done,
    /// The store is closed.
    GivenUp,
}

impl Work {
    fn run(mut self) {
        let mut pause = Duration::ZERO;
        loop {
            let wait = if !pause.is_zero() {
                pause
            } else if !self.retired.is_empty() {
                LOOK
            } else {
                // Only a belt: whoever freezes a layer rings.
                Duration::from_secs(60)
            };
            if !self.bell.wait(wait) {
                return;
            }
            self.let_go();
            pause = match self.work_off(None) {
                Ok(_) => {
                    self.tell(Progress::Well);
                    Duration::ZERO
                }
                Err(StoreError(error)) => {
                    tracing::warn!(
                        error = error.detail(),
                        "a checkpoint failed; it is tried again"
                    );
                    self.tell(match error.kind() {
                        Kind::ResourceExhausted => Progress::Full,
                        _ => Progress::Failed,
                    });
                    RETRY
                }
            };
        }
    }

    fn tell(&self, progress: Progress) {
        self.state.progress.send_replace(progress);
    }

    /// Writes the frozen layers and merges what is to be merged, of the runs that are newer than
    /// `limit`.
    fn work_off(&mut self, limit: Option<u64>) -> Stored<Merging> {
        loop {
            if self.bell.ends() {
                return Ok(Merging::GivenUp);
            }
            self.let_go();
            let frozen = self.state.view.read().sources.frozen.last().cloned();
            if let Some(frozen) = frozen {
                self.checkpoint(&frozen)?;
                self.tell(Progress::Well);
                continue;
            }
            match self.pick(limit) {
                Some(runs) if self.merge(&runs)? == Merging::Done => self.tell(Progress::Well),
                Some(_) => return Ok(Merging::GivenUp),
                None => return Ok(Merging::Done),
            }
        }
    }

    fn new_file(&mut self) -> u64 {
        self.next_file += 1;
        self.next_file
    }

    /// Writes the oldest frozen layer. Then the log may let go of it.
    fn checkpoint(&mut self, frozen: &Frozen) -> Stored<()> {
        let floor = self.state.view.read().floor;
        let layer = &frozen.layer;
        let mut manifest = Manifest {
            next: frozen.next,
            revision: frozen.revision,
            floor: floor.min(frozen.revision),
            last_lease: frozen.last_lease,
            ..self.manifest.clone()
        };

        let number = self.new_file();
        let mut writer = RunWriter::new(&*self.storage, &self.folder, number, layer.count())?;
        let mut retained = Retained::new(floor, manifest.runs.is_empty());
        let everything = Span::all();
        let mut versions = layer.source(&everything);
        while let Some(key) = versions.key() {
            let (revision, value) = (versions.revision(), versions.value());
            if retained.keeps(key, revision, value.is_none()) {
                writer.add(key, revision, value)?;
            }
            versions.advance()?;
        }
        drop(versions);
        let mut new_run = None;
        if writer.is_empty() {
            self.storage
                .remove(&self.folder.join(run::file_name(number)))?;
        } else {
            writer.finish()?;
            new_run = Some(self.open_run(number)?);
            manifest.runs.insert(0, number);
        }

        let mut new_history = None;
        if floor < frozen.revision {
            let number = self.new_file();
            let before = floor.max(layer.before);
            let commits = self.commits(frozen).filter(|commit| {
                let is_kept = |commit: &Commit| commit.revision > before;
                commit.as_ref().map_or(true, is_kept)
            });
            history::write(&*self.storage, &self.folder, number, before, commits)?;
            new_history = Some(HistoryFile::open(&self.storage, &self.folder, number)?);
            manifest.history.push(number);
        }
        for part in layer.parts() {
            for operation in change::operations(&part.bytes) {
                self.leased.apply(&operation?)?;
            }
        }
        let history = self.state.view.read().sources.history.clone();
        let (old, mut kept): (Vec<_>, Vec<_>) = history
            .into_iter()
            .partition(|file| file.last() <= manifest.floor);
        manifest
            .history
            .retain(|number| old.iter().all(|file| file.number != *number));
        kept.extend(new_history.map(Arc::new));

        let next = manifest.next;
        self.write_manifest(manifest)?;
        for file in old {
            file.make_obsolete();
        }
        self.change_sources(|sources| {
            sources.frozen.pop();
            sources.runs.splice(0..0, new_run);
            sources.history = kept;
        });
        self.hold.let_go(next).map_err(StoreError)
    }

    fn commits(&self, frozen: &Frozen) -> impl Iterator<Item = Stored<Commit>> + use<> {
        let parts = frozen.layer.parts().into_iter();
        parts.flat_map(|part| {
            let commits = change::operations(&part.bytes).filter_map(|operation| match operation {
                Ok(Operation::Commit(commit)) => Some(Ok(commit)),
                Ok(_) => None,
                Err(malformed) => Some(Err(malformed.into())),
            });
            commits.collect::<Vec<_>>()
        })
    }

    fn open_run(&self, number: u64) -> Stored<Arc<Run>> {
        Run::open(&self.storage, &self.folder, number, &self.budget).map(Arc::new)
    }

    fn write_manifest(&mut self, mut manifest: Manifest) -> Stored<()> {
        manifest.next_file = self.next_file;
        manifest::write(
            &*self.storage,
            &self.folder,
            &manifest,
            &self.leased,
            &self.sync_failure,
        )?;
        self.manifest = manifest;
        Ok(())
    }

    fn change_sources(&mut self, change: impl FnOnce(&mut Sources)) {
        let mut view = self.state.view.write();
        let mut sources = Sources {
            active: Arc::clone(&view.sources.active),
            frozen: view.sources.frozen.clone(),
            runs: view.sources.runs.clone(),
            history: view.sources.history.clone(),
        };
        change(&mut sources);
        let before = &view.sources;
        self.retired
            .extend(retired(&before.frozen, &sources.frozen));
        self.retired.extend(retired(&before.runs, &sources.runs));
        self.retired
            .extend(retired(&before.history, &sources.history));
        view.sources = Arc::new(sources);
        drop(view);
        self.let_go();
    }

    /// A large layer takes a moment to go, and a large file some more. So this thread is the last to
    /// have them: neither a reader nor the commit thread finds itself letting go.
    fn let_go(&mut self) {
        // Nobody can get at these but through one who has them already.
        self.retired.retain(|one| Arc::strong_count(one) > 1);
    }
}
