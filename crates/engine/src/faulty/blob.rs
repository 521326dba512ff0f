use async_trait::async_trait;
use futures_util::StreamExt;
use sinew_core::Result;

use super::{Faulty, unavailable};
use crate::blob::{
    Attributes, Blob, Body, Capability, Download, Expect, Key, List, Object, OnlyIf, Page, Part,
    Pending, Put, Range, Upload,
};

#[async_trait]
impl<B: Blob + Clone> Blob for Faulty<B> {
    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    /// With an error only if [`super::Faults::lose_the_undecidable`] says so: no layer could repeat it, the body is gone.
    async fn put(&self, key: &Key, body: Body, put: Put) -> Result<Object> {
        self.before_a_body().await?;
        let object = self.inner.put(key, body, put).await?;
        self.after(false)?;
        Ok(object)
    }

    async fn head(&self, key: &Key) -> Result<Option<Object>> {
        repeatable!(self, self.inner.head(key))
    }

    async fn get(&self, key: &Key, range: Option<Range>) -> Result<Download> {
        let download = repeatable!(self, self.inner.get(key, range))?;
        let layer = self.clone();
        let body = download.body.map(move |piece| {
            let breaks = layer.is_away() || layer.happens(layer.faults.breaks);
            if breaks { Err(unavailable()) } else { piece }
        });
        Ok(Download {
            body: body.boxed(),
            ..download
        })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        repeatable!(self, self.inner.delete(key))
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        attributes: Option<Attributes>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let decidable = only_if == OnlyIf::Any;
        self.before(decidable).await?;
        let object = self.inner.copy(from, to, attributes, only_if).await?;
        self.after(decidable)?;
        Ok(object)
    }

    async fn list(&self, list: List) -> Result<Page> {
        repeatable!(self, self.inner.list(list.clone()))
    }

    async fn begin(&self, key: &Key, attributes: Attributes) -> Result<Upload> {
        self.before(false).await?;
        let upload = self.inner.begin(key, attributes).await?;
        self.after(false)?;
        Ok(upload)
    }

    /// As [`Blob::put`].
    async fn part(&self, upload: &Upload, number: u32, body: Body, expect: Expect) -> Result<Part> {
        self.before_a_body().await?;
        let part = self.inner.part(upload, number, body, expect).await?;
        self.after(false)?;
        Ok(part)
    }

    async fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        repeatable!(self, self.inner.parts(upload))
    }

    async fn complete(
        &self,
        upload: &Upload,
        parts: Vec<(u32, String)>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        self.before(false).await?;
        let object = self.inner.complete(upload, parts, only_if).await?;
        self.after(false)?;
        Ok(object)
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        repeatable!(self, self.inner.abort(upload))
    }

    async fn uploads(&self, after: Option<Upload>, limit: usize) -> Result<Vec<Pending>> {
        repeatable!(self, self.inner.uploads(after.clone(), limit))
    }
}

impl<B> Faulty<B> {
    async fn before_a_body(&self) -> Result<()> {
        if self.is_away() || self.faults.lose_the_undecidable {
            return self.before(true).await;
        }
        self.wait().await;
        Ok(())
    }
}
