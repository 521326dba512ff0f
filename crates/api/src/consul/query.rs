//! What a request asks for besides its body.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Uri, header, request::Parts},
};
use percent_encoding::percent_decode_str;
use sinew_core::Result;

use crate::Peer;

use super::{
    Consul,
    reply::{self, Refusal},
    wait::Blocking,
};

/// The query, who asks, and the namespace.
pub(super) struct Ask {
    pub(super) query: Query,
    /// Where the request comes from.
    pub(super) peer: IpAddr,
    /// The namespace that is meant; empty for the default one.
    pub(super) namespace: String,
    /// What it waits for, if it waits.
    pub(super) blocking: Option<Blocking>,
}

/// The parameters of a URL.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            let decoded = percent_decode_str(&spaced).decode_utf8();
            decoded
                .map(|text| text.into_owned())
                .map_err(|_| reply::invalid("the query is not UTF-8"))
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self(pairs.collect::<Result<_>>()?))
    }

    /// The value of a parameter; empty when it has none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let of_name = move |pair: &&(String, String)| pair.0 == name;
        self.0.iter().filter(of_name).map(|(_, value)| &**value)
    }

    /// Whether a parameter is there, bare or with a value that does not deny it.
    pub(super) fn is(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| !matches!(value, "0" | "false" | "False" | "FALSE"))
    }

    /// The number that a parameter has, if it is there.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>> {
        let number = |text: &str| {
            let wrong = || reply::invalid(format!("Invalid {name}: it is not a number"));
            text.parse().map_err(|_| wrong())
        };
        self.get(name).map(number).transpose()
    }
}

impl FromRequestParts<Consul> for Ask {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, consul: &Consul) -> Result<Self, Refusal> {
        let query = Query::parse(parts.uri.query().unwrap_or_default())?;
        if let Some(dc) = query.get("dc")
            && !dc.is_empty()
            && dc != consul.datacenter()
        {
            return Err(reply::invalid("No path to datacenter").into());
        }
        let header = parts.headers.get("x-consul-namespace");
        let namespace = query
            .get("ns")
            .or_else(|| header.and_then(|value| value.to_str().ok()))
            .filter(|namespace| *namespace != "default")
            .unwrap_or_default()
            .to_owned();
        let peer = parts.extensions.get::<Peer>();
        Ok(Self {
            blocking: Blocking::of(&query)?,
            peer: peer.map_or(Ipv4Addr::LOCALHOST.into(), |peer| {
                peer.0.ip().to_canonical()
            }),
            namespace,
            query,
        })
    }
}

impl Ask {
    /// Keys and sessions have no namespaces.
    pub(super) fn no_namespace(&self) -> Result<()> {
        if self.namespace.is_empty() {
            return Ok(());
        }
        Err(reply::unsupported(
            "namespaces are for services only, not for keys and sessions",
        ))
    }
}

/// The token that a request carries.
pub(super) fn token<'a>(headers: &'a HeaderMap, query: &'a Query) -> Option<&'a str> {
    let bearer = |value: &'a str| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    };
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    text("x-consul-token")
        .or_else(|| text(header::AUTHORIZATION.as_str()).and_then(bearer))
        .or_else(|| query.get("token"))
}

/// What comes after `prefix` in the path, decoded.
pub(super) fn rest_of(uri: &Uri, prefix: &str) -> Result<String> {
    let rest = uri.path().strip_prefix(prefix).unwrap_or_default();
    let decoded = percent_decode_str(rest).decode_utf8();
    decoded
        .map(|text| text.into_owned())
        .map_err(|_| reply::invalid("the path is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_bare_and_with_values() {
        let query = Query::parse("passing&tag=a%2Fb&tag=c+d&stale=false&index=7&&x=").unwrap();
        assert!(query.is("passing") && !query.is("stale") && !query.is("near") && query.is("x"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert_eq!(query.number("index").unwrap(), Some(7));
        assert_eq!(query.number("flags").unwrap(), None);
        query.number("tag").unwrap_err();
        Query::parse("a=%ff").unwrap_err();
        assert!(Query::parse("keys=True").unwrap().is("keys"));
    }

    #[test]
    fn where_the_token_is() {
        let mut headers = HeaderMap::new();
        let query = Query::parse("token=q").unwrap();
        assert_eq!(token(&headers, &Query::default()), None);
        assert_eq!(token(&headers, &query), Some("q"));
        headers.insert(header::AUTHORIZATION, "bearer  b".parse().unwrap());
        assert_eq!(token(&headers, &query), Some("b"));
        headers.insert("x-consul-token", "x".parse().unwrap());
        assert_eq!(token(&headers, &query), Some("x"));
    }

    #[test]
    fn keys_in_paths() {
        let key = |path: &'static str| rest_of(&Uri::from_static(path), "/v1/kv/").unwrap();
        assert_eq!(key("/v1/kv/a/b%20c?raw"), "a/b c");
        assert_eq!(key("/v1/kv/"), "");
        assert_eq!(key("/v1/kv"), "");
        assert_eq!(key("/v1/kv/a//b/"), "a//b/");
        rest_of(&Uri::from_static("/v1/kv/%ff"), "/v1/kv/").unwrap_err();
    }
}
