//! The embedded [`Blob`]: objects as checksummed files in a folder, and an index of them.
//!
//! ```text
//! index.redb            key → object: size, checksum, attributes, and the files that hold its content
//! objects/<x>/<id>      contents, in blocks with a checksum each ([`content`]); never changed
//! staging/<id>          contents that are being written
//! ```
//!
//! A put writes `staging/<id>`, syncs it, renames it into `objects/`, syncs that folder, and then
//! commits the index entry. So an entry never names a file that is not wholly there, and what a crash
//! leaves without an entry is removed at the next open. File names come from a counter, never
//! from keys: no key can reach outside the folder, meet a limit on names, or fall together with another
//! on a file system that ignores case.
//!
//! Files are shared and counted: a copy is an index entry, and so is the completion of an upload,
//! whose object simply consists of the files of its parts. A file goes when no entry names it and no
//! download reads it.
//!
//! Rejected: names derived from keys with the folder as the only index (a listing page would read
//! and sort a whole folder, copies would copy); an index in memory (bounded memory, open time).

mod content;
mod disk;
mod fault;
mod files;
mod index;
mod record;
mod scrub;
mod writer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use sinew_core::{Clock, Result};
use sinew_engine::blob::{
    Attributes, Blob, Body, Capability, Download, Expect, Key, Limits, List, Object, OnlyIf, Page,
    Part, Pending, Put, Range, Upload, unknown,
};

use self::{
    content::Reader,
    files::{Files, Pins},
    index::Index,
    record::Record,
    writer::{Command, Writer},
};
use crate::storage::Storage;

pub use scrub::{Damage, Scrubbed};

/// How an [`EmbeddedBlob`] behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory for pages of the index, bytes. The kernel caches them too.
    pub cache_bytes: usize,
    /// How long a change may wait for the index before `blob.timeout`.
    pub answer_timeout: Duration,
    /// What happens after an fsync of the index has failed.
    pub sync_failure: SyncFailure,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 4 << 20,
            answer_timeout: Duration::from_secs(30),
            sync_failure: SyncFailure::Abort,
        }
    }
}

/// What happens after an fsync of the index has failed: nobody can know any more which of its pages the
/// kernel has kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFailure {
    /// The process ends rather than acknowledge what may be lost.
    Abort,
    /// It counts as any failed write. For tests.
    Fail,
}

const CAPABILITY: Capability = Capability {
    engine: "embedded",
    durable: true,
    any_keys: true,
    tags_name_writes: true,
    completes_once: true,
    limits: Limits {
        put_bytes: 1 << 40,
        part_bytes: 1 << 40,
        part_minimum: 0,
        parts: 10_000,
        metadata_bytes: 8 << 10,
        page_entries: 1000,
    },
};

/// The embedded engine. See the module's text.
pub struct EmbeddedBlob {
    clock: Clock,
    index: Arc<Index>,
    files: Arc<Files>,
    writer: Writer,
}

impl EmbeddedBlob {
    /// Opens the store in `folder`, or makes one there. Removes what a crash left behind. Blocks.
    ///
    /// Errors: `blob.locked` (FailedPrecondition) when another process, or another store of this one, has
    /// the folder open.
    pub fn open(
        storage: Arc<dyn Storage>,
        folder: impl Into<PathBuf>,
        clock: Clock,
        options: Options,
    ) -> Result<Self> {
        let folder = folder.into();
        let context = |error: sinew_core::Error| error.with_context(folder.display().to_string());
        let layout = files::Layout::new(folder.clone());
        let index = Arc::new(Index::open(&storage, &layout, options).map_err(context)?);
        let start = index.start().map_err(context)?;
        let files = Arc::new(Files::new(storage, layout, start.run));
        files.clear_staging().map_err(context)?;
        if !start.was_closed {
            files.remove_orphans(&index).map_err(context)?;
        }
        let writer = Writer::start(index.clone(), files.clone(), options.answer_timeout);
        Ok(Self {
            clock,
            index,
            files,
            writer,
        })
    }

    /// Finishes what was begun and closes the store; every later call answers `blob.unavailable`. A
    /// store that is only dropped is found just as whole, but the next open takes longer.
    pub async fn close(&self) -> Result<()> {
        self.writer.close().await
    }

    /// Runs something that blocks on a thread for that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Index) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let index = self.index.clone();
        blocking(move || work(&index)).await
    }

    /// What the index has of an object, with its files pinned.
    async fn pinned(&self, key: &Key) -> Result<(Record, Pins)> {
        let (files, key) = (self.files.clone(), key.clone());
        self.blocking(move |index| {
            loop {
                let record = index.object(&key)?.ok_or_else(|| unknown(&key))?;
                let pins = files.pin(record.files());
                // Whoever takes the entry away after this look meets the pins.
                if index
                    .object(&key)?
                    .is_some_and(|now| now.object.tag == record.object.tag)
                {
                    return Ok((record, pins));
                }
            }
        })
        .await
    }

    fn tag(&self) -> String {
        self.files.next_id().to_string()
    }
}

/// Runs something that blocks on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(fault::stopped(error)))
}

#[async_trait]
impl Blob for EmbeddedBlob {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn put(&self, key: &Key, body: Body, put: Put) -> Result<Object> {
        CAPABILITY.limits.check_attributes(&put.attributes)?;
        self.writer.check_open()?;
        if put.only_if == OnlyIf::Absent && self.head(key).await?.is_some() {
            return Err(sinew_engine::blob::exists(key));
        }
        let most = CAPABILITY.limits.put_bytes;
        let content = content::receive(&self.files, body, put.expect, most).await?;
        let object = Object {
            key: key.clone(),
            size: content.size,
            checksum: content.checksum,
            tag: self.tag(),
            modified: self.clock.now(),
            attributes: put.attributes,
        };
        let only_if = put.only_if;
        self.writer
            .run(|reply| Command::Put {
                object,
                content,
                only_if,
                reply,
            })
            .await
    }

    async fn head(&self, key: &Key) -> Result<Option<Object>> {
        let key = key.clone();
        self.blocking(move |index| Ok(index.object(&key)?.map(|record| record.object)))
            .await
    }

    async fn get(&self, key: &Key, range: Option<Range>) -> Result<Download> {
        let (record, pins) = self.pinned(key).await?;
        let object = record.object;
        let range = match range {
            None => 0..object.size,
            Some(range) => range.within(object.size)?,
        };
        let reader = Reader::new(
            self.files.clone(),
            pins,
            key.clone(),
            record.segments,
            range.clone(),
        );
        let pieces = stream::try_unfold(reader, |mut reader| {
            blocking(move || Ok(reader.next()?.map(|piece| (piece, reader))))
        });
        Ok(Download {
            object,
            range,
            body: pieces.boxed(),
        })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.writer
            .run(|reply| Command::Delete { key, reply })
            .await
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        attributes: Option<Attributes>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        if let Some(attributes) = &attributes {
            CAPABILITY.limits.check_attributes(attributes)?;
        }
        let (from, to, tag, now) = (from.clone(), to.clone(), self.tag(), self.clock.now());
        let stamp = record::Stamp { tag, now };
        self.writer
            .run(|reply| Command::Copy {
                from,
                to,
                attributes,
                only_if,
                stamp,
                reply,
            })
            .await
    }

    async fn list(&self, list: List) -> Result<Page> {
        self.blocking(move |index| index.list(&list, &CAPABILITY.limits))
            .await
    }

    async fn begin(&self, key: &Key, attributes: Attributes) -> Result<Upload> {
        CAPABILITY.limits.check_attributes(&attributes)?;
        let upload = Upload {
            key: key.clone(),
            id: self.tag(),
        };
        let begun = self.clock.now();
        self.writer
            .run(|reply| Command::Begin {
                upload,
                begun,
                attributes,
                reply,
            })
            .await
    }

    async fn part(&self, upload: &Upload, number: u32, body: Body, expect: Expect) -> Result<Part> {
        CAPABILITY.limits.check_part(number)?;
        // Before a long body is taken in.
        let asked = upload.clone();
        self.blocking(move |index| index.upload(&asked).map(drop))
            .await?;
        let most = CAPABILITY.limits.part_bytes;
        let content = content::receive(&self.files, body, expect, most).await?;
        let part = Part {
            number,
            size: content.size,
            checksum: content.checksum,
            tag: self.tag(),
        };
        let upload = upload.clone();
        self.writer
            .run(|reply| Command::Part {
                upload,
                part,
                content,
                reply,
            })
            .await
    }

    async fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        let upload = upload.clone();
        self.blocking(move |index| index.parts(&upload)).await
    }

    async fn complete(
        &self,
        upload: &Upload,
        parts: Vec<(u32, String)>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let (upload, tag, now) = (upload.clone(), self.tag(), self.clock.now());
        let stamp = record::Stamp { tag, now };
        self.writer
            .run(|reply| Command::Complete {
                upload,
                parts,
                only_if,
                stamp,
                reply,
            })
            .await
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        let upload = upload.clone();
        self.writer
            .run(|reply| Command::Abort { upload, reply })
            .await
    }

    async fn uploads(&self, after: Option<Upload>, limit: usize) -> Result<Vec<Pending>> {
        let limit = CAPABILITY.limits.page_size(limit);
        self.blocking(move |index| index.uploads(after.as_ref(), limit))
            .await
    }
}

#[cfg(test)]
mod tests;
