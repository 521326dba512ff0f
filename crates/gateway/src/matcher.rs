//! What a route asks of a request besides its host and path: method, header fields, cookies, query
//! parameters, the client's address.

use std::{borrow::Cow, net::IpAddr};

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

use crate::{
    address_range::AddressRange,
    h1::{FieldKind, classify},
    pattern,
    route::Route,
};

/// A condition on a header field, a cookie or a query parameter. Without `exact`, `regex` and
/// `present` the thing must be there, whatever its value. One that stands several times must fit
/// every time: what a service takes of two values is not the gateway's to guess.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldMatch {
    /// Of the field, in any case; of the cookie or parameter, as it is.
    pub name: String,
    /// The whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// An expression for the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// `false` when it must not be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// A request as routes see it.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// In lower case, without port and trailing dot.
    pub host: &'a str,
    /// Canonical.
    pub path: &'a str,
    /// `?` and the canonical query, or nothing.
    pub query: &'a str,
    /// As sent.
    pub method: &'a str,
    /// The client's address.
    pub source: IpAddr,
    /// The request's header fields.
    pub fields: &'a dyn HeaderLines,
}

/// The header fields of a request.
pub trait HeaderLines {
    /// Shows the values of the lines of this name, whose case is of no importance, until `see` is
    /// false; returns whether it never was.
    fn every(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

impl HeaderLines for () {
    fn every(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        true
    }
}

/// The compiled conditions of a route that has any.
#[derive(Debug)]
pub(crate) struct Conditions {
    methods: Box<[Box<str>]>,
    headers: Box<[Condition]>,
    cookies: Box<[Condition]>,
    query: Box<[Condition]>,
    sources: Box<[AddressRange]>,
}

#[derive(Debug)]
struct Condition {
    name: Box<str>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Absent,
    Exact(Box<str>),
    Regex(Regex),
}

impl Conditions {
    /// `None` when the route has no conditions. What is wrong with them goes to `faults`.
    pub(crate) fn compile(route: &Route, faults: &mut Vec<String>) -> Option<Box<Self>> {
        for method in &route.methods {
            if matches!(method.as_str(), "CONNECT" | "TRACE") {
                faults.push(format!("{method} requests do not pass the gateway"));
            } else if method.is_empty()
                || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
            {
                faults.push(format!("{method:?} is no method; write it in capitals"));
            }
        }
        for field in &route.headers {
            match classify(field.name.as_bytes()) {
                FieldKind::Forwarding | FieldKind::Identity | FieldKind::Twin => faults.push(format!(
                    "header {}: what clients say in it never counts, so no route can depend on it",
                    field.name
                )),
                FieldKind::Host => faults.push("header host: write `host = …` instead".to_owned()),
                _ => {}
            }
        }
        let mut all = |what: &str, fields: &[FieldMatch]| -> Box<[Condition]> {
            fields
                .iter()
                .filter_map(|field| {
                    let name = match what {
                        "header" => field.name.to_ascii_lowercase(),
                        _ => field.name.clone(),
                    };
                    let is_name =
                        |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
                    if name.is_empty() || (what != "query parameter" && !name.bytes().all(is_name))
                    {
                        faults.push(format!("{what} {name:?}: this is no name"));
                        return None;
                    }
                    Condition::compile(&name, field)
                        .map_err(|why| faults.push(format!("{what} {}: {why}", field.name)))
                        .ok()
                })
                .collect()
        };
        let conditions = Self {
            methods: route.methods.iter().map(|m| m.as_str().into()).collect(),
            headers: all("header", &route.headers),
            cookies: all("cookie", &route.cookies),
            query: all("query parameter", &route.query),
            sources: route.sources.clone().into(),
        };
        (conditions.count() > 0).then(|| Box::new(conditions))
    }

    /// The methods that may pass, a bit each, and whether that is all there is to ask.
    pub(crate) fn methods(&self) -> (u8, bool) {
        if self.methods.is_empty() {
            return (u8::MAX, false);
        }
        let bits = self
            .methods
            .iter()
            .fold(0, |bits, one| bits | method_bit(one));
        (bits, bits & OTHER_METHOD == 0 && self.count() == 1)
    }

    /// How many there are; a list of methods or addresses is one.
    pub(crate) fn count(&self) -> usize {
        usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.cookies.len()
            + self.query.len()
            + usize::from(!self.sources.is_empty())
    }

    pub(crate) fn hold(&self, asked: &Question<'_>) -> bool {
        let source = || {
            self.sources
                .iter()
                .any(|range| range.contains(asked.source))
        };
        (self.methods.is_empty() || self.methods.iter().any(|method| **method == *asked.method))
            && (self.sources.is_empty() || source())
            && self.headers.iter().all(|one| one.holds_for_header(asked))
            && self.cookies.iter().all(|one| one.holds_for_cookie(asked))
            && self
                .query
                .iter()
                .all(|one| one.holds_for_query(asked.query))
    }

    /// Whether no request can meet both, as far as that is told without comparing two expressions.
    pub(crate) fn exclude(&self, other: &Self) -> bool {
        let apart = |own: &[Condition], others: &[Condition]| {
            own.iter()
                .any(|one| others.iter().any(|other| one.excludes(other)))
        };
        let methods = !self.methods.is_empty()
            && !other.methods.is_empty()
            && !self.methods.iter().any(|one| other.methods.contains(one));
        let overlap = |one: &AddressRange| other.sources.iter().any(|range| range.overlaps(one));
        let sources = !self.sources.is_empty()
            && !other.sources.is_empty()
            && !self.sources.iter().any(overlap);
        methods
            || sources
            || apart(&self.headers, &other.headers)
            || apart(&self.cookies, &other.cookies)
            || apart(&self.query, &other.query)
    }
}

/// The bit of all methods that have none of their own.
const OTHER_METHOD: u8 = 1 << 7;

/// The bit of a method.
pub(crate) fn method_bit(method: &str) -> u8 {
    match method {
        "GET" => 1,
        "HEAD" => 1 << 1,
        "POST" => 1 << 2,
        "PUT" => 1 << 3,
        "PATCH" => 1 << 4,
        "DELETE" => 1 << 5,
        "OPTIONS" => 1 << 6,
        _ => OTHER_METHOD,
    }
}

impl Condition {
    fn compile(name: &str, field: &FieldMatch) -> Result<Self, String> {
        let test = match (&field.exact, &field.regex, field.present) {
            (None, None, None | Some(true)) => Test::Present,
            (None, None, Some(false)) => Test::Absent,
            (Some(exact), None, None) => Test::Exact(exact.as_str().into()),
            (None, Some(regex), None) => Test::Regex(pattern::compile(regex)?),
            _ => return Err("give one of `exact`, `regex` and `present`".to_owned()),
        };
        let name = name.into();
        Ok(Self { name, test })
    }

    fn fits(&self, value: &[u8]) -> bool {
        match &self.test {
            Test::Present => true,
            Test::Absent => false,
            Test::Exact(exact) => exact.as_bytes() == value,
            Test::Regex(regex) => regex.is_match(value),
        }
    }

    /// Whether it holds, given whether the thing was there and whether it fitted every time.
    fn holds(&self, found: bool, fitting: bool) -> bool {
        fitting && (found || matches!(self.test, Test::Absent))
    }

    fn holds_for_header(&self, asked: &Question<'_>) -> bool {
        let mut found = false;
        let fitting = asked.fields.every(&self.name, &mut |value| {
            found = true;
            self.fits(value)
        });
        self.holds(found, fitting)
    }

    fn holds_for_cookie(&self, asked: &Question<'_>) -> bool {
        let mut found = false;
        let fitting = every_cookie(asked.fields, &self.name, &mut |value| {
            found = true;
            self.fits(value)
        });
        self.holds(found, fitting)
    }

    /// Names and values are compared decoded, as the service will read them.
    fn holds_for_query(&self, query: &str) -> bool {
        let mut found = false;
        let query = query.strip_prefix('?').unwrap_or_default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if *decoded(name) != *self.name.as_bytes() {
                continue;
            }
            found = true;
            if !self.fits(&decoded(value)) {
                return false;
            }
        }
        self.holds(found, true)
    }

    fn excludes(&self, other: &Self) -> bool {
        if self.name != other.name {
            return false;
        }
        match (&self.test, &other.test) {
            (Test::Absent, Test::Absent) => false,
            (Test::Absent, _) | (_, Test::Absent) => true,
            (Test::Exact(one), Test::Exact(other)) => one != other,
            (Test::Exact(exact), Test::Regex(regex)) | (Test::Regex(regex), Test::Exact(exact)) => {
                !regex.is_match(exact.as_bytes())
            }
            _ => false,
        }
    }
}

/// Shows the values of the cookies of this name, until `see` is false; returns whether it never was.
pub(crate) fn every_cookie(
    fields: &dyn HeaderLines,
    name: &str,
    see: &mut dyn FnMut(&[u8]) -> bool,
) -> bool {
    fields.every("cookie", &mut |line| {
        line.split(|byte| *byte == b';').all(|pair| {
            let pair = pair.trim_ascii();
            let equals = memchr::memchr(b'=', pair).unwrap_or(pair.len());
            let value = pair.get(equals + 1..).unwrap_or_default();
            pair[..equals] != *name.as_bytes() || see(value)
        })
    })
}

/// A part of a query without its encoding.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if memchr::memchr2(b'%', b'+', bytes).is_none() {
        return Cow::Borrowed(bytes);
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = (digit(bytes.get(at + 1)), digit(bytes.get(at + 2)));
        match (bytes[at], pair) {
            (b'%', (Some(high), Some(low))) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', _) => plain.push(b' '),
            (byte, _) => plain.push(byte),
        }
        at += 1;
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests;
