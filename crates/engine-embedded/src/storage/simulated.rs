//! A disk in memory that loses what POSIX lets a disk lose, by a seed.

mod contents;
mod names;
mod seeded;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

pub(crate) use self::seeded::Seeded;
use self::{contents::Contents, names::Names};
use super::{File, Storage};

/// What a loss of power takes or leaves as a whole.
const SECTOR: usize = 512;

/// What a test lets go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes during the call: what it was to change is on its way like everything else
    /// that was not synced, and every later call fails until [`SimulatedStorage::crash`].
    PowerLoss,
    /// The call fails for want of room (ENOSPC); a write may have written a part.
    NoSpace,
    /// The call fails with an input/output error (EIO); a write may have written a part, and after
    /// a sync any part of what was to be synced may be on the disk, the rest never will be.
    InputOutput,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::PowerLoss => io::Error::other("simulated loss of power"),
            Self::NoSpace => io::Error::from(io::ErrorKind::StorageFull),
            Self::InputOutput => io::Error::other("simulated input/output error"),
        }
    }
}

/// A seeded file system in memory. Clones share it.
///
/// Every call that changes something has a number, from 1; [`SimulatedStorage::fail_at`] makes a
/// given one fail. After [`SimulatedStorage::crash`] a file has, of what was written since its last
/// sync, any of the sectors in any version, an un-synced length may be the old or the new one,
/// sectors that the file grew by may hold bytes of files that were removed, and un-synced changes
/// of folders may be undone, each by itself.
#[derive(Clone, Debug)]
pub struct SimulatedStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug)]
struct Disk {
    random: Seeded,
    names: Names,
    files: BTreeMap<u64, Contents>,
    next_file: u64,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    capacity: Option<u64>,
    has_power: bool,
    /// Sectors of removed files, which may show up where a file grew.
    stale: Vec<Vec<u8>>,
}

/// How much a crash keeps; the extremes are the cases worth seeing most.
#[derive(Clone, Copy, Debug)]
enum Survival {
    Nothing,
    Everything,
    /// What was done before some moment.
    Prefix,
    /// Each piece for itself.
    Mixed,
}

impl Survival {
    fn pick(random: &mut Seeded) -> Self {
        match random.below(5) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Prefix,
            _ => Self::Mixed,
        }
    }
}

impl SimulatedStorage {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self::of(Disk {
            random: Seeded::new(seed),
            names: Names::default(),
            files: BTreeMap::new(),
            next_file: 1,
            operations: 0,
            faults: BTreeMap::new(),
            capacity: None,
            has_power: true,
            stale: Vec::new(),
        })
    }

    fn of(disk: Disk) -> Self {
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// How many changing calls there were.
    pub fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// Lets the changing call with this number fail. The count goes on over crashes.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.disk.lock().faults.insert(operation, fault);
    }

    /// Lets nothing fail that was planned to.
    pub fn forget_faults(&self) {
        self.disk.lock().faults.clear();
    }

    /// Sets the size of the disk: what would make the files longer in sum gets [`Fault::NoSpace`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity = bytes;
    }

    /// The bytes that all files have now.
    pub fn used(&self) -> u64 {
        self.disk.lock().used()
    }

    /// The disk as it is found after a loss of power now (or when the planned one came). This
    /// handle and all its files are dead afterwards.
    pub fn crash(&self) -> Self {
        let mut disk = self.take();
        let Disk {
            random,
            files,
            stale,
            names,
            ..
        } = &mut disk;
        for contents in files.values_mut() {
            contents.lose_power(random, stale);
        }
        names.lose_power(random);
        disk.drop_nameless();
        Self::of(disk)
    }

    /// The disk as it is found after the process was killed: nothing that was written is missing,
    /// and nothing that was not synced is safe yet. This handle is dead afterwards.
    pub fn kill(&self) -> Self {
        let mut disk = self.take();
        disk.drop_nameless();
        Self::of(disk)
    }

    fn take(&self) -> Disk {
        let mut disk = self.disk.lock();
        disk.has_power = false;
        Disk {
            random: disk.random.clone(),
            names: std::mem::take(&mut disk.names),
            files: std::mem::take(&mut disk.files),
            next_file: disk.next_file,
            operations: disk.operations,
            faults: std::mem::take(&mut disk.faults),
            capacity: disk.capacity,
            has_power: true,
            stale: std::mem::take(&mut disk.stale),
        }
    }

    /// Changes a file behind everyone's back, as a decaying disk does.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let file = disk.names.file(path)?;
        disk.files
            .get_mut(&file)
            .expect("named files exist")
            .damage(change);
        Ok(())
    }
}

impl Disk {
    /// Counts a changing call and fails it when that was planned or the power is gone. A planned
    /// loss of power is answered as `Ok(Some(…))`: the call takes its effect before it fails.
    fn operation(&mut self) -> io::Result<Option<Fault>> {
        self.powered()?;
        self.operations += 1;
        match self.faults.remove(&self.operations) {
            Some(Fault::PowerLoss) => {
                self.has_power = false;
                Ok(Some(Fault::PowerLoss))
            }
            fault => Ok(fault),
        }
    }

    fn powered(&self) -> io::Result<()> {
        if self.has_power {
            Ok(())
        } else {
            Err(Fault::PowerLoss.error())
        }
    }

    /// A removed file takes no room, although whoever has it open reads on.
    fn used(&self) -> u64 {
        self.names
            .seen_files()
            .filter_map(|file| self.files.get(&file))
            .map(Contents::len)
            .sum()
    }

    /// Frees the files that no name leads to. Only between processes: open files live on.
    fn drop_nameless(&mut self) {
        let named = self.names.all_files();
        self.files.retain(|file, _| named.contains(file));
    }

    fn bury(&mut self, file: u64) {
        const KEPT: usize = 256;
        if let Some(contents) = self.files.get(&file) {
            let sectors = contents
                .sectors()
                .filter(|sector| sector.iter().any(|byte| *byte != 0));
            self.stale.extend(sectors.map(<[u8]>::to_vec));
            let excess = self.stale.len().saturating_sub(KEPT);
            self.stale.drain(..excess);
        }
    }
}

/// The end of every changing call.
fn finish(fault: Option<Fault>) -> io::Result<()> {
    fault.map_or(Ok(()), |fault| Err(fault.error()))
}

/// A fault that keeps a change of a folder from happening at all.
fn refuse(fault: Option<Fault>) -> io::Result<()> {
    finish(fault.filter(|fault| *fault != Fault::PowerLoss))
}

impl Storage for SimulatedStorage {
    fn create_dir(&self, folder: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.operation()?;
        refuse(fault)?;
        disk.names.create_dir(folder);
        finish(fault)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        disk.powered()?;
        disk.names.list(folder)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk.lock();
        let fault = disk.operation()?;
        refuse(fault)?;
        let file = disk.next_file;
        disk.names.create(path, file)?;
        disk.next_file += 1;
        disk.files.insert(file, Contents::default());
        finish(fault)?;
        Ok(Arc::new(SimulatedFile {
            disk: Arc::clone(&self.disk),
            file,
            path: path.into(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let disk = self.disk.lock();
        disk.powered()?;
        let file = disk.names.file(path)?;
        Ok(Arc::new(SimulatedFile {
            disk: Arc::clone(&self.disk),
            file,
            path: path.into(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.operation()?;
        refuse(fault)?;
        if let Some(replaced) = disk.names.rename(from, to)? {
            disk.bury(replaced);
        }
        finish(fault)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.operation()?;
        refuse(fault)?;
        let file = disk.names.remove(path)?;
        disk.bury(file);
        finish(fault)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.operation()?;
        if fault.is_none() {
            disk.names.sync(folder)?;
        }
        finish(fault)
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: Arc<Mutex<Disk>>,
    file: u64,
    path: PathBuf,
}

impl SimulatedFile {
    fn gone(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} is gone", self.path.display()),
        )
    }

    fn change(
        &self,
        grows_to: Option<u64>,
        change: impl FnOnce(&mut Contents, &mut Seeded, Option<Fault>),
    ) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let mut fault = disk.operation()?;
        let used = if disk.capacity.is_some() {
            disk.used()
        } else {
            0
        };
        let Disk {
            files,
            random,
            capacity,
            ..
        } = &mut *disk;
        let contents = files.get_mut(&self.file).ok_or_else(|| self.gone())?;
        let growth = grows_to.map_or(0, |len| len.saturating_sub(contents.len()));
        if fault.is_none() && growth > 0 && capacity.is_some_and(|bytes| used + growth > bytes) {
            fault = Some(Fault::NoSpace);
        }
        change(contents, random, fault);
        finish(fault)
    }
}

impl File for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        let disk = self.disk.lock();
        disk.powered()?;
        disk.files
            .get(&self.file)
            .map(Contents::len)
            .ok_or_else(|| self.gone())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk.lock();
        disk.powered()?;
        let contents = disk.files.get(&self.file).ok_or_else(|| self.gone())?;
        Ok(contents.read_at(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(
            Some(offset + bytes.len() as u64),
            |contents, random, fault| match fault {
                None | Some(Fault::PowerLoss) => contents.write_at(bytes, offset),
                Some(Fault::NoSpace | Fault::InputOutput) => {
                    let part = random.below(bytes.len() as u64 + 1);
                    contents.write_at(&bytes[..super::to_usize(part)], offset);
                }
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(None, |contents, random, fault| match fault {
            None => contents.sync(),
            Some(Fault::PowerLoss) => {}
            Some(Fault::NoSpace | Fault::InputOutput) => contents.fail_sync(random),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Some(len), |contents, _, fault| {
            if matches!(fault, None | Some(Fault::PowerLoss)) {
                contents.set_len(len);
            }
        })
    }
}

#[cfg(test)]
mod tests;
