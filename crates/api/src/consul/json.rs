//! Bodies as Consul reads them: letter case and underscores in the names of fields do not count.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value};
use sinew_core::Result;

use super::{duration, reply};

/// What is below these is a map of its users', whose keys stay as they are.
const MAPS: [&str; 4] = ["meta", "header", "taggedaddresses", "nodemeta"];

/// Reads a body. An empty one is as if it were `{}`.
///
/// InvalidArgument `consul.request_invalid`.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let wrong = |error: serde_json::Error| {
        // Its messages name the field, as this module writes it, and what was expected.
        reply::invalid(format!("Request decode failed: {error}"))
    };
    if body.trim_ascii().is_empty() {
        return T::deserialize(Value::Object(Map::new())).map_err(wrong);
    }
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(wrong)?;
    T::deserialize(folded(Value::Object(fields), true)).map_err(wrong)
}

/// Reads a body that is a list.
///
/// InvalidArgument `consul.request_invalid`.
pub(super) fn read_list<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>> {
    let wrong = |error| reply::invalid(format!("Request decode failed: {error}"));
    let items: Vec<Value> = serde_json::from_slice(body).map_err(wrong)?;
    let items = items
        .into_iter()
        .map(|item| T::deserialize(folded(item, true)));
    items.collect::<Result<_, _>>().map_err(wrong)
}

/// With names in lower case and without underscores. Of fields that become the same the last one counts.
fn folded(value: Value, names: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            let fields = fields.map(|(name, value)| {
                let name = if names {
                    name.replace('_', "").to_ascii_lowercase()
                } else {
                    name
                };
                let is_map = names && MAPS.contains(&name.as_str());
                // The values of tagged addresses are objects of Consul's again.
                let value = match value {
                    Value::Object(below) if is_map => Value::Object(
                        below
                            .into_iter()
                            .map(|(key, value)| (key, folded(value, true)))
                            .collect(),
                    ),
                    other => folded(other, names),
                };
                (name, value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(values) => Value::Array(
            values
                .into_iter()
                .map(|value| folded(value, names))
                .collect(),
        ),
        other => other,
    }
}

/// A duration: as Go writes it, or a number of nanoseconds. Empty is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span(pub(super) Option<Duration>);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(f64),
        }
        let wrong =
            || serde::de::Error::custom("a duration is written such as \"10s\" or \"1m30s\"");
        match Written::deserialize(from)? {
            Written::Text(text) if text.is_empty() => Ok(Self(None)),
            Written::Text(text) => duration::parse(&text)
                .map(|d| Self(Some(d)))
                .ok_or_else(wrong),
            Written::Number(nanos) => Duration::try_from_secs_f64(nanos / 1e9)
                .map(|d| Self(Some(d)))
                .map_err(|_| wrong()),
        }
    }
}

/// A service as it is registered.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub(super) struct ServiceBody {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) tags: Vec<String>,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) taggedaddresses: BTreeMap<String, TaggedAddress>,
    pub(super) check: Option<CheckBody>,
    pub(super) checks: Vec<CheckBody>,
    pub(super) enabletagoverride: bool,
    pub(super) weights: Option<Weights>,
    pub(super) kind: String,
    pub(super) proxy: Option<Value>,
    pub(super) connect: Option<Value>,
    pub(super) socketpath: String,
    pub(super) locality: Option<Locality>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, serde::Serialize)]
#[serde(default)]
pub(super) struct TaggedAddress {
    pub(super) address: String,
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Weights {
    pub(super) passing: u16,
    pub(super) warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            passing: 1,
            warning: 1,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Locality {
    pub(super) zone: String,
}

/// A check as it is registered, with its service or by itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub(super) struct CheckBody {
    pub(super) id: String,
    pub(super) checkid: String,
    pub(super) name: String,
    pub(super) notes: String,
    pub(super) serviceid: String,
    pub(super) ttl: Span,
    pub(super) http: String,
    pub(super) method: String,
    pub(super) header: BTreeMap<String, Value>,
    pub(super) body: String,
    pub(super) tcp: String,
    pub(super) tcpusetls: bool,
    pub(super) grpc: String,
    pub(super) grpcusetls: bool,
    pub(super) udp: String,
    pub(super) h2ping: String,
    pub(super) script: Value,
    pub(super) args: Vec<String>,
    pub(super) scriptargs: Vec<String>,
    pub(super) dockercontainerid: String,
    pub(super) aliasservice: String,
    pub(super) aliasnode: String,
    pub(super) osservice: String,
    pub(super) interval: Span,
    pub(super) timeout: Span,
    pub(super) status: String,
    pub(super) successbeforepassing: u8,
    pub(super) failuresbeforecritical: u8,
    pub(super) deregistercriticalserviceafter: Span,
}

/// The result of a TTL check.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct UpdateBody {
    pub(super) status: String,
    pub(super) output: String,
}

/// A session as it is made.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub(super) struct SessionBody {
    pub(super) name: String,
    pub(super) node: String,
    pub(super) lockdelay: Option<Value>,
    pub(super) behavior: String,
    pub(super) ttl: Span,
    pub(super) checks: Option<Vec<String>>,
    pub(super) nodechecks: Option<Vec<String>>,
    pub(super) servicechecks: Option<Vec<Value>>,
}

/// One operation of a transaction.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Operation {
    pub(super) kv: Option<KvOperation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KvOperation {
    pub(super) verb: String,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) flags: u64,
    pub(super) index: u64,
    pub(super) session: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letter_case_does_not_count_but_in_maps() {
        let body = br#"{"name":"web","ID":"web-1","Tags":null,"Enable_Tag_Override":true,
            "Meta":{"Some_Key":"V"},"tagged_addresses":{"LAN":{"Address":"10.0.0.1","Port":80}},
            "Check":{"TTL":"15s","DeregisterCriticalServiceAfter":"1m","Timeout":""}}"#;
        let service: ServiceBody = read(body).unwrap();
        assert_eq!((&*service.name, &*service.id), ("web", "web-1"));
        assert!(service.enabletagoverride && service.tags.is_empty());
        assert_eq!(service.meta["Some_Key"], "V");
        assert_eq!(service.taggedaddresses["LAN"].port, 80);
        let check = service.check.unwrap();
        assert_eq!(check.ttl.0, Some(Duration::from_secs(15)));
        assert_eq!(check.timeout.0, None);
        let after = check.deregistercriticalserviceafter.0;
        assert_eq!(after, Some(Duration::from_secs(60)));
    }

    #[test]
    fn bodies_that_are_wrong_or_missing() {
        assert_eq!(read::<SessionBody>(b" ").unwrap().name, "");
        let nanos: CheckBody = read(br#"{"ttl":10000000000}"#).unwrap();
        assert_eq!(nanos.ttl.0, Some(Duration::from_secs(10)));
        for bad in [
            &b"x"[..],
            b"[]",
            br#"{"name":7}"#,
            br#"{"ttl":"10"}"#,
            br#"{"ttl":-1}"#,
        ] {
            let error = read::<CheckBody>(bad).unwrap_err();
            assert_eq!(error.code(), "consul.request_invalid");
        }
        read::<ServiceBody>(br#"{"port":70000}"#).unwrap_err();
    }
}
