//! `Blob`: immutable objects by key, of any size, written and read as streams.
//!
//! The text of this module is the contract; the conformance suite (module `suite`, behind the cargo
//! feature of that name) quotes it and runs against every engine.
//!
//! # Publishing
//! An object appears whole or not at all. When [`Blob::put`], [`Blob::copy`] or [`Blob::complete`] answers
//! an object, it is on stable storage and every later call sees it, listings included. Until then readers
//! see what was there before. An object is never changed, only replaced by another under its key or deleted:
//! the last to be published stays. With [`OnlyIf::Absent`] exactly one of many writers of a key
//! is answered with an object, the others with `blob.exists` (AlreadyExists).
//! A body that ends with an error, is dropped, or does not have the length or checksum that was
//! announced (`blob.body_mismatch`) publishes nothing.
//!
//! # Reading
//! A download is of one object, from its first byte to its last, whatever happens to the key meanwhile.
//! What is read is what was written: an engine that finds stored bytes damaged ends the body with
//! `blob.damaged` (DataLoss) and never hands them out.
//!
//! # Multipart
//! Parts of an upload are put in any order, from many places, and again if need be: the last put of
//! a number counts. `complete` names the parts that make the object, in order; the object is what
//! their bodies are one after the other. Uploads outlive a restart where the engine is durable, are in no
//! listing of objects, and stay until they are completed or aborted.
//!
//! # Errors
//! After Unavailable or DeadlineExceeded a write may have happened; every other error means that it did
//! not. `put`, `copy`, `part`, `delete` and `abort` may be repeated. A repeated `complete` of an upload
//! that was completed gets `blob.upload_unknown`: `head` tells what became of it.
//! `blob.full` (ResourceExhausted) says that there is no room; reads and deletions go on.

mod body;
mod fault;
mod forward;
mod key;
mod limits;
mod listing;
mod memory;
#[cfg(feature = "suite")]
pub mod suite;

use std::{collections::BTreeMap, ops};

use async_trait::async_trait;
use sinew_core::{Result, Timestamp};

pub use body::{Body, Check, body, collect};
pub use fault::{
    body_mismatch, damaged, exists, part_invalid, range_invalid, too_large, unknown, upload_unknown,
};
pub use key::Key;
pub use limits::Limits;
pub use listing::{Entry, List, Listed, Page, page};
pub use memory::MemoryBlob;

/// What is said of an object beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Its media type: printable ASCII, at most 255 bytes.
    pub content_type: Option<String>,
    /// Names (`a-z`, `0-9`, `-`, 1 to 64 bytes) and values (printable ASCII without spaces at the ends),
    /// at most [`Limits::metadata_bytes`] in sum.
    pub metadata: BTreeMap<String, String>,
}

/// An object, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: Key,
    /// Its length, bytes.
    pub size: u64,
    /// The CRC-32C (Castagnoli, RFC 3720 §12.1) of its content.
    pub checksum: u32,
    /// Names this object among all that ever had the key. Opaque.
    pub tag: String,
    /// When it was published, by the engine's wall clock.
    pub modified: Timestamp,
    /// What its writer said of it.
    pub attributes: Attributes,
}

/// What must hold of a key for an object to be published there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnlyIf {
    /// Nothing: what is there is replaced.
    #[default]
    Any,
    /// There is no object; `blob.exists` (AlreadyExists) otherwise.
    Absent,
}

/// What the writer knows of a body that it sends. What it knows is checked before anything is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// The length, bytes.
    pub size: Option<u64>,
    /// The CRC-32C.
    pub checksum: Option<u32>,
}

/// How an object is put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// What is said of it.
    pub attributes: Attributes,
    /// What is known of the body.
    pub expect: Expect,
    /// What must hold.
    pub only_if: OnlyIf,
}

/// A part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// From this byte to the end.
    From(u64),
    /// From the first of these bytes up to, but without, the second, or to the object's end.
    Between(u64, u64),
    /// The last so many bytes, or all when there are fewer.
    Last(u64),
}

impl Range {
    /// The bytes that are meant in an object of `size`. `blob.range_invalid` (OutOfRange) when there are
    /// none of them, or the range is empty.
    pub fn within(self, size: u64) -> Result<ops::Range<u64>> {
        let range = match self {
            Self::From(start) => start..size,
            Self::Between(start, end) => start..end.min(size),
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        if range.is_empty() {
            Err(range_invalid(self, size))
        } else {
            Ok(range)
        }
    }
}

/// An object that is being read.
pub struct Download {
    /// The object.
    pub object: Object,
    /// The bytes that the body has, of the object's.
    pub range: ops::Range<u64>,
    /// The content. Pull it: nothing is read ahead without bound.
    pub body: Body,
}

/// Names an upload in parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upload {
    /// The key that its object will have.
    pub key: Key,
    /// Given by the engine. Opaque.
    pub id: String,
}

/// An upload that is neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its name.
    pub upload: Upload,
    /// When it was begun, by the engine's wall clock.
    pub begun: Timestamp,
}

/// A part that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 1 to [`Limits::parts`].
    pub number: u32,
    /// Its length, bytes.
    pub size: u64,
    /// The CRC-32C of its content.
    pub checksum: u32,
    /// Names this put of the number. Opaque.
    pub tag: String,
}

/// What an engine can do; it selects the cases of the conformance suite and is shown in the
/// documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The engine's name.
    pub engine: &'static str,
    /// Whether data outlives the process.
    pub durable: bool,
    /// Whether any [`Key`] is well. Otherwise the store is a tree of files: none may have the key of another's folder (`a`
    /// beside `a/b`), and the pieces of a key between its `/` have at most 255 bytes.
    pub any_keys: bool,
    /// Whether each publishing has a tag of its own. Otherwise the same content may have the same tag again.
    pub tags_name_writes: bool,
    /// Whether, of several `complete` of one upload at the same time, only one is answered with the object.
    pub completes_once: bool,
    /// Its limits.
    pub limits: Limits,
}

/// The store. See the module's text for what every method promises.
///
/// Beyond the limits: InvalidArgument `blob.attributes_invalid` for attributes, `blob.too_large` for
/// bodies (found out while it streams, if need be), `blob.part_invalid` for parts.
#[async_trait]
pub trait Blob: Send + Sync + 'static {
    /// What this engine can do.
    fn capability(&self) -> &Capability;

    /// Publishes an object with this content.
    async fn put(&self, key: &Key, body: Body, put: Put) -> Result<Object>;

    /// The object, if there is one.
    async fn head(&self, key: &Key) -> Result<Option<Object>>;

    /// The object and its content, or a part of it. `blob.unknown` (NotFound) without an object,
    /// `blob.range_invalid` (OutOfRange) when it has none of the bytes asked for.
    async fn get(&self, key: &Key, range: Option<Range>) -> Result<Download>;

    /// Deletes the object. It is well if there is none.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Publishes the content of `from` under `to` too, with the same attributes unless others are
    /// given. `blob.unknown` (NotFound) without an object at `from`.
    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        attributes: Option<Attributes>,
        only_if: OnlyIf,
    ) -> Result<Object>;

    /// A page of the objects, in the bytewise order of their keys. See [`List`].
    async fn list(&self, list: List) -> Result<Page>;

    /// Begins an upload in parts.
    async fn begin(&self, key: &Key, attributes: Attributes) -> Result<Upload>;

    /// Puts one part. `blob.upload_unknown` (NotFound) when the upload was completed, aborted or
    /// never begun.
    async fn part(&self, upload: &Upload, number: u32, body: Body, expect: Expect) -> Result<Part>;

    /// The parts of an upload, by number. `blob.upload_unknown` (NotFound) as above.
    async fn parts(&self, upload: &Upload) -> Result<Vec<Part>>;

    /// Publishes the object that these parts make, named by number and tag. `blob.part_invalid`
    /// (InvalidArgument) when there are none, their numbers do not grow, one was not put or put again
    /// since, or one that is not the last is shorter than [`Limits::part_minimum`]; the upload
    /// stays then, as it does after `blob.exists`. Parts that are not named are dropped.
    async fn complete(
        &self,
        upload: &Upload,
        parts: Vec<(u32, String)>,
        only_if: OnlyIf,
    ) -> Result<Object>;

    /// Drops an upload and its parts. It is well if there is none.
    async fn abort(&self, upload: &Upload) -> Result<()>;

    /// At most `limit` uploads after the given one (capped by [`Limits::page_entries`], at least 1), by key
    /// and then by the engine's order. An answer with fewer may still not be the end; an empty one is.
    async fn uploads(&self, after: Option<Upload>, limit: usize) -> Result<Vec<Pending>>;
}
