//! Opening a bus: as a face of a store, or alone on a log of its own.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;
use sinew_core::{Clock, Error, Kind, Result};
use tokio::sync::{Semaphore, mpsc};

use super::{
    BusFace, BusOptions, Caller, EmbeddedBus, Shared, fault, files, files::Files, state::State,
    tables::Tables,
};
use crate::{
    journal::{Hold, Opening, RECORD_BYTES, Slot},
    log::{self, OwnedLog},
    storage::{RealStorage, Storage},
};

/// A bus that is open, and not served yet.
pub(crate) struct BusOpening {
    pub(crate) bus: EmbeddedBus,
    pub(crate) slot: Slot<BusFace>,
}

/// Opens the bus's files in `folder`, which exists. `hold` is its hold on the log.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    folder: &Path,
    clock: Clock,
    options: BusOptions,
    hold: Hold,
) -> Result<BusOpening> {
    let failed_sync = options.failed_sync.clone();
    let tables = Tables::open(
        Arc::clone(&storage),
        folder,
        options.tables_bytes(),
        failed_sync.clone(),
    )?;
    let found = tables.load()?;
    let files = Files::new(storage, folder, options.blocks_bytes(), failed_sync);
    let names: HashSet<String> = found
        .segments
        .iter()
        .map(|(place, segment)| files::name(*place, segment.first))
        .collect();
    files.remove_strangers(|name| names.contains(name))?;
    let state = State::new(found, tables.view()?);
    let memory = Arc::clone(&state.memory);
    let (commands, queue) = mpsc::channel(options.queue_commands);
    let room = Arc::new(Semaphore::new(
        options.queue_bytes.min(Semaphore::MAX_PERMITS),
    ));
    let shared = Arc::new(Shared {
        clock,
        options,
        state: Mutex::new(state),
        files,
        tables,
        commands: commands.downgrade(),
        is_nudged: AtomicBool::new(false),
        is_ending: AtomicBool::new(false),
    });
    let face = BusFace::new(Arc::clone(&shared), hold.share())?;
    let caller = Caller {
        shared,
        commands,
        room,
        memory,
    };
    let bus = EmbeddedBus {
        caller,
        journal: None,
    };
    let slot = Slot::new(face, hold, queue);
    Ok(BusOpening { bus, slot })
}

impl EmbeddedBus {
    /// Opens a bus that is alone in `folder`, which is made if it does not exist, with a commit log
    /// of its own, and starts its threads. Blocks while what no checkpoint has is read from the log.
    ///
    /// Errors: `bus.locked` (FailedPrecondition) when another process has it open,
    /// `bus.format_newer` (FailedPrecondition) when a newer Sinew wrote it, `bus.corrupt` and
    /// `log.corrupt` (DataLoss), `bus.disk_full` and `log.full` (ResourceExhausted),
    /// `bus.unavailable` and `log.io` (Unavailable).
    pub fn open(folder: impl AsRef<Path>, clock: Clock, options: BusOptions) -> Result<Self> {
        let folder = folder.as_ref();
        let storage: Arc<dyn Storage> = Arc::new(RealStorage);
        let making = |cause| fault::io("making", folder, cause);
        storage.create_dir(folder).map_err(making)?;
        let parent = folder.parent();
        if let Some(parent) = parent.filter(|parent| !parent.as_os_str().is_empty()) {
            storage.sync_dir(parent).map_err(making)?;
        }
        let lock = lock(&*storage, folder)?;
        let log_options = log::Options {
            record_bytes: RECORD_BYTES,
            failed_sync: options.failed_sync.clone(),
            ..log::Options::default()
        };
        let log = OwnedLog::open(Arc::clone(&storage), &folder.join("log"), &log_options)?;
        storage.sync_dir(folder).map_err(making)?;
        let opening = Opening::new(log);
        let hold = opening.hold();
        let BusOpening { mut bus, slot } = open(storage, folder, clock.clone(), options, hold)?;
        bus.journal = Some(opening.start(slot, clock, lock)?);
        Ok(bus)
    }
}

/// Held as long as what it answers is.
fn lock(storage: &dyn Storage, folder: &Path) -> Result<Box<dyn Send>> {
    let path = folder.join("lock");
    storage.lock(&path).map_err(|cause| {
        if cause.kind() == io::ErrorKind::WouldBlock {
            let message =
                "another process has this bus open; a folder serves one process at a time";
            return Error::new(Kind::FailedPrecondition, "bus.locked", message)
                .with_context(format!("folder {}", folder.display()));
        }
        fault::io("locking", &path, cause)
    })
}
