//! What every case works with: a store, and short ways to use it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sinew_core::{Error, Kind, Result};

use super::{End, Harness, Subject};
use crate::blob::{
    Attributes, Blob, Body, Expect, Key, Limits, List, Object, OnlyIf, Part, Put, Range, Upload,
    body, collect,
};

pub(super) struct Stand {
    harness: Arc<dyn Harness>,
    subject: Box<dyn Subject>,
}

impl Stand {
    pub(super) async fn new(harness: Arc<dyn Harness>) -> Self {
        let subject = harness.create().await;
        Self { harness, subject }
    }

    /// Another store of the same engine.
    pub(super) async fn another(&self) -> Self {
        Self::new(self.harness.clone()).await
    }

    pub(super) fn blob(&self) -> Arc<dyn Blob> {
        self.subject.blob()
    }

    pub(super) fn limits(&self) -> Limits {
        self.blob().capability().limits
    }

    pub(super) async fn reopen(&mut self, end: End) {
        self.subject.reopen(end).await;
    }

    pub(super) async fn put(&self, name: &str, content: impl Into<Bytes>) -> Object {
        self.blob()
            .put(&key(name), body(content), Put::default())
            .await
            .unwrap()
    }

    pub(super) async fn put_if_absent(&self, name: &str, content: &str) -> Result<Object> {
        let put = Put {
            only_if: OnlyIf::Absent,
            ..Put::default()
        };
        self.blob()
            .put(&key(name), body(content.to_owned()), put)
            .await
    }

    pub(super) async fn head(&self, name: &str) -> Option<Object> {
        self.blob().head(&key(name)).await.unwrap()
    }

    /// The content of an object; `None` without one.
    pub(super) async fn content(&self, name: &str) -> Option<Bytes> {
        match self.blob().get(&key(name), None).await {
            Ok(download) => Some(collect(download.body, u64::MAX).await.unwrap()),
            Err(error) => {
                assert_eq!(error.code(), "blob.unknown", "{error:?}");
                None
            }
        }
    }

    /// The content of an object as text.
    pub(super) async fn text(&self, name: &str) -> Option<String> {
        let content = self.content(name).await?;
        Some(String::from_utf8(content.to_vec()).unwrap())
    }

    pub(super) async fn range(&self, name: &str, range: Range) -> Result<Bytes> {
        let download = self.blob().get(&key(name), Some(range)).await?;
        let named = download.range.clone();
        let content = collect(download.body, u64::MAX).await?;
        assert_eq!(content.len() as u64, named.end - named.start);
        Ok(content)
    }

    pub(super) async fn delete(&self, name: &str) {
        self.blob().delete(&key(name)).await.unwrap();
    }

    pub(super) async fn copy(&self, from: &str, to: &str) -> Result<Object> {
        self.blob()
            .copy(&key(from), &key(to), None, OnlyIf::Any)
            .await
    }

    /// All names of a listing, page by page.
    pub(super) async fn names(&self, list: List) -> Vec<String> {
        let (mut found, mut list) = (Vec::new(), list);
        loop {
            let page = self.blob().list(list.clone()).await.unwrap();
            found.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
            match page.next {
                Some(next) => list.after = Some(next),
                None => return found,
            }
        }
    }

    pub(super) async fn all(&self) -> Vec<String> {
        self.names(List::prefix("")).await
    }

    pub(super) async fn begin(&self, name: &str) -> Upload {
        self.blob()
            .begin(&key(name), Attributes::default())
            .await
            .unwrap()
    }

    pub(super) async fn part(
        &self,
        upload: &Upload,
        number: u32,
        content: impl Into<Bytes>,
    ) -> Part {
        self.blob()
            .part(upload, number, body(content), Expect::default())
            .await
            .unwrap()
    }

    pub(super) async fn complete(&self, upload: &Upload, parts: &[&Part]) -> Result<Object> {
        let parts = parts
            .iter()
            .map(|part| (part.number, part.tag.clone()))
            .collect();
        self.blob().complete(upload, parts, OnlyIf::Any).await
    }
}

pub(super) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Bytes that differ from place to place, so that a piece in the wrong place shows.
pub(super) fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// A body that comes in pieces of this size.
pub(super) fn pieces(content: &Bytes, size: usize) -> Body {
    let pieces: Vec<Result<Bytes>> = content
        .chunks(size)
        .map(|piece| Ok(content.slice_ref(piece)))
        .collect();
    stream::iter(pieces).boxed()
}

/// A body that breaks off with an error.
pub(super) fn broken(content: &Bytes) -> Body {
    let error = Error::new(Kind::Unavailable, "suite.broken", "the sender went away");
    stream::iter([Ok(content.clone()), Err(error)]).boxed()
}

/// Checks an error's kind and code.
#[track_caller]
pub(super) fn fails<T>(result: Result<T>, kind: Kind, code: &str) {
    match result {
        Ok(_) => panic!("should have failed with {code}"),
        Err(error) => assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}"),
    }
}
