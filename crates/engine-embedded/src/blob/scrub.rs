//! Looking for bit rot before somebody needs the bytes.

use sinew_core::Result;
use sinew_engine::blob::{Key, unknown};

use super::{
    EmbeddedBlob, blocking,
    content::{self, Broken},
    fault,
    record::Record,
};

/// What one stroke of scrubbing found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Objects that were read.
    pub objects: u64,
    /// Bytes of content that were read.
    pub bytes: u64,
    /// What is not as it was written.
    pub damaged: Vec<Damage>,
    /// Where to go on; none at the end.
    pub next: Option<Key>,
}

/// A piece of an object that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The object.
    pub key: Key,
    /// The content file, under the store's folder.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong with it.
    pub fault: String,
}

impl EmbeddedBlob {
    /// Reads the objects after `after`, in the order of their keys, until some `bytes` were read or none
    /// is left, and reports what is damaged. Call it again with [`Scrubbed::next`]; whoever calls it
    /// sets the pace. Every block is checked against its own checksum and the whole against the object's.
    pub async fn scrub(&self, after: Option<Key>, bytes: u64) -> Result<Scrubbed> {
        let mut scrubbed = Scrubbed::default();
        let mut at = after;
        loop {
            let from = at.clone();
            let Some(next) = self
                .blocking(move |index| index.next_object(from.as_ref()))
                .await?
            else {
                return Ok(scrubbed);
            };
            let key = next.object.key;
            match self.pinned(&key).await {
                Ok((record, pins)) => {
                    scrubbed.objects += 1;
                    scrubbed.bytes += record.object.size;
                    let files = self.files.clone();
                    let found = blocking(move || {
                        let found = look_at(&files, &record);
                        drop(pins);
                        found
                    });
                    scrubbed.damaged.extend(found.await?);
                }
                // Deleted meanwhile.
                Err(error) if error.code() == unknown(&key).code() => {}
                Err(error) => return Err(error),
            }
            if scrubbed.bytes >= bytes {
                scrubbed.next = Some(key);
                return Ok(scrubbed);
            }
            at = Some(key);
        }
    }
}

fn look_at(files: &super::Files, record: &Record) -> Result<Vec<Damage>> {
    let (mut checksum, mut damaged) = (0, Vec::new());
    let damage = |file: String, offset, fault: &str| Damage {
        key: record.object.key.clone(),
        file,
        offset,
        fault: fault.to_owned(),
    };
    for segment in &record.segments {
        let checked = content::check(files, *segment, |piece| {
            checksum = crc32c::crc32c_append(checksum, piece);
        });
        match checked {
            Ok(()) => {}
            Err(Broken::Damage { offset, fault }) => {
                damaged.push(damage(files.layout.name(segment.file), offset, fault));
            }
            Err(Broken::Disk(error)) => return Err(fault::disk(error)),
        }
    }
    if damaged.is_empty() && checksum != record.object.checksum {
        damaged.push(damage(String::new(), 0, "the files do not make the object"));
    }
    Ok(damaged)
}
