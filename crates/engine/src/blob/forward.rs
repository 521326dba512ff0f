//! A shared store is a store, so that `&Arc<dyn Blob>` goes wherever `&dyn Blob` does.

use std::sync::Arc;

use async_trait::async_trait;
use sinew_core::Result;

use super::{
    Attributes, Blob, Body, Capability, Download, Expect, Key, List, Object, OnlyIf, Page, Part,
    Pending, Put, Range, Upload,
};

#[async_trait]
impl<B: Blob + ?Sized> Blob for Arc<B> {
    fn capability(&self) -> &Capability {
        (**self).capability()
    }

    async fn put(&self, key: &Key, body: Body, put: Put) -> Result<Object> {
        (**self).put(key, body, put).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Object>> {
        (**self).head(key).await
    }

    async fn get(&self, key: &Key, range: Option<Range>) -> Result<Download> {
        (**self).get(key, range).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        (**self).delete(key).await
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        attributes: Option<Attributes>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        (**self).copy(from, to, attributes, only_if).await
    }

    async fn list(&self, list: List) -> Result<Page> {
        (**self).list(list).await
    }

    async fn begin(&self, key: &Key, attributes: Attributes) -> Result<Upload> {
        (**self).begin(key, attributes).await
    }

    async fn part(&self, upload: &Upload, number: u32, body: Body, expect: Expect) -> Result<Part> {
        (**self).part(upload, number, body, expect).await
    }

    async fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        (**self).parts(upload).await
    }

    async fn complete(
        &self,
        upload: &Upload,
        parts: Vec<(u32, String)>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        (**self).complete(upload, parts, only_if).await
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        (**self).abort(upload).await
    }

    async fn uploads(&self, after: Option<Upload>, limit: usize) -> Result<Vec<Pending>> {
        (**self).uploads(after, limit).await
    }
}
