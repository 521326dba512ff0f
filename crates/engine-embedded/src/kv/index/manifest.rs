//! What the index consists of: one small file, replaced as a whole at every checkpoint.
//!
//! ```text
//! magic u64 · version u32 · next record of the log u64 · revision u64 · floor u64 · last lease u64
//! next file u64
//! number of runs u32 · number of each u64, the newest first
//! number of history files u32 · number of each u64, the oldest first
//! leases u32 · lease u64, TTL in nanoseconds u64 for each
//! attached u32 · lease u64, key length u32, key for each
//! CRC-32C of all before u32
//! ```
//!
//! Little endian.

use std::{io, path::Path};

use bytes::{Buf, BufMut, Bytes};
use sinew_engine::kv::Revision;

use super::{Stored, failure::damaged};
use crate::{
    kv::{SyncFailure, change::Malformed, leased::Leased},
    log::Sequence,
    storage::{Storage, read_exact_at, to_usize},
};

pub(super) const NAME: &str = "manifest";
const DRAFT: &str = "manifest.new";
const MAGIC: u64 = u64::from_le_bytes(*b"sinewman");
const VERSION: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::kv) struct Manifest {
    /// The first record of the log that the files do not hold.
    pub(in crate::kv) next: Sequence,
    pub(in crate::kv) revision: Revision,
    pub(in crate::kv) floor: Revision,
    pub(in crate::kv) last_lease: u64,
    pub(super) next_file: u64,
    /// The newest first.
    pub(super) runs: Vec<u64>,
    /// The oldest first.
    pub(super) history: Vec<u64>,
}

/// Reads the manifest; nothing when there is none.
pub(super) fn read(storage: &dyn Storage, folder: &Path) -> Stored<Option<(Manifest, Leased)>> {
    let path = folder.join(NAME);
    let file = match storage.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![0; to_usize(file.len()?)];
    read_exact_at(&*file, &mut bytes, 0)?;
    let content = bytes
        .split_last_chunk::<4>()
        .filter(|(content, checksum)| crc32c::crc32c(content).to_le_bytes() == **checksum);
    let Some((content, _)) = content else {
        return Err(damaged(
            &path,
            0,
            "the manifest does not match its checksum",
        ));
    };
    let decoded = decode(Bytes::copy_from_slice(content));
    decoded
        .map(Some)
        .map_err(|_| damaged(&path, 0, "the manifest is malformed"))
}

/// Replaces the manifest. The files that it names are durable, but for their names.
pub(super) fn write(
    storage: &dyn Storage,
    folder: &Path,
    manifest: &Manifest,
    leased: &Leased,
    sync_failure: &SyncFailure,
) -> Stored<()> {
    let draft = folder.join(DRAFT);
    match storage.remove(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = storage.create(&draft)?;
    file.write_at(&encode(manifest, leased), 0)?;
    // What cannot be made durable here is thrown away.
    file.sync_data()?;
    let sync = || -> Stored<()> {
        let synced = storage.sync_dir(folder);
        // A folder that somebody has removed has nothing to lose.
        let failed = |error: &io::Error| error.kind() != io::ErrorKind::NotFound;
        if let Some(error) = synced.as_ref().err().filter(|error| failed(error)) {
            sync_failure.react(error);
        }
        Ok(synced?)
    };
    // The names of new files before the name of what counts on them.
    sync()?;
    storage.rename(&draft, &folder.join(NAME))?;
    sync()
}

fn encode(manifest: &Manifest, leased: &Leased) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u64_le(MAGIC);
    bytes.put_u32_le(VERSION);
    let Manifest {
        next,
        revision,
        floor,
        last_lease,
        next_file,
        runs,
        history,
    } = manifest;
    for number in [next, revision, floor, last_lease, next_file] {
        bytes.put_u64_le(*number);
    }
    let count = |bytes: &mut Vec<u8>, count: usize| {
        bytes.put_u32_le(u32::try_from(count).expect("fewer than fit into memory"));
    };
    for files in [runs, history] {
        count(&mut bytes, files.len());
        for number in files {
            bytes.put_u64_le(*number);
        }
    }
    count(&mut bytes, leased.ttls.len());
    for (lease, ttl) in &leased.ttls {
        bytes.put_u64_le(*lease);
        bytes.put_u64_le(*ttl);
    }
    count(&mut bytes, leased.attached().count());
    for (lease, key) in leased.attached() {
        bytes.put_u64_le(lease);
        count(&mut bytes, key.len());
        bytes.extend_from_slice(key);
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(checksum);
    bytes
}

fn decode(mut bytes: Bytes) -> Result<(Manifest, Leased), Malformed> {
    if bytes.try_get_u64_le()? != MAGIC || bytes.try_get_u32_le()? != VERSION {
        return Err(Malformed);
    }
    let mut manifest = Manifest {
        next: bytes.try_get_u64_le()?,
        revision: bytes.try_get_u64_le()?,
        floor: bytes.try_get_u64_le()?,
        last_lease: bytes.try_get_u64_le()?,
        next_file: bytes.try_get_u64_le()?,
        ..Manifest::default()
    };
    for files in [&mut manifest.runs, &mut manifest.history] {
        for _ in 0..bytes.try_get_u32_le()? {
            files.push(bytes.try_get_u64_le()?);
        }
    }
    let mut leased = Leased::default();
    for _ in 0..bytes.try_get_u32_le()? {
        let lease = bytes.try_get_u64_le()?;
        leased.ttls.insert(lease, bytes.try_get_u64_le()?);
    }
    for _ in 0..bytes.try_get_u32_le()? {
        let lease = bytes.try_get_u64_le()?;
        let length = bytes.try_get_u32_le()? as usize;
        if length > bytes.len() {
            return Err(Malformed);
        }
        leased.attach(&bytes.split_to(length), Some(lease));
    }
    Ok((manifest, leased))
}
