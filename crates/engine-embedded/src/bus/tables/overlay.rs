use std::{
    collections::{HashMap, hash_map},
    io,
    sync::Arc,
};

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::storage::{File, to_usize};

/// A file as redb would have it, which stays as it is.
#[derive(Debug)]
pub(super) struct Overlay {
    file: Arc<dyn File>,
    changed: Mutex<Changed>,
}

#[derive(Debug, Default)]
struct Changed {
    length: u64,
    pages: HashMap<u64, Vec<u8>>,
}

impl Overlay {
    const PAGE: u64 = 4096;

    pub(super) fn new(file: Arc<dyn File>) -> io::Result<Self> {
        let length = file.len()?;
        let changed = Mutex::new(Changed {
            length,
            ..Changed::default()
        });
        Ok(Self { file, changed })
    }

    /// What of each page lies in a range: the page, and from where to where in it.
    fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
        let end = offset + length as u64;
        let mut at = offset;
        std::iter::from_fn(move || {
            let page = at / Self::PAGE;
            let until = end.min((page + 1) * Self::PAGE);
            let inside = |place: u64| to_usize(place - page * Self::PAGE);
            let piece = (at < end).then(|| (page, inside(at)..inside(until)));
            at = until;
            piece
        })
    }

    fn original(&self, page: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(Self::PAGE)];
        self.file.read_at(&mut bytes, page * Self::PAGE)?;
        Ok(bytes)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changed.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = self.changed.lock();
        if offset + out.len() as u64 > changed.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        for (page, range) in Self::pieces(offset, out.len()) {
            let to = &mut out[done..done + range.len()];
            done += range.len();
            match changed.pages.get(&page) {
                Some(bytes) => to.copy_from_slice(&bytes[range]),
                None => to.copy_from_slice(&self.original(page)?[range]),
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.changed.lock().length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = self.changed.lock();
        let mut done = 0;
        for (page, range) in Self::pieces(offset, data.len()) {
            let from = &data[done..done + range.len()];
            done += range.len();
            let bytes = match changed.pages.entry(page) {
                hash_map::Entry::Occupied(known) => known.into_mut(),
                hash_map::Entry::Vacant(unknown) => unknown.insert(self.original(page)?),
            };
            bytes[range].copy_from_slice(from);
        }
        Ok(())
    }
}
