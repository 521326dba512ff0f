use std::{
    fmt,
    fs::File,
    io,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

use crate::{
    kv::options::{Options, SyncFailure},
    storage::{self, RealStorage, Storage},
};

/// The file as redb sees it: every operation passes here, so that a failed fsync is noticed before
/// anybody acts on it, and tests can make the disk fail.
pub(super) struct Disk {
    backend: FileBackend,
    /// The same file, to reserve space in it.
    file: File,
    sync_failure: SyncFailure,
    faults: Arc<Faults>,
}

/// What a test makes the disk do. A real disk needs no help.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The file cannot grow.
    pub(crate) full: AtomicBool,
    pub(crate) broken_writes: AtomicBool,
    pub(crate) broken_reads: AtomicBool,
    /// The n-th fsync from now on fails; none does at 0.
    pub(crate) broken_sync: AtomicU32,
}

impl Disk {
    pub(super) fn new(
        file: File,
        sync_failure: SyncFailure,
        faults: Arc<Faults>,
    ) -> Result<Self, DatabaseError> {
        let backend = FileBackend::new(file.try_clone()?)?;
        Ok(Self {
            backend,
            file,
            sync_failure,
            faults,
        })
    }

    /// Takes the blocks of the file's new end from the disk at once. So a full disk shows here,
    /// where nothing is half written, and never in the middle of writing pages.
    #[cfg(target_os = "linux")]
    fn reserve(&self, from: u64, to: u64) -> io::Result<()> {
        use nix::{
            errno::Errno,
            fcntl::{FallocateFlags, fallocate},
        };
        let offset = |bytes: u64| i64::try_from(bytes).map_err(io::Error::other);
        match fallocate(
            &self.file,
            FallocateFlags::empty(),
            offset(from)?,
            offset(to - from)?,
        ) {
            // Some file systems cannot; the file then grows as it is written.
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn reserve(&self, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }
}

fn fail_if(fault: &AtomicBool) -> io::Result<()> {
    if fault.load(Ordering::Relaxed) {
        return Err(io::Error::other("a fault that a test asked for"));
    }
    Ok(())
}

/// Counts down to zero; tells when it arrives there.
fn countdown(counter: &AtomicU32) -> bool {
    let one_less = |left: u32| left.checked_sub(1);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) == Ok(1)
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        fail_if(&self.faults.broken_reads)?;
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        if len > before {
            if self.faults.full.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.reserve(before, len)?;
        }
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = match countdown(&self.faults.broken_sync) {
            true => Err(io::Error::other("a fault that a test asked for")),
            false => self.backend.sync_data(),
        };
        if let Err(error) = &synced {
            self.sync_failure.react(error);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        fail_if(&self.faults.broken_writes)?;
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}

/// The machine's file system, with the same faults, for the log.
#[derive(Debug)]
pub(super) struct FaultyStorage(pub(super) Arc<Faults>);

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn storage::File>,
    faults: Arc<Faults>,
}

impl FaultyStorage {
    fn wrap(&self, file: Arc<dyn storage::File>) -> Arc<dyn storage::File> {
        Arc::new(FaultyFile {
            file,
            faults: Arc::clone(&self.0),
        })
    }
}

impl Storage for FaultyStorage {
    fn create_dir(&self, folder: &Path) -> io::Result<()> {
        RealStorage.create_dir(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        RealStorage.list(folder)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn storage::File>> {
        Ok(self.wrap(RealStorage.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn storage::File>> {
        Ok(self.wrap(RealStorage.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealStorage.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealStorage.remove(path)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        RealStorage.sync_dir(folder)
    }
}

impl storage::File for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        fail_if(&self.faults.broken_reads)?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        fail_if(&self.faults.broken_writes)?;
        if self.faults.full.load(Ordering::Relaxed) && offset + bytes.len() as u64 > self.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Segments are made ahead by a thread that runs when it likes: it is not counted.
        let is_ahead = thread::current().name() == Some("log-prepare");
        match !is_ahead && countdown(&self.faults.broken_sync) {
            true => Err(io::Error::other("a fault that a test asked for")),
            false => self.file.sync_data(),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// What the log and the small files lie on.
pub(super) fn storage(options: &Options) -> Arc<dyn Storage> {
    #[cfg(test)]
    if let Some(simulated) = &options.simulated {
        return Arc::new(simulated.clone());
    }
    Arc::new(FaultyStorage(Arc::clone(&options.faults)))
}

/// redb's file on a disk that loses power.
#[cfg(test)]
pub(super) struct Simulated {
    file: Arc<dyn storage::File>,
    sync_failure: SyncFailure,
}

#[cfg(test)]
impl Simulated {
    pub(super) fn open(
        disk: &storage::SimulatedStorage,
        path: &Path,
        sync_failure: SyncFailure,
    ) -> io::Result<Self> {
        let file = disk.open(path).or_else(|_| disk.create(path))?;
        Ok(Self { file, sync_failure })
    }
}

#[cfg(test)]
impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulated")
    }
}

#[cfg(test)]
impl StorageBackend for Simulated {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        storage::read_exact_at(&*self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        if let Err(error) = &synced {
            self.sync_failure.react(error);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}
