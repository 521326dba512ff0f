//! One line: a JSON object of the fields that are wanted.

use std::{net::IpAddr, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap};
use sinew_core::Timestamp;

use super::logging::{LogField, Logging, QueryValues};

/// What is known of a request. Of the client's headers only those stand here that hold no credential, so that none can be
/// logged.
pub(crate) struct Line<'a> {
    pub(crate) time: Timestamp,
    pub(crate) request_id: &'a str,
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) peer: IpAddr,
    /// As ALPN calls it.
    pub(crate) protocol: &'static str,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) status: u16,
    pub(crate) code: Option<&'static str>,
    pub(crate) route: Option<&'a str>,
    pub(crate) service: Option<&'a str>,
    pub(crate) subset: &'a str,
    pub(crate) instance: Option<&'a str>,
    pub(crate) retries: u32,
    pub(crate) took: Duration,
    pub(crate) body_in: u64,
    pub(crate) body_out: u64,
    pub(crate) user_agent: Option<&'a [u8]>,
    pub(crate) referer: Option<&'a [u8]>,
}

impl Line<'_> {
    /// As JSON, with its line feed.
    pub(super) fn bytes(&self, logging: &Logging) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(&Chosen {
            line: self,
            logging,
        })?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

struct Chosen<'a> {
    line: &'a Line<'a>,
    logging: &'a Logging,
}

impl Serialize for Chosen<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { line, logging } = self;
        let mut map = to.serialize_map(None)?;
        for field in &logging.fields {
            match field {
                LogField::Time => map.serialize_entry("time", &line.time)?,
                LogField::RequestId => map.serialize_entry("request_id", line.request_id)?,
                LogField::TraceId => some(&mut map, "trace_id", line.trace_id)?,
                LogField::Peer => map.serialize_entry("peer", &line.peer)?,
                LogField::Protocol => map.serialize_entry("protocol", line.protocol)?,
                LogField::Method => map.serialize_entry("method", line.method)?,
                LogField::Host => map.serialize_entry("host", line.host)?,
                LogField::Path => map.serialize_entry("path", line.path)?,
                LogField::Query if line.query.is_empty() => {}
                LogField::Query => {
                    map.serialize_entry("query", &redacted(line.query, logging.query))?;
                }
                LogField::Status => map.serialize_entry("status", &line.status)?,
                LogField::Code => some(&mut map, "code", line.code)?,
                LogField::Route => some(&mut map, "route", line.route)?,
                LogField::Service => some(&mut map, "service", line.service)?,
                LogField::Subset if line.subset.is_empty() => {}
                LogField::Subset => map.serialize_entry("subset", line.subset)?,
                LogField::Instance => some(&mut map, "instance", line.instance)?,
                LogField::Retries => map.serialize_entry("retries", &line.retries)?,
                LogField::TookMs => {
                    map.serialize_entry("took_ms", &(line.took.as_micros() as f64 / 1e3))?;
                }
                LogField::BodyIn => map.serialize_entry("body_in", &line.body_in)?,
                LogField::BodyOut => map.serialize_entry("body_out", &line.body_out)?,
                LogField::UserAgent => {
                    let text = line.user_agent.map(String::from_utf8_lossy);
                    some(&mut map, "user_agent", text.as_deref())?;
                }
                LogField::Referer => {
                    let text = line.referer.map(String::from_utf8_lossy);
                    some(&mut map, "referer", text.as_deref().map(without_query))?;
                }
            }
        }
        map.end()
    }
}

fn some<M: SerializeMap>(
    map: &mut M,
    name: &'static str,
    value: Option<&str>,
) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(name, value),
        None => Ok(()),
    }
}

/// A URL up to its query, and without the name and password that may stand before its host.
fn without_query(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once('@') {
        Some(_) => "",
        None => url,
    }
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

fn redacted(query: &str, values: QueryValues) -> String {
    let parameter = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) => {
            let plain = name.to_ascii_lowercase();
            let hidden = values == QueryValues::Hidden
                || plain.contains('%')
                || SECRETS.iter().any(|word| plain.contains(word));
            let value = if hidden && !value.is_empty() {
                "[redacted]"
            } else {
                value
            };
            format!("{name}={value}")
        }
        // What stands alone may be a value as well as a name.
        None if values == QueryValues::Hidden && !parameter.is_empty() => "[redacted]".to_owned(),
        None => parameter.to_owned(),
    };
    let query = query.strip_prefix('?').unwrap_or(query);
    query
        .split('&')
        .map(parameter)
        .collect::<Vec<_>>()
        .join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_queries_are_shown_only_when_asked_for_and_secrets_never() {
        let query = "?page=2&access_token=abc&x&Api-Key=k&%74oken=t&password=";
        assert_eq!(
            redacted(query, QueryValues::Shown),
            "page=2&access_token=[redacted]&x&Api-Key=[redacted]&%74oken=[redacted]&password="
        );
        assert_eq!(
            redacted(query, QueryValues::Hidden),
            "page=[redacted]&access_token=[redacted]&[redacted]&Api-Key=[redacted]&%74oken=[redacted]&password="
        );
    }

    #[test]
    fn referers_lose_what_may_be_secret() {
        assert_eq!(without_query("https://a/b?token=x#y"), "https://a/b");
        assert_eq!(without_query("https://user:pw@a/b"), "");
    }
}
