use std::time::Duration;

use serde::{Deserialize, Serialize};
use sinew_core::{Name, units};

use crate::{
    action::{Redirect, Reply},
    address_range::AddressRange,
    backend::{Backend, Sticky},
    matcher::FieldMatch,
    mirror::Mirror,
    pattern::PathPattern,
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
    /// Before what is said of specificity: a higher one wins.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Only requests to this host, whatever the port; `*.example.com` takes every name below; any
    /// host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `/api/orders/**` takes `/api/orders` and everything below, `/x` takes just that,
    /// `/users/{id}` any one segment there, `~/img/\d+` what the expression takes.
    pub path: PathPattern,
    /// Only these methods; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Only requests whose header fields meet all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
    /// Only requests whose cookies meet all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<FieldMatch>,
    /// Only requests whose query parameters meet all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<FieldMatch>,
    /// Only clients from these addresses; from anywhere when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<AddressRange>,
    /// Where requests go. A route has this, or `backends`, `redirect` or `reply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Where requests go, by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// Keeps clients with the backend that they had first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Who gets copies of the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// Where clients are sent instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// What clients are answered instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// A prefix of `path` that the service does not see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip_prefix: Option<String>,
    /// The path that the service sees instead: `/v2/{order}{rest}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<String>,
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

fn is_zero(priority: &i32) -> bool {
    *priority == 0
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
            service: Some(service),
            ..Self::matching(path)
        }
    }

    /// A route with the defaults that still lacks an action.
    pub fn matching(path: PathPattern) -> Self {
        Self {
            name: None,
            priority: 0,
            host: None,
            path,
            methods: Vec::new(),
            headers: Vec::new(),
            cookies: Vec::new(),
            query: Vec::new(),
            sources: Vec::new(),
            service: None,
            backends: Vec::new(),
            sticky: None,
            mirror: None,
            redirect: None,
            reply: None,
            strip_prefix: None,
            rewrite: None,
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

    /// Whether it takes the same requests, with the same precedence.
    pub(crate) fn matches_like(&self, other: &Self) -> bool {
        self.priority == other.priority
            && self.host == other.host
            && self.path == other.path
            && self.methods == other.methods
            && self.headers == other.headers
            && self.cookies == other.cookies
            && self.query == other.query
            && self.sources == other.sources
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
    fn every_matcher_and_action_goes_through_toml_and_json() {
        let text = r#"
            name = "one"
            priority = 5
            host = "*.example.com"
            path = "/users/{id}/**"
            methods = ["GET"]
            headers = [{ name = "x-a", exact = "1" }, { name = "x-b", present = false }]
            cookies = [{ name = "beta" }]
            query = [{ name = "q", regex = '\d+' }]
            sources = ["10.0.0.0/8"]
            redirect = { to = "https://{host}/new/{id}{rest}" }
        "#;
        let route: Route = toml::from_str(text).unwrap();
        assert_eq!(route.redirect.as_ref().unwrap().status, 308);
        let json = serde_json::to_string(&route).unwrap();
        assert_eq!(serde_json::from_str::<Route>(&json).unwrap(), route);
        let again = toml::to_string(&route).unwrap();
        assert_eq!(toml::from_str::<Route>(&again).unwrap(), route);
        assert_eq!(crate::Router::faults(&[route]), []);
        let reply = "path = \"/\"\nreply = { status = 503, body = \"x\" }";
        let reply: Route = toml::from_str(reply).unwrap();
        assert_eq!(crate::Router::faults(&[reply]), []);
    }
}
