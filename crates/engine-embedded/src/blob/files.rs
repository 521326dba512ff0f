//! The content files: their names, who still reads them, and what a crash left of them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use sinew_core::Result;

use super::{fault, index::Index};
use crate::storage::{File, Storage};

/// Names a content file. Never used twice in a store: each run of the store has a number, and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileId {
    pub(super) run: u64,
    pub(super) number: u64,
}

impl FileId {
    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.to_u128().to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        let low = |number: u128| u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
        Self {
            run: low(both >> 64),
            number: low(both),
        }
    }

    pub(super) fn to_u128(self) -> u128 {
        u128::from(self.run) << 64 | u128::from(self.number)
    }

    fn parse(name: &str) -> Option<Self> {
        let bytes = (name.len() == 32).then(|| u128::from_str_radix(name, 16).ok())??;
        Some(Self::from_bytes(bytes.to_be_bytes()))
    }
}

/// 32 hexadecimal digits in lower case, ordered as the ids are.
impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.run, self.number)
    }
}

/// Where things are in the store's folder.
pub(super) struct Layout {
    folder: PathBuf,
}

/// Folders under `objects`.
const SPREAD: u64 = 16;

impl Layout {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.folder.join("staging")
    }

    fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    pub(super) fn object_folders(&self) -> impl Iterator<Item = PathBuf> {
        (0..SPREAD).map(|number| self.objects().join(format!("{number:x}")))
    }

    fn object_folder(&self, file: FileId) -> PathBuf {
        self.objects().join(format!("{:x}", file.number % SPREAD))
    }

    pub(super) fn object(&self, file: FileId) -> PathBuf {
        self.object_folder(file).join(file.to_string())
    }

    /// The path of a content file, under the store's folder.
    pub(super) fn name(&self, file: FileId) -> String {
        let path = self.object(file);
        path.strip_prefix(&self.folder)
            .unwrap_or(&path)
            .display()
            .to_string()
    }

    /// Makes the folders, durably.
    pub(super) fn create(&self, storage: &dyn Storage) -> std::io::Result<()> {
        for folder in self.object_folders().chain([self.staging()]) {
            storage.create_dir(&folder)?;
        }
        storage.sync_dir(&self.objects())?;
        storage.sync_dir(&self.folder)?;
        match self.folder.parent() {
            Some(parent) if parent != Path::new("") => storage.sync_dir(parent),
            _ => Ok(()),
        }
    }
}

pub(super) struct Files {
    storage: Arc<dyn Storage>,
    pub(super) layout: Layout,
    run: u64,
    numbers: AtomicU64,
    readers: Mutex<Readers>,
    /// Whether files may be left that the next run must look for.
    untidy: AtomicBool,
}

#[derive(Default)]
struct Readers {
    /// How many downloads read a file.
    pinned: HashMap<FileId, usize>,
    /// Files that no entry names any more but somebody reads.
    condemned: HashSet<FileId>,
}

impl Files {
    pub(super) fn new(storage: Arc<dyn Storage>, layout: Layout, run: u64) -> Self {
        Self {
            storage,
            layout,
            run,
            numbers: AtomicU64::new(0),
            readers: Mutex::default(),
            untidy: AtomicBool::new(false),
        }
    }

    /// An id that nothing has had.
    pub(super) fn next_id(&self) -> FileId {
        FileId {
            run: self.run,
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(super) fn open(&self, file: FileId) -> std::io::Result<Arc<dyn File>> {
        self.storage.open(&self.layout.object(file))
    }

    /// A new file to write a content to.
    pub(super) fn stage(self: &Arc<Self>) -> Result<Staged> {
        let id = self.next_id();
        let path = self.layout.staging().join(id.to_string());
        let file = self.storage.create(&path).map_err(fault::disk)?;
        Ok(Staged {
            files: self.clone(),
            id,
            path,
            file,
            is_kept: false,
        })
    }

    /// Keeps files from being removed while the answer lives.
    pub(super) fn pin(self: &Arc<Self>, files: impl Iterator<Item = FileId>) -> Pins {
        let pinned: Vec<FileId> = files.collect();
        let mut readers = self.readers.lock();
        for file in &pinned {
            *readers.pinned.entry(*file).or_default() += 1;
        }
        Pins {
            files: self.clone(),
            pinned,
        }
    }

    /// Removes files that no entry names any more, at once or when their last reader is done.
    pub(super) fn release(&self, freed: Vec<FileId>) {
        for file in freed {
            let mut readers = self.readers.lock();
            if readers.pinned.contains_key(&file) {
                readers.condemned.insert(file);
            } else {
                drop(readers);
                self.remove(file);
            }
        }
    }

    /// Makes it durable that what was removed is gone; tells whether all that should be gone is.
    pub(super) fn settle(&self) -> Result<bool> {
        if !self.readers.lock().condemned.is_empty() || self.untidy.load(Ordering::Acquire) {
            return Ok(false);
        }
        for folder in self.layout.object_folders() {
            self.storage.sync_dir(&folder).map_err(fault::disk)?;
        }
        Ok(true)
    }

    /// Lets the next run look for files that nothing names.
    pub(super) fn leave_untidy(&self) {
        self.untidy.store(true, Ordering::Release);
    }

    fn remove(&self, file: FileId) {
        if let Err(error) = self.storage.remove(&self.layout.object(file)) {
            self.leave_untidy();
            tracing::warn!(%error, %file, "a content file that nothing needs cannot be removed");
        }
    }

    pub(super) fn clear_staging(&self) -> Result<()> {
        let staging = self.layout.staging();
        for name in self.storage.list(&staging).map_err(fault::disk)? {
            self.storage
                .remove(&staging.join(name))
                .map_err(fault::disk)?;
        }
        Ok(())
    }

    /// Removes the files of earlier runs that no entry names.
    pub(super) fn remove_orphans(&self, index: &Index) -> Result<()> {
        let mut removed = 0_u64;
        for folder in self.layout.object_folders() {
            let names = self.storage.list(&folder).map_err(fault::disk)?;
            let ids = names
                .iter()
                .filter_map(|name| FileId::parse(name))
                .collect();
            for orphan in index.without_entry(ids)? {
                self.storage
                    .remove(&folder.join(orphan.to_string()))
                    .map_err(fault::disk)?;
                removed += 1;
            }
        }
        if removed > 0 {
            tracing::info!(
                removed,
                "removed content files that a crash had left without an entry"
            );
        }
        Ok(())
    }
}

/// A content that is being written. Dropping it removes it, unless it was kept.
pub(super) struct Staged {
    files: Arc<Files>,
    id: FileId,
    path: PathBuf,
    pub(super) file: Arc<dyn File>,
    is_kept: bool,
}

impl Staged {
    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// Makes the content durable, and visible under its lasting name.
    pub(super) fn publish(&mut self) -> Result<()> {
        let (storage, layout) = (&self.files.storage, &self.files.layout);
        self.file.sync_data().map_err(fault::disk)?;
        let path = layout.object(self.id);
        storage.rename(&self.path, &path).map_err(fault::disk)?;
        self.path = path;
        storage
            .sync_dir(&layout.object_folder(self.id))
            .map_err(fault::disk)
    }

    /// An entry names the file now.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (files, path) = (self.files.clone(), std::mem::take(&mut self.path));
        // It may still be on its way when the store is closed.
        files.leave_untidy();
        run_aside(move || {
            if let Err(error) = files.storage.remove(&path) {
                tracing::warn!(%error, path = %path.display(), "an unfinished content cannot be removed");
            }
        });
    }
}

/// Keeps files that somebody reads.
pub(super) struct Pins {
    files: Arc<Files>,
    pinned: Vec<FileId>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut free = Vec::new();
        let mut readers = self.files.readers.lock();
        for file in self.pinned.drain(..) {
            let Some(count) = readers.pinned.get_mut(&file) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                readers.pinned.remove(&file);
                if readers.condemned.remove(&file) {
                    free.push(file);
                }
            }
        }
        drop(readers);
        if !free.is_empty() {
            let files = self.files.clone();
            files.leave_untidy();
            run_aside(move || free.into_iter().for_each(|file| files.remove(file)));
        }
    }
}

/// Removing a large file takes its time: not on a thread that serves others, if there is another.
fn run_aside(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}
