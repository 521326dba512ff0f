//! A plain client of S3: requests signed (AWS Signature Version 4) on kept connections of hyper, and no more.

use std::{
    ops::Range,
    sync::{Arc, PoisonError},
};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use ring::{digest, hmac};
use sinew_testbed::{S3, Server};
use tokio::net::TcpStream;

use super::sides::{Kept, VERSITYGW};

const REGION: &str = "us-east-1";

pub(crate) struct Plain {
    server: Arc<Server>,
    idle: std::sync::Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Plain {
    pub(crate) fn new(server: &Arc<Server>) -> Self {
        Self {
            server: Arc::clone(server),
            idle: std::sync::Mutex::default(),
        }
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(idle) = idle
            && idle.is_ready()
        {
            return Ok(idle);
        }
        let stream = TcpStream::connect(self.server.address()).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// The number of bytes that came.
    async fn ask(
        &self,
        method: Method,
        name: &str,
        content: Bytes,
        more: Option<(&str, String)>,
    ) -> Result<u64> {
        let path = format!("/{}/plain/{name}", S3::BUCKET);
        let mut headers = vec![
            ("host", self.server.address()),
            ("x-amz-content-sha256", hex(&sha256(&content))),
            ("x-amz-date", stamp()),
        ];
        headers.extend(more);
        headers.sort();
        let signed = sign(method.as_str(), &path, &headers);
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .header("authorization", signed)
            .body(Full::new(content))?;
        let mut sender = self.connection().await?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let (mut body, mut read) = (answer.into_body(), 0);
        while let Some(frame) = body.frame().await {
            read += frame?.data_ref().map_or(0, Bytes::len) as u64;
        }
        ensure!(status.is_success(), "S3 answered {status}");
        // It is ready when its task has seen the end too, unless the server has ended the connection.
        if sender.ready().await.is_ok() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(sender);
        }
        Ok(read)
    }
}

#[async_trait]
impl Kept for Plain {
    fn name(&self) -> &'static str {
        "plain S3 client"
    }

    fn durability(&self) -> &'static str {
        VERSITYGW
    }

    fn server(&self) -> Option<u32> {
        self.server.pid()
    }

    async fn put(&self, name: String, content: Bytes) -> Result<()> {
        self.ask(Method::PUT, &name, content, None).await?;
        Ok(())
    }

    async fn get(&self, name: String, range: Option<Range<u64>>) -> Result<u64> {
        let range =
            range.map(|range| ("range", format!("bytes={}-{}", range.start, range.end - 1)));
        self.ask(Method::GET, &name, Bytes::new(), range).await
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Now, as `20261121T115900Z`. The date by "days to civil" (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn stamp() -> String {
    let now = sinew_core::Clock::system().now().as_secs();
    let (days, second) = (now / 86_400 + 719_468, now % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{:02}Z",
        second % 60
    )
}

/// The headers are sorted and need no escaping, nor does the path.
fn sign(method: &str, path: &str, headers: &[(&str, String)]) -> String {
    let value = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| *name == wanted);
        found.map_or("", |(_, value)| value.as_str())
    };
    let (stamp, content) = (value("x-amz-date"), value("x-amz-content-sha256"));
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let request = format!("{method}\n{path}\n\n{lines}\n{names}\n{content}");
    let day = stamp.get(..8).unwrap_or_default();
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let request = hex(&sha256(request.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{request}");
    let mac = |key: &[u8], text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let secret = format!("AWS4{}", S3::SECRET).into_bytes();
    let key = [day, REGION, "s3", "aws4_request"]
        .iter()
        .fold(secret, |key, text| mac(&key, text));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
        S3::ACCESS_KEY,
        hex(&mac(&key, &text))
    )
}
