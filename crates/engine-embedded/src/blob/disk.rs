use std::{fmt, io, process, sync::Arc};

use redb::StorageBackend;

use super::SyncFailure;
use crate::storage::{File, read_exact_at};

/// The index's file as redb sees it.
pub(super) struct Disk {
    file: Arc<dyn File>,
    sync_failure: SyncFailure,
}

impl Disk {
    pub(super) fn new(file: Arc<dyn File>, sync_failure: SyncFailure) -> Self {
        Self { file, sync_failure }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        if let Err(error) = &synced
            && self.sync_failure == SyncFailure::Abort
        {
            tracing::error!(%error, "fsync of the blob index failed; the process ends so that no lost write is acknowledged");
            process::abort();
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}
