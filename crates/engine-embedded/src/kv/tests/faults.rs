//! The machine's file system, with faults that a test asks for.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use crate::storage::{File, RealStorage, Storage};

#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Files cannot grow.
    pub(super) full: AtomicBool,
    pub(super) broken_writes: AtomicBool,
    pub(super) broken_reads: AtomicBool,
    /// The n-th fsync from now on fails; none does at 0.
    pub(super) broken_sync: AtomicU32,
}

#[derive(Debug)]
pub(super) struct FaultyStorage(pub(super) Arc<Faults>);

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn File>,
    faults: Arc<Faults>,
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

impl FaultyStorage {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
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

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(RealStorage.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
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

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send>> {
        RealStorage.lock(path)
    }
}

impl File for FaultyFile {
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
