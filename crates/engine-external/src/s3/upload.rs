//! Objects in parts: uploads of callers, bodies that are too long for one request, and copies.

use std::{fmt::Write, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http::Method;
use sinew_core::Result;
use sinew_engine::blob::{
    Attributes, Body, Check, Key, Object, OnlyIf, Part, Pending, Put, Upload, part_invalid,
    unknown, upload_unknown,
};

use super::{
    CHECKSUM, ENGINE, LIMITS, PIECE, REPLACED, S3Blob, base64,
    client::{Ask, Client, Refusal},
    described, header, only, sign, unbase64, xml,
};
use crate::fault;

/// What one request copies within the server.
const COPIED: u64 = 1 << 30;

/// The parts that were named, as they are there; `blob.part_invalid` when they make no object.
pub(super) fn fitting(there: &[Part], named: &[(u32, String)]) -> Result<Vec<Part>> {
    if named.is_empty() {
        return Err(part_invalid("an object has at least one part"));
    }
    if !named.is_sorted_by(|one, two| one.0 < two.0) {
        return Err(part_invalid("the numbers of the parts must grow"));
    }
    let mut fitting = Vec::with_capacity(named.len());
    for (place, (number, tag)) in named.iter().enumerate() {
        let part = there
            .iter()
            .find(|part| part.number == *number && part.tag == *tag)
            .ok_or_else(|| {
                part_invalid(format!("part {number} was not put, or put again since"))
            })?;
        if place + 1 < named.len() && part.size < LIMITS.part_minimum {
            let least = LIMITS.part_minimum;
            return Err(part_invalid(format!(
                "part {number} has less than {least} bytes and is not the last"
            )));
        }
        fitting.push(part.clone());
    }
    Ok(fitting)
}

/// Aborts an upload that nobody completes.
struct Abandoned {
    client: Arc<Client>,
    name: String,
    id: Option<String>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let (client, name) = (self.client.clone(), std::mem::take(&mut self.name));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let ask = Ask::new(Method::DELETE, Some(&name)).query("uploadId", id);
                if let Err(refusal) = client.read(&ask).await {
                    let why = refusal.general();
                    tracing::warn!(engine = ENGINE, %why, "an abandoned upload stays in the bucket");
                }
            });
        }
    }
}

impl S3Blob {
    fn abandoned(&self, upload: &Upload) -> Abandoned {
        Abandoned {
            client: self.client.clone(),
            name: self.named(&upload.key),
            id: Some(upload.id.clone()),
        }
    }

    /// Puts a body of which `content` has come already.
    pub(super) async fn put_large(
        &self,
        key: &Key,
        mut content: BytesMut,
        mut body: Body,
        mut check: Check,
        put: Put,
    ) -> Result<Object> {
        let upload = self.begin_upload(key, &put.attributes).await?;
        let mut abandoned = self.abandoned(&upload);
        let piece = usize::try_from(PIECE).unwrap_or(usize::MAX);
        let (mut parts, mut is_whole) = (Vec::new(), false);
        while !is_whole || !content.is_empty() {
            while !is_whole && content.len() <= piece {
                match body.try_next().await? {
                    Some(next) => {
                        check.add(&next)?;
                        content.extend_from_slice(&next);
                    }
                    None => is_whole = true,
                }
            }
            let next = content.split_to(content.len().min(piece)).freeze();
            let (number, checksum) = (parts.len() + 1, crc32c::crc32c(&next));
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            parts.push(self.put_part(&upload, number, next, checksum).await?);
        }
        check.finish()?;
        let object = self
            .complete_upload(&upload, &parts, put.attributes, put.only_if)
            .await?;
        abandoned.id = None;
        Ok(object)
    }

    /// Copies within the server. In parts, because only their completion takes a condition everywhere; a copy
    /// in one request would be one of at most 5 GiB too.
    pub(super) async fn copy_parts(
        &self,
        source: Object,
        to: &Key,
        attributes: Attributes,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let bucket = &self.client.bucket;
        let path = sign::path(&format!("{bucket}/{}", self.named(&source.key)));
        if only_if == OnlyIf::Any && source.size <= COPIED {
            let name = self.named(to);
            let ask = described(Ask::new(Method::PUT, Some(&name)), &attributes)
                .header("x-amz-copy-source", &path)
                .header("x-amz-copy-source-if-match", &source.tag)
                .header("x-amz-checksum-algorithm", "CRC32C")
                .header("x-amz-metadata-directive", "REPLACE");
            let answer = self.client.read(&ask).await;
            let (_, xml) = answer.map_err(|refusal| Self::copied(&source.key, refusal))?;
            return self
                .made(to, source.size, source.checksum, &xml, attributes)
                .await;
        }
        if source.size == 0 {
            // There are no bytes to make a part of.
            let put = Put {
                attributes,
                only_if,
                ..Put::default()
            };
            return self.put_small(to, Bytes::new(), 0, &put).await;
        }
        let upload = self.begin_upload(to, &attributes).await?;
        let mut abandoned = self.abandoned(&upload);
        let (name, mut parts, mut from) = (self.named(to), Vec::new(), 0);
        while from < source.size {
            let end = source.size.min(from + COPIED);
            let number = u32::try_from(parts.len() + 1).unwrap_or(u32::MAX);
            let ask = Ask::new(Method::PUT, Some(&name))
                .query("partNumber", number.to_string())
                .query("uploadId", &upload.id)
                .header("x-amz-copy-source", &path)
                .header("x-amz-copy-source-if-match", &source.tag)
                .header(
                    "x-amz-copy-source-range",
                    format!("bytes={from}-{}", end - 1),
                );
            let answer = self.client.read(&ask).await;
            let (_, xml) = answer.map_err(|refusal| Self::copied(&source.key, refusal))?;
            let field = |name| xml::text(&xml, name);
            let part = field("ETag").zip(field("ChecksumCRC32C").and_then(|text| unbase64(&text)));
            let (tag, checksum) = part
                .ok_or_else(|| fault::unexpected(ENGINE, "a copied part without its checksum"))?;
            parts.push(Part {
                number,
                size: end - from,
                checksum,
                tag: tag.into_owned(),
            });
            from = end;
        }
        let object = self
            .complete_upload(&upload, &parts, attributes, only_if)
            .await?;
        abandoned.id = None;
        Ok(object)
    }

    fn copied(from: &Key, refusal: Refusal) -> sinew_core::Error {
        match refusal.status() {
            404 if !refusal.is(&["NoSuchBucket"]) => unknown(from),
            412 => fault::unavailable(ENGINE, REPLACED),
            _ => Self::refused(from, refusal),
        }
    }

    pub(super) async fn begin_upload(&self, key: &Key, attributes: &Attributes) -> Result<Upload> {
        let name = self.named(key);
        let ask = described(Ask::new(Method::POST, Some(&name)), attributes)
            .query("uploads", "")
            .header("x-amz-checksum-algorithm", "CRC32C")
            .header("x-amz-checksum-type", "FULL_OBJECT");
        let answer = self.client.read(&ask).await;
        let (_, xml) = answer.map_err(|refusal| Self::refused(key, refusal))?;
        match xml::text(&xml, "UploadId") {
            Some(id) => Ok(Upload {
                key: key.clone(),
                id: id.into_owned(),
            }),
            None => Err(fault::unexpected(ENGINE, "an upload without an id")),
        }
    }

    pub(super) async fn put_part(
        &self,
        upload: &Upload,
        number: u32,
        content: Bytes,
        checksum: u32,
    ) -> Result<Part> {
        let (name, size) = (self.named(&upload.key), content.len() as u64);
        let ask = Ask::new(Method::PUT, Some(&name))
            .query("partNumber", number.to_string())
            .query("uploadId", &upload.id)
            .header(CHECKSUM, base64(checksum))
            .body(content);
        let answer = self.client.read(&ask).await;
        let (headers, _) = answer.map_err(|refusal| lost(upload, refusal))?;
        match header(&headers, "etag") {
            Some(tag) => Ok(Part {
                number,
                size,
                checksum,
                tag: tag.to_owned(),
            }),
            None => Err(fault::unexpected(ENGINE, "a part without an ETag")),
        }
    }

    pub(super) async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        let name = self.named(&upload.key);
        let (mut parts, mut after) = (Vec::<Part>::new(), 0);
        loop {
            let ask = Ask::new(Method::GET, Some(&name))
                .query("uploadId", &upload.id)
                .query("part-number-marker", after.to_string());
            let answer = self.client.read(&ask).await;
            let (_, xml) = answer.map_err(|refusal| lost(upload, refusal))?;
            for part in xml::all(&xml, "Part") {
                let field = |name| xml::text(part, name);
                let read = || {
                    Some(Part {
                        number: field("PartNumber")?.parse().ok()?,
                        size: field("Size")?.parse().ok()?,
                        checksum: field("ChecksumCRC32C").and_then(|text| unbase64(&text))?,
                        tag: field("ETag")?.into_owned(),
                    })
                };
                parts.push(read().ok_or_else(|| {
                    fault::unexpected(ENGINE, format!("a part that cannot be read: {part}"))
                })?);
            }
            let last = parts.last().map_or(0, |part| part.number);
            let more = xml::text(&xml, "IsTruncated").as_deref() == Some("true");
            if !more || last <= after {
                return Ok(parts);
            }
            after = last;
        }
    }

    /// Publishes what these parts make. The attributes are those that the upload was begun with, in case that the
    /// object is replaced before it can be looked at.
    pub(super) async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        attributes: Attributes,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let name = self.named(&upload.key);
        let mut xml = String::from("<CompleteMultipartUpload>");
        let (mut size, mut checksum) = (0, 0);
        for part in parts {
            let (number, tag, sum) = (part.number, xml::escape(&part.tag), base64(part.checksum));
            let _ = write!(
                xml,
                "<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag><ChecksumCRC32C>{sum}</ChecksumCRC32C></Part>"
            );
            let length = usize::try_from(part.size).unwrap_or(usize::MAX);
            checksum = crc32c::crc32c_combine(checksum, part.checksum, length);
            size += part.size;
        }
        xml.push_str("</CompleteMultipartUpload>");
        let ask = Ask::new(Method::POST, Some(&name))
            .query("uploadId", &upload.id)
            .header("content-type", "application/xml")
            .header(CHECKSUM, base64(checksum))
            .header("x-amz-checksum-type", "FULL_OBJECT")
            .body(xml);
        let answer = self.client.read(&only(ask, only_if)).await;
        let (_, xml) = answer.map_err(|refusal| lost(upload, refusal))?;
        self.made(&upload.key, size, checksum, &xml, attributes)
            .await
    }

    /// The object that an answer with its `ETag` says was made.
    async fn made(
        &self,
        key: &Key,
        size: u64,
        checksum: u32,
        xml: &str,
        attributes: Attributes,
    ) -> Result<Object> {
        let tag = xml::text(xml, "ETag")
            .ok_or_else(|| fault::unexpected(ENGINE, "an object without an ETag"))?;
        let written = Object {
            key: key.clone(),
            size,
            checksum,
            tag: tag.into_owned(),
            modified: self.now(),
            attributes,
        };
        Ok(self.published(written).await)
    }

    pub(super) async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let name = self.named(&upload.key);
        let ask = Ask::new(Method::DELETE, Some(&name)).query("uploadId", &upload.id);
        match self.client.read(&ask).await {
            Err(refusal) if refusal.status() == 404 && !refusal.is(&["NoSuchBucket"]) => Ok(()),
            answer => answer.map(drop).map_err(Refusal::general),
        }
    }

    /// S3 can begin a page behind an upload, but not every server can: those that remain of its key are asked for by
    /// themselves.
    pub(super) async fn list_uploads(
        &self,
        after: Option<Upload>,
        limit: usize,
    ) -> Result<Vec<Pending>> {
        let Some(after) = after else {
            return self.page_of_uploads(&self.prefix, "", limit).await;
        };
        let name = self.named(&after.key);
        let mut same = self.page_of_uploads(&name, "", LIMITS.page_entries).await?;
        same.retain(|pending| pending.upload.key == after.key);
        // One that is gone has no place: all that are left come again.
        let place = same.iter().position(|pending| pending.upload == after);
        same.drain(..place.map_or(0, |place| place + 1));
        same.truncate(limit);
        if same.is_empty() {
            return self.page_of_uploads(&self.prefix, &name, limit).await;
        }
        Ok(same)
    }

    async fn page_of_uploads(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Pending>> {
        let mut ask = Ask::new(Method::GET, None)
            .query("uploads", "")
            .query("max-uploads", limit.to_string());
        if !prefix.is_empty() {
            ask = ask.query("prefix", prefix);
        }
        if !after.is_empty() {
            ask = ask.query("key-marker", after);
        }
        let (_, xml) = self.client.read(&ask).await.map_err(Refusal::general)?;
        let pending = xml::all(&xml, "Upload").into_iter().filter_map(|upload| {
            let field = |name| xml::text(upload, name);
            Some(Pending {
                upload: Upload {
                    key: Key::new(field("Key")?.strip_prefix(&self.prefix)?).ok()?,
                    id: field("UploadId")?.into_owned(),
                },
                begun: sign::time(&field("Initiated")?)?,
            })
        });
        Ok(pending.collect())
    }
}

fn lost(upload: &Upload, refusal: Refusal) -> sinew_core::Error {
    match refusal.status() {
        404 if !refusal.is(&["NoSuchBucket"]) => upload_unknown(upload),
        400 if refusal.is(&["InvalidPart", "InvalidPartOrder", "EntityTooSmall"]) => {
            part_invalid("a part was not put, put again since, or is too short")
        }
        _ => S3Blob::refused(&upload.key, refusal),
    }
}
