//! One JSON line per request, written by a thread of its own behind a bounded queue: a disk that
//! stalls costs lines, which are counted, and never requests.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    net::IpAddr,
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};
use serde::Serialize;
use sinew_core::{Error, Kind, Result, Timestamp};

use crate::config::AccessLog;

/// What is known of a request. No header of the client's but its request id stands here, so no
/// credential can.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    /// Milliseconds since the epoch.
    pub(crate) time: Timestamp,
    pub(crate) request_id: &'a str,
    pub(crate) peer: IpAddr,
    /// As ALPN calls it.
    pub(crate) protocol: &'static str,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    #[serde(serialize_with = "redacted", skip_serializing_if = "str::is_empty")]
    pub(crate) query: &'a str,
    pub(crate) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) subset: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<&'a str>,
    pub(crate) retries: u32,
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub(crate) took: Duration,
    pub(crate) body_in: u64,
    pub(crate) body_out: u64,
}

fn milliseconds<S: serde::Serializer>(
    took: &Duration,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_f64(took.as_micros() as f64 / 1e3)
}

/// A parameter whose name holds one of these is shown without its value.
const SECRETS: [&str; 11] = [
    "token",
    "secret",
    "passw",
    "pwd",
    "key",
    "auth",
    "session",
    "signature",
    "credential",
    "code",
    "jwt",
];

fn redacted<S: serde::Serializer>(query: &&str, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(&redact(query))
}

fn redact(query: &str) -> String {
    let parameter = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) => {
            let plain = name.to_ascii_lowercase();
            let secret = plain.contains('%') || SECRETS.iter().any(|word| plain.contains(word));
            format!(
                "{name}={}",
                if secret && !value.is_empty() {
                    "[redacted]"
                } else {
                    value
                }
            )
        }
        None => parameter.to_owned(),
    };
    let query = query.strip_prefix('?').unwrap_or(query);
    query
        .split('&')
        .map(parameter)
        .collect::<Vec<_>>()
        .join("&")
}

/// Lines that may wait for the writer.
const QUEUE: usize = 8_192;

#[derive(Clone, Debug)]
pub(crate) struct Sender(crossbeam_channel::Sender<Vec<u8>>);

impl Sender {
    /// `false` when there was no room.
    pub(crate) fn send(&self, line: &Line<'_>) -> bool {
        let Ok(mut bytes) = serde_json::to_vec(line) else {
            return false;
        };
        bytes.push(b'\n');
        self.0.try_send(bytes).is_ok()
    }
}

/// Starts the writer; it ends when all senders are gone. `None` when nothing is to be logged.
pub(crate) fn start(to: &AccessLog) -> Result<Option<Sender>> {
    let failed = |error: io::Error| {
        Error::new(
            Kind::Unavailable,
            "gateway.access_log",
            "the access log cannot be opened",
        )
        .with_context(format!("{to:?}"))
        .with_source(error)
    };
    let out: Box<dyn Write + Send> = match to {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => Box::new(io::stdout()),
        AccessLog::Stderr => Box::new(io::stderr()),
        AccessLog::File(path) => Box::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(failed)?,
        ),
    };
    let (sender, lines) = bounded(QUEUE);
    std::thread::Builder::new()
        .name("access-log".into())
        .spawn(move || write(&lines, BufWriter::with_capacity(64 << 10, out)))
        .map_err(failed)?;
    Ok(Some(Sender(sender)))
}

fn write(lines: &Receiver<Vec<u8>>, mut out: impl Write) {
    let mut healthy = true;
    while let Ok(line) = lines.recv() {
        let mut written = out.write_all(&line);
        while let Ok(line) = lines.try_recv() {
            written = written.and_then(|()| out.write_all(&line));
        }
        match written.and_then(|()| out.flush()) {
            Ok(()) => healthy = true,
            Err(error) if healthy => {
                tracing::error!(%error, "the access log cannot be written");
                healthy = false;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_queries_are_not_shown() {
        assert_eq!(
            redact("?page=2&access_token=abc&x&Api-Key=k&%74oken=t&password="),
            "page=2&access_token=[redacted]&x&Api-Key=[redacted]&%74oken=[redacted]&password="
        );
    }
}
