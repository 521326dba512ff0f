//! The format of the folder, in a file of its own.
//!
//! 1: a redb database. 2: a log beside it (`head and log` instead of `head`).

use std::{io, path::Path};

use sinew_core::{Error, Kind};

use super::{
    Stored,
    failure::{StoreError, corrupt},
    index,
};
use crate::storage::{Storage, to_usize};

/// Raise it with every change that an older Sinew would misread.
const FORMAT: u64 = 2;

/// Refuses a folder that is not of a known format. One without any was never finished: power may
/// have been lost while redb made its file, which it then takes for somebody else's.
pub(super) fn check(storage: &dyn Storage, dir: &Path) -> Stored<()> {
    match read(storage, dir)? {
        None => match storage.remove(&dir.join(index::FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(storage.sync_dir(dir)?),
        },
        Some(format) if format > FORMAT => Err(StoreError(Error::new(
            Kind::FailedPrecondition,
            "kv.format_newer",
            format!(
                "the data was written by a newer Sinew (format {format}, this one reads up to \
                 {FORMAT}); run that version"
            ),
        ))),
        _ => Ok(()),
    }
}

/// Says that the folder is of today's format: when it is.
pub(super) fn set(storage: &dyn Storage, dir: &Path) -> Stored<()> {
    if read(storage, dir)? == Some(FORMAT) {
        return Ok(());
    }
    // Whole or not at all, also when the power goes.
    let draft = dir.join("format.new");
    match storage.remove(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = storage.create(&draft)?;
    file.write_at(format!("{FORMAT}\n").as_bytes(), 0)?;
    file.sync_data()?;
    storage.rename(&draft, &dir.join("format"))?;
    Ok(storage.sync_dir(dir)?)
}

fn read(storage: &dyn Storage, dir: &Path) -> Stored<Option<u64>> {
    let file = match storage.open(&dir.join("format")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = vec![0; to_usize(file.len()?.min(64))];
    file.read_at(&mut text, 0)?;
    let number = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| corrupt("the format file does not hold a number"))
}
