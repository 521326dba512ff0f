use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_core::{Error, Kind, Name, Result, units};

use crate::{
    path,
    policy::{Conditions, Fallback, Hedge, optional_duration},
    protocol::Protocol,
};

/// One route: which requests it takes, and what becomes of them. In `sinew.toml` a `[[routes]]`
/// table; in the control API an object of `/v1/routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What metrics and logs call it; `host` and `path` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Only requests to this host, whatever the port; any host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `/api/orders/**` takes `/api/orders` and everything below, `/x` takes just that.
    pub path: PathPattern,
    /// Where requests go.
    pub service: Name,
    /// A prefix of `path` that the service does not see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip_prefix: Option<String>,
    /// What a request must prove before it passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auth: Vec<Auth>,
    /// How long connecting to an instance may take.
    #[serde(default = "connect_timeout", with = "units::duration")]
    pub connect_timeout: Duration,
    /// From the request sent until the response's head, retries included.
    #[serde(default = "timeout", with = "units::duration")]
    pub timeout: Duration,
    /// How many more instances are tried where that is safe.
    #[serde(default = "retries")]
    pub retries: u8,
    /// Which failures are worth one of them.
    #[serde(default = "Conditions::no_answer")]
    pub retry_on: Conditions,
    /// Around how long the first pause before another try is; later ones are longer. None after a
    /// refused connection.
    #[serde(default = "retry_backoff", with = "units::duration")]
    pub retry_backoff: Duration,
    /// Requests are tried again whatever their method: the service does nothing twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_any_method: bool,
    /// How long one try may take to answer; `timeout` when absent.
    #[serde(default, with = "optional_duration")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub try_timeout: Option<Duration>,
    /// From the request's head to the response's last byte; without bound when absent.
    #[serde(default, with = "optional_duration")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_timeout: Option<Duration>,
    /// How long a response may stand still; `[gateway.limits] body_timeout` when absent.
    #[serde(default, with = "optional_duration")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// When a second instance is asked at the same time; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// What is answered when the service cannot; a problem with status 502, 503 or 504 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// What the instances speak; what each says of itself (`protocol` in its metadata) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The longest request body, in bytes.
    #[serde(default = "max_body", with = "units::size")]
    pub max_body: u64,
}

/// A proof that a route can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// A bearer token that the known keys verify.
    Jwt,
    /// A certificate of the client's, of an authority in `[gateway.tls] client_ca`.
    ClientCertificate,
}

/// Which paths a route takes. Always in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// This path (without a slash at the end) and everything below it, on a segment boundary.
    /// Empty takes every path.
    Prefix(String),
}

fn connect_timeout() -> Duration {
    Duration::from_secs(1)
}

fn timeout() -> Duration {
    Duration::from_secs(15)
}

fn retries() -> u8 {
    1
}

fn retry_backoff() -> Duration {
    Duration::from_millis(25)
}

fn max_body() -> u64 {
    1 << 20
}

impl Route {
    /// A route with the defaults: no host, no proof, 1 s to connect, 15 s to answer, one retry,
    /// bodies up to 1 MiB.
    pub fn new(path: PathPattern, service: Name) -> Self {
        Self {
            name: None,
            host: None,
            path,
            service,
            strip_prefix: None,
            auth: Vec::new(),
            connect_timeout: connect_timeout(),
            timeout: timeout(),
            retries: retries(),
            retry_on: Conditions::no_answer(),
            retry_backoff: retry_backoff(),
            retry_any_method: false,
            try_timeout: None,
            total_timeout: None,
            idle_timeout: None,
            hedge: None,
            fallback: None,
            protocol: None,
            max_body: max_body(),
        }
    }

    /// What metrics and logs call it.
    pub fn label(&self) -> String {
        match (&self.name, &self.host) {
            (Some(name), _) => name.to_string(),
            (None, Some(host)) => format!("{host}{}", self.path),
            (None, None) => self.path.to_string(),
        }
    }
}

impl PathPattern {
    /// Reads `/a/**` or `/a`; `gateway.route_invalid` (InvalidArgument) when it could never match
    /// a canonical path.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(
                Kind::InvalidArgument,
                "gateway.route_invalid",
                format!("{text:?} is not a route's path: {why}"),
            )
        };
        let (fixed, prefix) = match text.strip_suffix("/**") {
            Some(fixed) => (fixed, true),
            None => (text, false),
        };
        if fixed.contains('*') {
            return Err(invalid("`**` may stand at the end alone, after a slash"));
        }
        if fixed.contains('?') {
            return Err(invalid("it matches paths, not queries"));
        }
        let mut canonical = Vec::new();
        if !(prefix && fixed.is_empty()) {
            path::canonicalise(fixed.as_bytes(), &mut canonical)
                .map_err(|refusal| invalid(refusal.why()))?;
        }
        if prefix && canonical.ends_with(b"/") {
            return Err(invalid("a slash stands twice before `**`"));
        }
        let canonical = String::from_utf8(canonical).expect("canonical paths are ASCII");
        Ok(if prefix {
            Self::Prefix(canonical)
        } else {
            Self::Exact(canonical)
        })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}/**"),
        }
    }
}

impl FromStr for PathPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for PathPattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_toml_and_fills_the_defaults() {
        let text =
            "path = \"/api/orders/**\"\nservice = \"orders\"\nauth = [\"jwt\"]\ntimeout = \"2s\"";
        let route: Route = toml::from_str(text).unwrap();
        assert_eq!(route.path, PathPattern::Prefix("/api/orders".into()));
        assert_eq!(
            (route.auth.as_slice(), route.retries),
            (&[Auth::Jwt][..], 1)
        );
        assert_eq!(
            (route.timeout, route.max_body),
            (Duration::from_secs(2), 1 << 20)
        );
        let json = serde_json::to_string(&route).unwrap();
        assert!(
            json.contains("\"timeout\":\"2s\"") && json.contains("\"max_body\":\"1MiB\""),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Route>(&json).unwrap(), route);
        assert!(toml::from_str::<Route>("path = \"/\"\nservice = \"a\"\npaht = 1").is_err());
    }

    #[test]
    fn patterns_are_canonical() {
        let parse = |text| PathPattern::parse(text).map(|pattern| pattern.to_string());
        assert_eq!(parse("/**").unwrap(), "/**");
        assert_eq!(parse("/%61b").unwrap(), "/ab");
        for bad in [
            "", "a", "a/**", "/a/*", "/a/**/b", "/a/../b", "/a?b", "/a//b", "//**", "/%2f",
        ] {
            assert_eq!(
                parse(bad).unwrap_err().code(),
                "gateway.route_invalid",
                "{bad}"
            );
        }
    }
}
