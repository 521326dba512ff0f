use std::{path::Path, sync::Arc};

use sinew_engine::kv::Revision;

use super::{Footer, Stored, block::Builder, file_name};
use crate::{
    kv::index::{
        filter::{self, Filter},
        source::Value,
    },
    storage::{File, Storage},
};

const BLOCK: usize = 4 << 10;
const PAGE: usize = 32 << 10;
/// Written and synced at once: small steps, since the log syncs on the same disk meanwhile.
const STEP: usize = 1 << 20;
/// Beyond this the filter of a run becomes less sharp.
const MOST_FILTER: usize = 24 << 20;

/// Makes a run.
pub(in crate::kv::index) struct RunWriter {
    file: Arc<dyn File>,
    /// Where what is buffered will lie.
    offset: u64,
    buffer: Vec<u8>,
    block: Builder,
    page: Builder,
    root: Builder,
    filter: Filter,
    versions: u64,
    last_hash: Option<u64>,
}

impl RunWriter {
    /// For about as many keys, in a new file.
    pub(in crate::kv::index) fn new(
        storage: &dyn Storage,
        folder: &Path,
        number: u64,
        keys: usize,
    ) -> Stored<Self> {
        Ok(Self {
            file: storage.create(&folder.join(file_name(number)))?,
            offset: 0,
            buffer: Vec::new(),
            block: Builder::default(),
            page: Builder::default(),
            root: Builder::default(),
            filter: Filter::new(keys, MOST_FILTER),
            versions: 0,
            last_hash: None,
        })
    }

    /// Adds a version; they come in order. Tells whether a step was written.
    pub(in crate::kv::index) fn add(
        &mut self,
        key: &[u8],
        revision: Revision,
        value: Value<'_>,
    ) -> Stored<bool> {
        let hash = filter::hash(key);
        if self.last_hash != Some(hash) {
            self.filter.add(hash);
            self.last_hash = Some(hash);
        }
        self.versions += 1;
        let size = key.len() + value.map_or(0, |(value, _)| value.len()) + 24;
        if !self.block.is_empty() && self.block.bytes() + size > BLOCK {
            self.end_block();
        }
        self.block.add_value(key, revision, value);
        self.write_if(STEP)
    }

    pub(in crate::kv::index) fn is_empty(&self) -> bool {
        self.versions == 0
    }

    fn end_block(&mut self) {
        let at = self.offset + self.buffer.len() as u64;
        let (key, revision) = self.block.last();
        self.page.add_child(key, revision, (at, 0));
        let length = self.block.finish(&mut self.buffer);
        self.page.set_length(length);
        if self.page.bytes() > PAGE {
            self.end_page();
        }
    }

    fn end_page(&mut self) {
        let at = self.offset + self.buffer.len() as u64;
        let (key, revision) = self.page.last();
        self.root.add_child(key, revision, (at, 0));
        let length = self.page.finish(&mut self.buffer);
        self.root.set_length(length);
    }

    fn write_if(&mut self, most: usize) -> Stored<bool> {
        if self.buffer.len() < most {
            return Ok(false);
        }
        self.file.write_at(&self.buffer, self.offset)?;
        self.file.sync_data()?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(true)
    }

    /// Ends the run; it is durable then, but for its name.
    pub(in crate::kv::index) fn finish(mut self) -> Stored<()> {
        if !self.block.is_empty() {
            self.end_block();
        }
        if !self.page.is_empty() {
            self.end_page();
        }
        let root_at = self.offset + self.buffer.len() as u64;
        let root_length = self.root.finish(&mut self.buffer);
        let filter_at = self.offset + self.buffer.len() as u64;
        let filter = self.filter.encode();
        let filter_length = u32::try_from(filter.len()).expect("filters are bounded");
        let footer = Footer {
            versions: self.versions,
            root: (root_at, root_length),
            filter: (filter_at, filter_length),
            filter_checksum: crc32c::crc32c(&filter),
        };
        self.buffer.extend_from_slice(&filter);
        self.buffer.extend_from_slice(&footer.encode());
        self.write_if(0)?;
        Ok(())
    }
}
