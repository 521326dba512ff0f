use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sinew_core::{Error, Result};

use super::{Retrying, is_undone, is_unknown};
use crate::blob::{
    Attributes, Blob, Body, Capability, Download, Expect, Key, List, Object, OnlyIf, Page, Part,
    Pending, Put, Range, Upload, damaged,
};

#[async_trait]
impl<B: Blob + Clone> Blob for Retrying<B> {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    /// Not repeated: the body was taken. Whoever can make it again may put it again.
    async fn put(&self, key: &Key, body: Body, put: Put) -> Result<Object> {
        self.inner.put(key, body, put).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Object>> {
        repeat!(self, self.inner.head(key))
    }

    /// A download that breaks off goes on with the next byte, as long as the object is still there. A whole object is
    /// checked as a whole also then.
    async fn get(&self, key: &Key, range: Option<Range>) -> Result<Download> {
        let download = repeat!(self, self.inner.get(key, range))?;
        let layer = Arc::new(Retrying::new(self.inner.clone(), self.policy));
        Ok(Download {
            body: resuming(
                layer,
                &download.object,
                download.range.clone(),
                download.body,
            ),
            ..download
        })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        repeat!(self, self.inner.delete(key))
    }

    /// With [`OnlyIf::Absent`] not when the fate of an attempt is unknown: it may have won.
    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        attributes: Option<Attributes>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let call = || self.inner.copy(from, to, attributes.clone(), only_if);
        match only_if {
            OnlyIf::Any => repeat!(self, call()),
            OnlyIf::Absent => repeat!(self, call(), is_undone),
        }
    }

    async fn list(&self, list: List) -> Result<Page> {
        repeat!(self, self.inner.list(list.clone()))
    }

    /// Not when the fate of an attempt is unknown: its upload would stay for ever.
    async fn begin(&self, key: &Key, attributes: Attributes) -> Result<Upload> {
        let call = || self.inner.begin(key, attributes.clone());
        repeat!(self, call(), is_undone)
    }

    /// Not repeated, as [`Blob::put`].
    async fn part(&self, upload: &Upload, number: u32, body: Body, expect: Expect) -> Result<Part> {
        self.inner.part(upload, number, body, expect).await
    }

    async fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        repeat!(self, self.inner.parts(upload))
    }

    /// Not when the fate of an attempt is unknown: `head` tells.
    async fn complete(
        &self,
        upload: &Upload,
        parts: Vec<(u32, String)>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let call = || self.inner.complete(upload, parts.clone(), only_if);
        repeat!(self, call(), is_undone)
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        repeat!(self, self.inner.abort(upload))
    }

    async fn uploads(&self, after: Option<Upload>, limit: usize) -> Result<Vec<Pending>> {
        repeat!(self, self.inner.uploads(after.clone(), limit))
    }
}

/// What is left of a download.
struct Rest<B> {
    layer: Arc<Retrying<B>>,
    object: Object,
    body: Body,
    /// What is still to come.
    next: u64,
    end: u64,
    /// The CRC-32C of what came, when the whole object is read and it broke off meanwhile.
    sum: u32,
    is_whole: bool,
    broke_off: bool,
}

fn resuming<B: Blob + Clone>(
    layer: Arc<Retrying<B>>,
    object: &Object,
    range: std::ops::Range<u64>,
    body: Body,
) -> Body {
    let rest = Rest {
        layer,
        object: object.clone(),
        body,
        next: range.start,
        end: range.end,
        sum: 0,
        is_whole: range == (0..object.size),
        broke_off: false,
    };
    stream::try_unfold(rest, async |mut rest| {
        Ok(rest.piece().await?.map(|piece| (piece, rest)))
    })
    .boxed()
}

impl<B: Blob + Clone> Rest<B> {
    /// The next piece; `None` at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.try_next().await {
                Ok(Some(piece)) => {
                    self.next += piece.len() as u64;
                    self.sum = crc32c::crc32c_append(self.sum, &piece);
                    return Ok(Some(piece));
                }
                Ok(None) if self.is_whole && self.broke_off && self.sum != self.object.checksum => {
                    return Err(damaged(&self.object.key));
                }
                Ok(None) => return Ok(None),
                Err(error) if is_unknown(&error) && self.next < self.end => {
                    self.go_on(error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for what has not come yet; `error` if that is another object's by now.
    async fn go_on(&mut self, error: Error) -> Result<()> {
        let mut trial = self.layer.trial();
        if !trial.wait(&error).await {
            return Err(error);
        }
        let layer = &self.layer;
        let range = Range::Between(self.next, self.end);
        let again = repeat!(layer, layer.inner.get(&self.object.key, Some(range)))?;
        if again.object.tag != self.object.tag || again.range != (self.next..self.end) {
            return Err(error);
        }
        self.body = again.body;
        self.broke_off = true;
        Ok(())
    }
}
