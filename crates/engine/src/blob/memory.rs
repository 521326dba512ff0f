use std::{
    collections::BTreeMap,
    convert::Infallible,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use sinew_core::{Clock, Result, Timestamp};

use super::{
    Attributes, Blob, Body, Capability, Check, Download, Expect, Key, Limits, List, Listed, Object,
    OnlyIf, Page, Part, Pending, Put, Range, Upload, exists, page, part_invalid, unknown,
    upload_unknown,
};

/// The reference engine: everything in memory under one lock, written to be obviously right. For
/// tests and the simulator. Clones are the same store.
#[derive(Clone)]
pub struct MemoryBlob {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

const CAPABILITY: Capability = Capability {
    engine: "memory",
    durable: false,
    any_keys: true,
    tags_name_writes: true,
    completes_once: true,
    limits: Limits {
        put_bytes: 64 << 20,
        part_bytes: 64 << 20,
        part_minimum: 1,
        parts: 10_000,
        metadata_bytes: 2048,
        page_entries: 1000,
    },
};

/// Downloads come in pieces of this size, so that their readers meet more than one.
const PIECE: usize = 64 << 10;

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, (Object, Bytes)>,
    uploads: BTreeMap<Upload, Parts>,
    last_tag: u64,
}

struct Parts {
    begun: Timestamp,
    attributes: Attributes,
    parts: BTreeMap<u32, (Part, Bytes)>,
}

impl MemoryBlob {
    /// An empty store.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tags of ten digits, so that they are ordered as they were given.
    fn next_tag(&mut self) -> String {
        self.last_tag += 1;
        format!("{:010}", self.last_tag)
    }

    fn publish(
        &mut self,
        key: &Key,
        content: Bytes,
        attributes: Attributes,
        only_if: OnlyIf,
        now: Timestamp,
    ) -> Result<Object> {
        if only_if == OnlyIf::Absent && self.objects.contains_key(key) {
            return Err(exists(key));
        }
        let object = Object {
            key: key.clone(),
            size: content.len() as u64,
            checksum: crc32c::crc32c(&content),
            tag: self.next_tag(),
            modified: now,
            attributes,
        };
        self.objects.insert(key.clone(), (object.clone(), content));
        Ok(object)
    }

    fn upload(&mut self, upload: &Upload) -> Result<&mut Parts> {
        self.uploads
            .get_mut(upload)
            .ok_or_else(|| upload_unknown(upload))
    }
}

impl Parts {
    /// The content that the named parts make.
    fn content(&self, named: &[(u32, String)]) -> Result<Bytes> {
        let mut content = BytesMut::new();
        for (number, tag) in named {
            match self.parts.get(number) {
                Some((part, bytes)) if part.tag == *tag => content.extend_from_slice(bytes),
                _ => {
                    return Err(part_invalid(format!(
                        "part {number} was not put, or put again"
                    )));
                }
            }
        }
        let growing = named.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let short = named.split_last().is_some_and(|(_, others)| {
            others
                .iter()
                .any(|(number, _)| self.parts[number].0.size < CAPABILITY.limits.part_minimum)
        });
        if named.is_empty() || !growing {
            return Err(part_invalid(
                "name at least one part, and each once, in growing order",
            ));
        }
        if short {
            return Err(part_invalid("a part that is not the last is too short"));
        }
        Ok(content.freeze())
    }
}

/// Takes in a body that is announced as `expect` says.
async fn receive(mut body: Body, expect: Expect, most: u64) -> Result<Bytes> {
    let mut check = Check::new(expect, most)?;
    let mut content = BytesMut::new();
    while let Some(piece) = body.try_next().await? {
        check.add(&piece)?;
        content.extend_from_slice(&piece);
    }
    check.finish()?;
    Ok(content.freeze())
}

#[async_trait]
impl Blob for MemoryBlob {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn put(&self, key: &Key, body: Body, put: Put) -> Result<Object> {
        CAPABILITY.limits.check_attributes(&put.attributes)?;
        let content = receive(body, put.expect, CAPABILITY.limits.put_bytes).await?;
        self.state()
            .publish(key, content, put.attributes, put.only_if, self.clock.now())
    }

    async fn head(&self, key: &Key) -> Result<Option<Object>> {
        Ok(self
            .state()
            .objects
            .get(key)
            .map(|(object, _)| object.clone()))
    }

    async fn get(&self, key: &Key, range: Option<Range>) -> Result<Download> {
        let found = self.state().objects.get(key).cloned();
        let (object, content) = found.ok_or_else(|| unknown(key))?;
        let range = match range {
            None => 0..object.size,
            Some(range) => range.within(object.size)?,
        };
        let bound = |at: u64| usize::try_from(at).unwrap_or(content.len());
        let mut rest = content.slice(bound(range.start)..bound(range.end));
        let pieces = std::iter::from_fn(move || {
            let piece = rest.split_to(rest.len().min(PIECE));
            (!piece.is_empty()).then_some(Ok(piece))
        });
        Ok(Download {
            object,
            range,
            body: stream::iter(pieces).boxed(),
        })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.state().objects.remove(key);
        Ok(())
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
        let mut state = self.state();
        let (object, content) = state
            .objects
            .get(from)
            .cloned()
            .ok_or_else(|| unknown(from))?;
        let attributes = attributes.unwrap_or(object.attributes);
        state.publish(to, content, attributes, only_if, self.clock.now())
    }

    async fn list(&self, list: List) -> Result<Page> {
        let state = self.state();
        let first = |bound: Bound<&str>| {
            let found = state
                .objects
                .range::<str, _>((bound, Bound::Unbounded))
                .next();
            Ok::<_, Infallible>(found.map(|(key, (object, _))| Listed {
                key: key.clone(),
                size: object.size,
                tag: object.tag.clone(),
                modified: object.modified,
            }))
        };
        let Ok(page) = page(&list, &CAPABILITY.limits, first);
        Ok(page)
    }

    async fn begin(&self, key: &Key, attributes: Attributes) -> Result<Upload> {
        CAPABILITY.limits.check_attributes(&attributes)?;
        let begun = self.clock.now();
        let mut state = self.state();
        let upload = Upload {
            key: key.clone(),
            id: state.next_tag(),
        };
        let parts = Parts {
            begun,
            attributes,
            parts: BTreeMap::new(),
        };
        state.uploads.insert(upload.clone(), parts);
        Ok(upload)
    }

    async fn part(&self, upload: &Upload, number: u32, body: Body, expect: Expect) -> Result<Part> {
        CAPABILITY.limits.check_part(number)?;
        self.state().upload(upload)?;
        let content = receive(body, expect, CAPABILITY.limits.part_bytes).await?;
        let mut state = self.state();
        let part = Part {
            number,
            size: content.len() as u64,
            checksum: crc32c::crc32c(&content),
            tag: state.next_tag(),
        };
        state
            .upload(upload)?
            .parts
            .insert(number, (part.clone(), content));
        Ok(part)
    }

    async fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        Ok(self
            .state()
            .upload(upload)?
            .parts
            .values()
            .map(|(part, _)| part.clone())
            .collect())
    }

    async fn complete(
        &self,
        upload: &Upload,
        parts: Vec<(u32, String)>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let mut state = self.state();
        let pending = state.upload(upload)?;
        let (content, attributes) = (pending.content(&parts)?, pending.attributes.clone());
        let object = state.publish(&upload.key, content, attributes, only_if, self.clock.now())?;
        state.uploads.remove(upload);
        Ok(object)
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        self.state().uploads.remove(upload);
        Ok(())
    }

    async fn uploads(&self, after: Option<Upload>, limit: usize) -> Result<Vec<Pending>> {
        let state = self.state();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = state.uploads.range((start, Bound::Unbounded));
        let pending = |(upload, parts): (&Upload, &Parts)| Pending {
            upload: upload.clone(),
            begun: parts.begun,
        };
        Ok(found
            .map(pending)
            .take(CAPABILITY.limits.page_size(limit))
            .collect())
    }
}
