//! The checkpoint: up to which record someone's state holds the log, so that replay begins there.
//!
//! A file of its own, made together with the log so that a full disk cannot be in its way, with two
//! slots that are written in turn:
//!
//! ```text
//! 0   u32  CRC-32C of bytes 4..512, begun with the log's identity
//! 4   u32  length of the note
//! 8   u64  generation, from 1; the higher one counts
//! 16  u64  sequence number of the first record that the state does not hold
//! 24       the note, then zeros
//! ```

use std::{path::Path, path::PathBuf, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use sinew_core::{Error, Kind, Result};

use super::{
    Sequence, error,
    fatal::Fatal,
    frame::{Identity, LogId},
    pool::UNFINISHED,
};
use crate::storage::{File, Storage, read_exact_at};

const NAME: &str = "checkpoint";
const SLOT: usize = 512;
const PREFIX: usize = 24;
/// The slots lie in different blocks, so that writing one cannot tear the other.
const APART: u64 = 4096;

/// Up to where a state holds the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The first record that the state does not hold.
    pub next: Sequence,
    /// Whatever the owner of the state wants to know about it.
    pub note: Bytes,
}

impl Checkpoint {
    /// The longest note.
    pub const NOTE_BYTES: usize = SLOT - PREFIX;
}

#[derive(Debug)]
pub(super) struct Slots {
    path: PathBuf,
    file: Arc<dyn File>,
    identity: Identity,
    newest: Mutex<Newest>,
}

#[derive(Debug, Default)]
struct Newest {
    generation: u64,
    checkpoint: Option<Checkpoint>,
}

fn identity(log: LogId) -> Identity {
    // No segment has this number.
    Identity::new(log, u64::MAX)
}

impl Slots {
    pub(super) fn create(
        storage: &Arc<dyn Storage>,
        folder: &Path,
        log: LogId,
        fatal: &Fatal,
    ) -> Result<Self> {
        let path = folder.join(NAME);
        let unfinished = folder.join(NAME.to_owned() + UNFINISHED);
        let making = |cause| error::io("making", &path, cause);
        let file = storage.create(&unfinished).map_err(making)?;
        file.allocate_zeroed(2 * APART).map_err(making)?;
        storage.rename(&unfinished, &path).map_err(making)?;
        storage
            .sync_dir(folder)
            .map_err(|cause| fatal.failed_sync(folder, &cause))?;
        Ok(Self {
            path,
            file,
            identity: identity(log),
            newest: Mutex::default(),
        })
    }

    pub(super) fn open(storage: &Arc<dyn Storage>, folder: &Path, log: LogId) -> Result<Self> {
        let path = folder.join(NAME);
        let file = storage.open(&path).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => error::corrupt(&path, 0, "the file is missing"),
            _ => error::io("opening", &path, cause),
        })?;
        let identity = identity(log);
        let mut newest = Newest::default();
        let mut broken = None;
        for at in [0, APART] {
            let mut slot = [0; SLOT];
            read_exact_at(&*file, &mut slot, at)
                .map_err(|cause| error::io("reading", &path, cause))?;
            match decode(&slot, identity) {
                Some(found) if found.generation > newest.generation => newest = found,
                Some(_) => {}
                None if slot == [0; SLOT] => {}
                None => broken = Some(at),
            }
        }
        // One slot may be torn while the other counts; before the first checkpoint there is none.
        if let Some(at) = broken.filter(|_| newest.generation == 0) {
            tracing::warn!(file = %path.display(), offset = at, "a torn first checkpoint is ignored");
        }
        Ok(Self {
            path,
            file,
            identity,
            newest: Mutex::new(newest),
        })
    }

    /// Makes durable what [`Slots::open`] found: a killed process may have left it in the kernel.
    pub(super) fn make_durable(&self, fatal: &Fatal) -> Result<()> {
        let newest = self.newest.lock();
        match &newest.checkpoint {
            Some(checkpoint) => self.write(newest.generation, checkpoint, fatal),
            None => Ok(()),
        }
    }

    pub(super) fn newest(&self) -> Option<Checkpoint> {
        self.newest.lock().checkpoint.clone()
    }

    /// Replaces the checkpoint; durable when it answers.
    pub(super) fn set(&self, checkpoint: Checkpoint, fatal: &Fatal) -> Result<()> {
        fatal.check()?;
        let mut newest = self.newest.lock();
        let generation = newest.generation + 1;
        self.write(generation, &checkpoint, fatal)?;
        *newest = Newest {
            generation,
            checkpoint: Some(checkpoint),
        };
        Ok(())
    }

    fn write(&self, generation: u64, checkpoint: &Checkpoint, fatal: &Fatal) -> Result<()> {
        let slot = encode(generation, checkpoint, self.identity)?;
        self.file
            .write_at(&slot, (generation % 2) * APART)
            .map_err(|cause| error::io("writing", &self.path, cause))?;
        self.file
            .sync_data()
            .map_err(|cause| fatal.failed_sync(&self.path, &cause))
    }
}

fn encode(generation: u64, checkpoint: &Checkpoint, identity: Identity) -> Result<[u8; SLOT]> {
    let Checkpoint { next, note } = checkpoint;
    let length = u32::try_from(note.len())
        .ok()
        .filter(|_| note.len() <= Checkpoint::NOTE_BYTES);
    let length = length.ok_or_else(|| {
        Error::new(
            Kind::InvalidArgument,
            "log.record_too_large",
            format!(
                "a checkpoint's note has at most {} bytes",
                Checkpoint::NOTE_BYTES
            ),
        )
    })?;
    let mut slot = [0; SLOT];
    slot[4..8].copy_from_slice(&length.to_le_bytes());
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    slot[16..24].copy_from_slice(&next.to_le_bytes());
    slot[PREFIX..PREFIX + note.len()].copy_from_slice(note);
    let checksum = identity.checksum(&slot[4..]);
    slot[..4].copy_from_slice(&checksum.to_le_bytes());
    Ok(slot)
}

fn decode(slot: &[u8; SLOT], identity: Identity) -> Option<Newest> {
    if identity.checksum(&slot[4..]).to_le_bytes() != slot[..4] {
        return None;
    }
    let length = u32::from_le_bytes(slot[4..8].try_into().ok()?) as usize;
    let generation = u64::from_le_bytes(slot[8..16].try_into().ok()?);
    let next = u64::from_le_bytes(slot[16..24].try_into().ok()?);
    let note = Bytes::copy_from_slice(slot.get(PREFIX..PREFIX + length)?);
    (generation > 0).then_some(Newest {
        generation,
        checkpoint: Some(Checkpoint { next, note }),
    })
}
