//! The file layer: the few things that durable data needs from a file system, as a small trait, so
//! that the same log runs on a disk ([`RealStorage`]) and on one that loses power when a test says
//! so ([`SimulatedStorage`]).
//!
//! What a caller may rely on is what POSIX grants and no more:
//! - written bytes are safe once [`File::sync_data`] returned, and not before; until then a loss of
//!   power may keep any of the 512-byte sectors written since the last sync, in any combination;
//! - an entry of a folder (a file made, renamed or removed) is safe once [`Storage::sync_dir`]
//!   returned for that folder, whatever was synced of the file itself;
//! - after a sync that failed nothing is known of what was written since the one before, and asking
//!   again proves nothing (the kernel drops its dirty mark: "fsyncgate", PostgreSQL, 2018).
//!
//! All calls block; they are for threads of their own.

mod real;
#[cfg(any(test, feature = "simulation"))]
mod simulated;

use std::{fmt, io, path::Path, sync::Arc};

pub use real::RealStorage;
#[cfg(test)]
pub(crate) use simulated::Seeded;
#[cfg(any(test, feature = "simulation"))]
pub use simulated::{Fault, SimulatedStorage};

/// A file system, or something that behaves like one.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Makes a folder and those above it. It is well if it exists.
    fn create_dir(&self, folder: &Path) -> io::Result<()>;

    /// The names of the files in a folder, in no order. Folders are left out.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Makes a new, empty file; `AlreadyExists` if there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name in the same file system, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Whoever has it open goes on with it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the entries of a folder durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;

    /// Makes a file and holds a lock on it until what it answers is dropped; `WouldBlock` when
    /// another process, or somebody else in this one, holds it. A file system that only one can see
    /// needs none.
    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }
}

/// An open file. Positioned calls only: there is no cursor to share.
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length is asked for to read it"
)]
pub trait File: fmt::Debug + Send + Sync + 'static {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads what is there from `offset` on; fewer bytes than asked for only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`, growing the file if they end beyond it.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the contents and the length durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or grows it by zeros that take no room yet.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Grows the file to `len` by zeros that are really written, so that a later write in there
    /// needs neither new room nor a change of metadata to become durable. Syncs as it goes.
    fn allocate_zeroed(&self, len: u64) -> io::Result<()> {
        // Small steps: a sync of much data at once would hold up the log's own syncs.
        const STEP: usize = 1 << 20;
        let mut at = self.len()?;
        let zeros = vec![0; STEP.min(to_usize(len.saturating_sub(at)))];
        while at < len {
            let step = zeros.len().min(to_usize(len - at));
            self.write_at(&zeros[..step], at)?;
            self.sync_data()?;
            at += step as u64;
        }
        Ok(())
    }
}

/// Reads exactly `buffer.len()` bytes, or fails with `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_at(buffer, offset)? {
        read if read == buffer.len() => Ok(()),
        read => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!(
                "{read} bytes instead of {} at offset {offset}",
                buffer.len()
            ),
        )),
    }
}

/// A length that is held in memory, as the type that slices are indexed by.
pub(crate) fn to_usize(length: u64) -> usize {
    usize::try_from(length).expect("lengths of what is in memory fit the machine's word")
}
