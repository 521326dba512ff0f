//! [`Blob`] over S3: Amazon's own, or any server that speaks it and checks CRC-32C (`x-amz-checksum-crc32c`) and
//! `If-None-Match` on writes.
//!
//! `s3://ACCESS_KEY@bucket/prefix?endpoint=https://s3.example:9000&region=eu-central-1&password_file=…`. What keeps several
//! Sinews apart is the bucket, or the prefix; the namespace of the URL has no meaning here.
//!
//! An object is one S3 object under its own key, with its own media type and metadata, so other tools read and write
//! the same bucket. A body of up to 8 MiB is one `PutObject`; a longer one is an upload in parts that is
//! aborted when the body breaks off. S3 checks every piece by its CRC-32C, and the whole too; full downloads are checked again.
//! A tag is an ETag: it names the content, not the publishing.
//!
//! # Rejected
//! `object_store` and `opendal` hide what the contract needs: parts and uploads cannot be listed, checksums of whole objects neither
//! sent nor read. The AWS SDK has all of it, in some 150 crates with a second TLS stack to keep out. What is needed of the
//! protocol are a dozen requests.

mod client;
mod download;
mod sign;
mod upload;
mod xml;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http::{HeaderMap, Method};
use sinew_core::{Backoff, Clock, Error, Kind, Result, Timestamp};
use sinew_engine::{
    Health,
    blob::{
        Attributes, Blob, Body, Capability, Check, Download, Entry, Expect, Key, Limits, List,
        Listed, Object, OnlyIf, Page, Part, Pending, Put, Range, Upload, exists, unknown,
    },
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{Address, Host, Tls, fault, socket::Connector};
use client::{Ask, Client, Refusal};
use sign::Signer;

const ENGINE: &str = "s3";

/// What is sent in one request, and held in memory for it.
const PIECE: u64 = 8 << 20;

const LIMITS: Limits = Limits {
    put_bytes: PIECE * 10_000,
    // Held in memory until its length and checksum are known.
    part_bytes: 64 << 20,
    part_minimum: 5 << 20,
    parts: 10_000,
    metadata_bytes: 1792,
    page_entries: 1000,
};

/// What S3 calls the media type of an object that was put without one.
const NO_TYPE: &str = "binary/octet-stream";

const CHECKSUM: &str = "x-amz-checksum-crc32c";

/// How often an object is looked at anew that was replaced in between.
const TRIES: usize = 5;

/// Why a copy was not made.
const REPLACED: &str = "the object was replaced while it was copied";

/// How often a server that answers is asked whether it does.
const QUIET: Duration = Duration::from_secs(10);

/// A bucket, or a part of it. See the module's text.
pub struct S3Blob {
    client: Arc<Client>,
    prefix: String,
    capability: Capability,
    health: watch::Receiver<Health>,
    keeper: JoinHandle<()>,
}

impl Drop for S3Blob {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl S3Blob {
    /// Reads an URL (`s3://ACCESS_KEY@bucket/prefix?…`) for [`S3Blob::open`].
    pub fn address(url: &str) -> Result<Address> {
        Address::parse(url, 443, &["endpoint", "region", "keys"])
    }

    /// The store in the bucket at this address. It connects in the background: wants a tokio runtime.
    /// `engine.address` (InvalidArgument) when the address cannot be one of S3.
    pub fn open(address: &Address, clock: Clock) -> Result<Self> {
        let [bucket] = &address.hosts[..] else {
            return Err(fault::address("s3 has one bucket"));
        };
        let region = address.option("region").unwrap_or("us-east-1");
        let amazon = format!("https://s3.{region}.amazonaws.com");
        let (host, tls) = endpoint(address.option("endpoint").unwrap_or(&amazon), address)?;
        let (Some(access_key), Some(secret)) = (&address.user, address.password()) else {
            return Err(fault::address(
                "s3 wants the access key before the bucket (s3://KEY@bucket) and its secret by password_file or password_env",
            ));
        };
        let any_keys = match address.option("keys") {
            None | Some("any") => true,
            Some("tree") => false,
            Some(other) => {
                return Err(fault::address(format!(
                    "keys is any or tree, not {other:?}"
                )));
            }
        };
        let client = Arc::new(Client {
            connector: Connector::new(ENGINE, &host, tls.as_ref())?,
            authority: host.to_string(),
            bucket: bucket.name.clone(),
            signer: Signer {
                access_key: access_key.clone(),
                secret: secret.to_owned(),
                region: region.to_owned(),
            },
            clock,
            timeout: address.timeout,
            doubt: Notify::new(),
            idle: Mutex::default(),
        });
        let (health, seen) = watch::channel(Health::Starting);
        let prefix = match address.path.trim_end_matches('/') {
            "" => String::new(),
            path => format!("{path}/"),
        };
        Ok(Self {
            keeper: tokio::spawn(keep(client.clone(), health)),
            client,
            prefix,
            capability: Capability {
                engine: ENGINE,
                durable: true,
                any_keys,
                tags_name_writes: false,
                completes_once: false,
                limits: LIMITS,
            },
            health: seen,
        })
    }

    /// Whether the server answers.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn named(&self, key: &Key) -> String {
        format!("{}{}", self.prefix, key.as_str())
    }

    /// The error for a refusal of what was asked of this key.
    fn refused(key: &Key, refusal: Refusal) -> Error {
        let invalid = |code, why: &str| Error::new(Kind::InvalidArgument, code, why);
        if refusal.is(&["NoSuchKey"]) {
            unknown(key)
        } else if refusal.status() == 412 || refusal.is(&["ConditionalRequestConflict"]) {
            exists(key)
        } else if refusal.is(&["KeyTooLongError"]) {
            invalid(
                "blob.key_invalid",
                "with the prefix of the store the key is longer than 1024 bytes",
            )
        } else if refusal.is(&[
            "ObjectParentIsFile",
            "ExistingObjectIsDirectory",
            "XMinioParentIsObject",
        ]) {
            invalid(
                "blob.key_invalid",
                "this server keeps objects as files: none may have the key of a folder",
            )
        } else {
            refusal.general()
        }
    }

    async fn find(&self, key: &Key) -> Result<Option<Object>> {
        let name = self.named(key);
        let ask = Ask::new(Method::HEAD, Some(&name)).header("x-amz-checksum-mode", "ENABLED");
        match self.client.ask(&ask).await {
            Ok(answer) => object(key, &answer.headers).map(Some),
            Err(refusal) if refusal.status() == 404 => Ok(None),
            Err(refusal) => Err(refusal.general()),
        }
    }

    /// What was published, with the time that the server keeps for it.
    async fn published(&self, written: Object) -> Object {
        match self.find(&written.key).await {
            Ok(Some(found)) if found.tag == written.tag => found,
            // It was replaced since, or cannot be seen now: it was published all the same.
            _ => written,
        }
    }

    async fn put_small(
        &self,
        key: &Key,
        content: Bytes,
        checksum: u32,
        put: &Put,
    ) -> Result<Object> {
        let name = self.named(key);
        let size = content.len() as u64;
        let ask = described(Ask::new(Method::PUT, Some(&name)), &put.attributes)
            .header(CHECKSUM, base64(checksum))
            .body(content);
        let answer = self.client.read(&only(ask, put.only_if)).await;
        let (headers, _) = answer.map_err(|refusal| Self::refused(key, refusal))?;
        let written = Object {
            key: key.clone(),
            size,
            checksum,
            tag: header(&headers, "etag").unwrap_or_default().to_owned(),
            modified: self.now(),
            attributes: put.attributes.clone(),
        };
        Ok(self.published(written).await)
    }

    /// The time as S3 tells it, in whole seconds.
    fn now(&self) -> Timestamp {
        Timestamp(self.client.clock.now().as_secs() * 1000)
    }
}

fn endpoint(url: &str, address: &Address) -> Result<(Host, Option<Tls>)> {
    let bad = || fault::address(format!("endpoint is http(s)://host:port, not {url:?}"));
    let (scheme, host) = url.split_once("://").ok_or_else(bad)?;
    let (tls, port) = match scheme {
        "http" => (None, 80),
        "https" => (Some(address.tls.clone().unwrap_or_default()), 443),
        _ => return Err(bad()),
    };
    let plain = format!("s3://{}?tls=off", host.trim_end_matches('/'));
    let host = Address::parse(&plain, port, &[])?.hosts.into_iter().next();
    Ok((host.ok_or_else(bad)?, tls))
}

/// Asks from time to time whether the bucket is there.
async fn keep(client: Arc<Client>, health: watch::Sender<Health>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let probe = Ask::new(Method::GET, None)
            .query("list-type", "2")
            .query("max-keys", "1");
        let reason = match timeout(client.timeout, client.read(&probe)).await {
            Ok(Ok(_)) => None,
            Ok(Err(refusal)) => Some(refusal.general().detail()),
            Err(_) => Some(format!("no answer in {:?}", client.timeout)),
        };
        let is_up = reason.is_none();
        health.send_if_modified(|health| match (&*health, reason) {
            (Health::Up, None) | (Health::Away { .. }, Some(_)) => false,
            (_, None) => {
                tracing::info!(engine = ENGINE, server = client.authority, "connected");
                *health = Health::Up;
                true
            }
            (_, Some(reason)) => {
                tracing::warn!(engine = ENGINE, server = client.authority, reason, "away");
                let since = client.clock.now();
                *health = Health::Away { since, reason };
                true
            }
        });
        if is_up {
            backoff.reset();
            let _ = timeout(QUIET, client.doubt.notified()).await;
        } else {
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn base64(checksum: u32) -> String {
    BASE64_STANDARD.encode(checksum.to_be_bytes())
}

fn unbase64(text: &str) -> Option<u32> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn only(ask: Ask<'_>, only_if: OnlyIf) -> Ask<'_> {
    match only_if {
        OnlyIf::Any => ask,
        OnlyIf::Absent => ask.header("if-none-match", "*").once(),
    }
}

/// Puts attributes into the headers of a request that makes an object.
fn described<'a>(mut ask: Ask<'a>, attributes: &Attributes) -> Ask<'a> {
    let content_type = attributes.content_type.as_deref().unwrap_or(NO_TYPE);
    ask = ask.header("content-type", content_type);
    for (name, value) in &attributes.metadata {
        ask = ask.header(format!("x-amz-meta-{name}"), value);
    }
    ask
}

/// The object that the headers of an answer describe.
fn object(key: &Key, headers: &HeaderMap) -> Result<Object> {
    let missing = |what: &str| fault::unexpected(ENGINE, format!("{key:?} without {what}"));
    // Of a part the length is in `Content-Range`, behind the slash.
    let size = header(headers, "content-range")
        .and_then(|range| range.split_once('/'))
        .map(|(_, size)| size)
        .or(header(headers, "content-length"))
        .and_then(|size| size.parse().ok())
        .ok_or_else(|| missing("a length"))?;
    let checksum = header(headers, CHECKSUM)
        .and_then(unbase64)
        .ok_or_else(|| {
            fault::unsuitable(
                ENGINE,
                format!("{key:?} has no CRC-32C of its whole content; it was not written by Sinew"),
            )
        })?;
    let modified = header(headers, "last-modified")
        .and_then(|text| httpdate::parse_http_date(text).ok())
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .ok_or_else(|| missing("a time"))?;
    let metadata: BTreeMap<String, String> = headers
        .iter()
        .filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-amz-meta-")?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect();
    Ok(Object {
        key: key.clone(),
        size,
        checksum,
        tag: header(headers, "etag")
            .ok_or_else(|| missing("an ETag"))?
            .to_owned(),
        modified: Timestamp(modified.as_secs() * 1000),
        attributes: Attributes {
            content_type: header(headers, "content-type")
                .filter(|text| *text != NO_TYPE)
                .map(str::to_owned),
            metadata,
        },
    })
}

#[async_trait]
impl Blob for S3Blob {
    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn put(&self, key: &Key, mut body: Body, put: Put) -> Result<Object> {
        LIMITS.check_attributes(&put.attributes)?;
        let mut check = Check::new(put.expect, LIMITS.put_bytes)?;
        let mut content = BytesMut::new();
        while let Some(piece) = body.try_next().await? {
            check.add(&piece)?;
            content.extend_from_slice(&piece);
            if content.len() as u64 > PIECE {
                return self.put_large(key, content, body, check, put).await;
            }
        }
        let (_, checksum) = check.finish()?;
        self.put_small(key, content.freeze(), checksum, &put).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Object>> {
        self.find(key).await
    }

    async fn get(&self, key: &Key, range: Option<Range>) -> Result<Download> {
        self.download(key, range).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let name = self.named(key);
        match self
            .client
            .read(&Ask::new(Method::DELETE, Some(&name)))
            .await
        {
            Err(refusal) if refusal.is(&["NoSuchKey"]) => Ok(()),
            answer => answer.map(drop).map_err(Refusal::general),
        }
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        attributes: Option<Attributes>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        if let Some(attributes) = &attributes {
            LIMITS.check_attributes(attributes)?;
        }
        let mut tries = 1;
        loop {
            let source = self.find(from).await?.ok_or_else(|| unknown(from))?;
            let attributes = match &attributes {
                Some(attributes) => attributes.clone(),
                None => source.attributes.clone(),
            };
            match self.copy_parts(source, to, attributes, only_if).await {
                // Another object by now; nothing was copied.
                Err(why)
                    if why.code() == "engine.unavailable" && why.detail().contains(REPLACED) =>
                {
                    if tries == TRIES {
                        return Err(why);
                    }
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn list(&self, list: List) -> Result<Page> {
        let limit = LIMITS.page_size(list.limit);
        let mut after = list.after.clone();
        loop {
            let mut ask = Ask::new(Method::GET, None)
                .query("list-type", "2")
                .query("max-keys", limit.to_string())
                .query("prefix", format!("{}{}", self.prefix, list.prefix));
            if list.folders {
                ask = ask.query("delimiter", "/");
            }
            if let Some(after) = &after {
                // Behind all that is in a folder which was shown.
                let last = if list.folders && after.ends_with('/') {
                    "\u{10ffff}"
                } else {
                    ""
                };
                ask = ask.query("start-after", format!("{}{after}{last}", self.prefix));
            }
            let answer = self.client.read(&ask).await;
            let (_, xml) = answer.map_err(Refusal::general)?;
            let mut entries = self.entries(&xml)?;
            entries.sort_by(|one, two| one.name().cmp(two.name()));
            let more = xml::text(&xml, "IsTruncated").as_deref() == Some("true");
            let last = entries.last().map(|entry| entry.name().to_owned());
            // A page that began inside a folder does not show the folder once more.
            entries.retain(|entry| {
                list.after
                    .as_deref()
                    .is_none_or(|after| entry.name() > after)
            });
            match (more, last) {
                (true, Some(last)) if entries.is_empty() => after = Some(last),
                (true, last) => {
                    return Ok(Page {
                        entries,
                        next: last,
                    });
                }
                (false, _) => {
                    return Ok(Page {
                        entries,
                        next: None,
                    });
                }
            }
        }
    }

    async fn begin(&self, key: &Key, attributes: Attributes) -> Result<Upload> {
        LIMITS.check_attributes(&attributes)?;
        self.begin_upload(key, &attributes).await
    }

    async fn part(&self, upload: &Upload, number: u32, body: Body, expect: Expect) -> Result<Part> {
        LIMITS.check_part(number)?;
        let mut check = Check::new(expect, LIMITS.part_bytes)?;
        let (mut body, mut content) = (body, BytesMut::new());
        while let Some(piece) = body.try_next().await? {
            check.add(&piece)?;
            content.extend_from_slice(&piece);
        }
        let (_, checksum) = check.finish()?;
        self.put_part(upload, number, content.freeze(), checksum)
            .await
    }

    async fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        self.list_parts(upload).await
    }

    async fn complete(
        &self,
        upload: &Upload,
        parts: Vec<(u32, String)>,
        only_if: OnlyIf,
    ) -> Result<Object> {
        let there = self.list_parts(upload).await?;
        let named = upload::fitting(&there, &parts)?;
        self.complete_upload(upload, &named, Attributes::default(), only_if)
            .await
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        self.abort_upload(upload).await
    }

    async fn uploads(&self, after: Option<Upload>, limit: usize) -> Result<Vec<Pending>> {
        self.list_uploads(after, LIMITS.page_size(limit)).await
    }
}

impl S3Blob {
    fn entries(&self, xml: &str) -> Result<Vec<Entry>> {
        let own = |text: Option<std::borrow::Cow<'_, str>>| {
            Some(text?.strip_prefix(&self.prefix)?.to_owned())
        };
        let listed = xml::all(xml, "Contents")
            .into_iter()
            .filter_map(|contents| {
                let field = |name| xml::text(contents, name);
                // What other tools put there and cannot be a key of ours (`folder/`) is not shown.
                let key = Key::new(&own(field("Key"))?).ok()?;
                let listed = (|| {
                    Some(Listed {
                        key: key.clone(),
                        size: field("Size")?.parse().ok()?,
                        tag: field("ETag")?.into_owned(),
                        modified: sign::time(&field("LastModified")?)?,
                    })
                })();
                let strange = || {
                    fault::unexpected(ENGINE, format!("an entry that cannot be read: {contents}"))
                };
                Some(listed.map(Entry::Object).ok_or_else(strange))
            });
        let folders = xml::all(xml, "CommonPrefixes")
            .into_iter()
            .filter_map(|folder| {
                own(xml::text(folder, "Prefix")).map(|text| Ok(Entry::Folder(text)))
            });
        listed.chain(folders).collect()
    }
}
