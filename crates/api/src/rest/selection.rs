//! Which services and instances a read means, and how new they shall be: the query of the URL.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use sinew_coordination::registry::{
    Health, Instance, Service, ServiceId, Status, default_namespace,
};
use sinew_core::{Error, Kind, Name, Result, units};
use utoipa::IntoParams;

use super::problem::Refusal;

/// The longest that a read may wait for a change.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How long it waits when it does not say.
const WAIT: Duration = Duration::from_secs(60);
const CONDITIONS: usize = 32;

/// Which instances are wanted. What may be repeated means any of the values, but for metadata, of
/// which all must be there.
#[derive(Clone, Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes `Selection`, which is read by hand")]
pub(super) struct SelectionParams {
    /// The namespace; `default` when absent, `*` for all of them.
    namespace: Option<String>,
    /// Only instances of this status (`up`, `draining`, `down`, `out_of_service`); may be repeated.
    status: Option<Vec<String>>,
    /// Only instances of this health (`passing`, `unknown`, `warning`, `critical`); may be repeated.
    health: Option<Vec<String>>,
    /// Only instances in this zone; may be repeated.
    zone: Option<Vec<String>>,
    /// Only instances of this version; may be repeated.
    version: Option<Vec<String>>,
    /// Only instances with this pair in their metadata (`key=value`), or with this key; may be repeated.
    metadata: Option<Vec<String>>,
    /// Wait until this node shows everything that has happened.
    consistent: Option<bool>,
    /// Wait until the list is of a later revision than this.
    index: Option<u64>,
    /// How long to wait for that, at most 10m; 60s when absent.
    wait: Option<String>,
}

/// What the query asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Selection {
    /// `None` means all.
    pub(super) namespace: Option<Name>,
    pub(super) consistent: bool,
    pub(super) index: Option<u64>,
    pub(super) wait: Duration,
    /// Of a watch: those to follow, all when empty.
    pub(super) services: Vec<Name>,
    /// Of a watch: the revision up to which everything is known.
    pub(super) since: Option<u64>,
    status: Vec<Status>,
    health: Vec<Health>,
    zones: Vec<String>,
    versions: Vec<String>,
    metadata: Vec<(String, Option<String>)>,
}

impl Selection {
    /// Reads the parameters; those in `known` and no others.
    pub(super) fn read(pairs: &[(String, String)], known: &[&str]) -> Result<Self> {
        let mut selection = Self {
            namespace: Some(default_namespace()),
            wait: WAIT,
            ..Self::default()
        };
        for (key, value) in pairs {
            if !known.contains(&key.as_str()) {
                let key: String = key.chars().take(64).collect();
                return Err(invalid(format!(
                    "{key:?} is no parameter of this; use {}",
                    known.join(", ")
                )));
            }
            selection.take(key, value)?;
        }
        let conditions = selection.status.len()
            + selection.health.len()
            + selection.zones.len()
            + selection.versions.len()
            + selection.metadata.len();
        if conditions > CONDITIONS {
            return Err(invalid(format!(
                "{conditions} conditions are too many; use up to {CONDITIONS}"
            )));
        }
        Ok(selection)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "namespace" if value == "*" => self.namespace = None,
            "namespace" => self.namespace = Some(Name::new(value)?),
            "service" => self.services.push(Name::new(value)?),
            "status" => self.status.push(one_of(key, value)?),
            "health" => self.health.push(one_of(key, value)?),
            "zone" => self.zones.push(value.to_owned()),
            "version" => self.versions.push(value.to_owned()),
            "metadata" => self.metadata.push(match value.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (value.to_owned(), None),
            }),
            "consistent" => match value {
                "" | "1" | "true" => self.consistent = true,
                "0" | "false" => self.consistent = false,
                _ => return Err(invalid("`consistent` is true or false")),
            },
            "index" => self.index = Some(number(key, value)?),
            "since" => self.since = Some(number(key, value)?),
            _ => {
                let wait = units::read_duration(value).filter(|wait| *wait <= LONGEST_WAIT);
                self.wait =
                    wait.ok_or_else(|| invalid("`wait` is a time up to 10m, such as 30s"))?;
            }
        }
        Ok(())
    }

    /// Whether an instance meets the conditions.
    pub(super) fn wants(&self, service: &Service, instance: &Instance) -> bool {
        fn any<T: PartialEq>(wanted: &[T], is: &T) -> bool {
            wanted.is_empty() || wanted.contains(is)
        }
        fn any_text(wanted: &[String], is: Option<&str>) -> bool {
            wanted.is_empty() || wanted.iter().any(|wanted| is == Some(wanted))
        }
        any(&self.status, &service.status_of(instance))
            && any(&self.health, &instance.health())
            && any_text(&self.zones, instance.zone())
            && any_text(&self.versions, instance.version())
            && self.metadata.iter().all(|(key, value)| {
                let is = instance.metadata.get(key);
                is.is_some() && (value.is_none() || is == value.as_deref())
            })
    }

    /// The service of this name in the namespace, of which there must be one.
    pub(super) fn service(&self, name: Name) -> Result<ServiceId> {
        match &self.namespace {
            Some(namespace) => Ok(ServiceId::new(namespace.clone(), name)),
            None => Err(invalid(
                "a service is of one namespace; `*` is for lists of all services",
            )),
        }
    }
}

/// How long a request for `query` may wait before it answers, besides the time for answering.
pub(super) fn patience(query: Option<&str>) -> Duration {
    let query = query.unwrap_or_default();
    if !query.split('&').any(|pair| pair.starts_with("index=")) {
        return Duration::ZERO;
    }
    let wait = query.split('&').find_map(|pair| pair.strip_prefix("wait="));
    wait.map_or(Some(WAIT), units::read_duration)
        .unwrap_or_default()
        .min(LONGEST_WAIT)
}

/// The namespace that the query names, `default` if none.
pub(super) fn namespace(parts: &Parts) -> Result<Name> {
    let pairs = pairs(parts)?;
    match pairs.iter().find(|(key, _)| key == "namespace") {
        Some((_, value)) => Name::new(value),
        None => Ok(default_namespace()),
    }
}

fn pairs(parts: &Parts) -> Result<Vec<(String, String)>> {
    Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map(|Query(pairs)| pairs)
        .map_err(|error| invalid(format!("the query cannot be read: {}", error.body_text())))
}

/// What a list is asked with.
pub(super) struct ListQuery(pub(super) Selection);

/// What a watch is asked with.
pub(super) struct WatchQuery(pub(super) Selection);

const LIST: [&str; 9] = [
    "namespace",
    "status",
    "health",
    "zone",
    "version",
    "metadata",
    "consistent",
    "index",
    "wait",
];

impl<S: Send + Sync> FromRequestParts<S> for ListQuery {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Ok(Self(Selection::read(&pairs(parts)?, &LIST)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WatchQuery {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let known = ["service", "namespace", "since"];
        let mut selection = Selection::read(&pairs(parts)?, &known)?;
        // What a browser's EventSource sends when it connects again.
        if let Some(last) = parts.headers.get("last-event-id")
            && let Some(last) = last.to_str().ok().filter(|last| !last.is_empty())
        {
            selection.since = Some(number("Last-Event-ID", last)?);
        }
        Ok(Self(selection))
    }
}

fn one_of<T: serde::de::DeserializeOwned>(key: &str, value: &str) -> Result<T> {
    let value = serde_json::Value::String(value.to_owned());
    serde_json::from_value(value).map_err(|error| invalid(format!("`{key}`: {error}")))
}

fn number(key: &str, value: &str) -> Result<u64> {
    let read = value.parse().ok();
    read.ok_or_else(|| invalid(format!("`{key}` is not a revision, which is a number")))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "api.query_invalid", message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sinew_core::InstanceId;

    use super::*;

    fn read(query: &str) -> Result<Selection> {
        let uri = format!("http://node/v1/services?{query}").parse().unwrap();
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&uri).unwrap();
        Selection::read(&pairs, &LIST)
    }

    async fn service() -> Arc<Service> {
        use sinew_coordination::registry::{Config, Registration, Registry};
        let clock = sinew_core::Clock::system();
        let kv = Arc::new(sinew_engine::kv::MemoryKv::new(clock.clone()));
        let registry = Registry::start(kv, clock, Config::default()).await.unwrap();
        let name = Name::new("orders").unwrap();
        for (n, zone) in ["a", "b", "c"].into_iter().enumerate() {
            let id = InstanceId::new(&format!("orders-{n}")).unwrap();
            let mut registration = Registration::new(&name, id, "127.0.0.1", 80);
            registration.zone = Some(zone.to_owned());
            registration.version = Some(n.to_string());
            registration.metadata.insert("n".into(), n.to_string());
            if n == 2 {
                registration.status = Status::Draining;
            }
            registry.register(registration).await.unwrap();
        }
        registry.service(&name.into())
    }

    #[tokio::test]
    async fn conditions_select_instances() {
        let service = service().await;
        for (query, wanted) in [
            ("", "012"),
            ("zone=a&zone=c", "02"),
            ("status=up", "01"),
            ("status=up&zone=a&zone=c", "0"),
            ("health=passing&version=1", "1"),
            ("health=critical", ""),
            ("metadata=n", "012"),
            ("metadata=n%3D1", "1"),
            ("metadata=n=1&metadata=m", ""),
        ] {
            let selection = read(query).unwrap();
            let instances = service.instances.iter();
            let chosen = instances.filter(|instance| selection.wants(&service, instance));
            let chosen: String = chosen.map(|i| i.version().unwrap()).collect();
            assert_eq!(chosen, wanted, "{query}");
        }
    }

    #[test]
    fn queries_are_checked() {
        let selection = read("namespace=*&consistent&index=7&wait=5s").unwrap();
        assert_eq!(selection.namespace, None);
        assert!(selection.consistent);
        assert_eq!(selection.wait, Duration::from_secs(5));
        let many = vec!["zone=a"; 33].join("&");
        for bad in [
            "status=UP",
            "zones=a",
            "service=a",
            "index=-1",
            "wait=1h",
            "consistent=maybe",
            &many,
        ] {
            assert_eq!(read(bad).unwrap_err().code(), "api.query_invalid", "{bad}");
        }
        let error = read("namespace=A").unwrap_err();
        assert_eq!(error.code(), "core.name_invalid");
    }

    #[test]
    fn only_those_who_say_so_may_wait() {
        assert_eq!(patience(None), Duration::ZERO);
        assert_eq!(patience(Some("wait=5s")), Duration::ZERO);
        assert_eq!(patience(Some("index=7")), WAIT);
        assert_eq!(patience(Some("wait=5s&index=7")), Duration::from_secs(5));
        assert_eq!(patience(Some("index=7&wait=x")), Duration::ZERO);
    }
}
