//! What a client says of its instance when it registers it, checked.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};
use sinew_core::{Error, Kind, Result};

use super::status::Status;

/// The original's, for clients that do not say it.
const RENEWAL_SECONDS: u64 = 30;
const DURATION: Duration = Duration::from_secs(90);

/// An instance as its client describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Announced {
    pub(super) id: String,
    pub(super) app: String,
    pub(super) host: String,
    pub(super) ip: String,
    pub(super) status: Status,
    pub(super) port: PortOf,
    pub(super) secure_port: PortOf,
    pub(super) country: u64,
    pub(super) data_center: String,
    pub(super) data_center_metadata: BTreeMap<String, String>,
    pub(super) renewal_seconds: u64,
    pub(super) duration: Duration,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) dirty: Option<u64>,
    pub(super) coordinates: bool,
    /// Text that is only kept: URLs, virtual addresses and the like, by name.
    pub(super) texts: BTreeMap<&'static str, String>,
}

/// A port, and whether it is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PortOf {
    pub(super) number: u16,
    pub(super) enabled: bool,
}

/// The fields that are only kept.
pub(super) const TEXTS: [&str; 9] = [
    "sid",
    "appGroupName",
    "asgName",
    "homePageUrl",
    "statusPageUrl",
    "healthCheckUrl",
    "secureHealthCheckUrl",
    "vipAddress",
    "secureVipAddress",
];

/// Those that there are. A name that a Java client does not know would keep it from reading anything.
const DATA_CENTERS: [&str; 3] = ["MyOwn", "Amazon", "Netflix"];

impl Announced {
    /// The instance in a document `{"instance": {…}}`, registered under `app`.
    ///
    /// InvalidArgument `eureka.instance_invalid`.
    pub(super) fn read(document: &Value, app: &str) -> Result<Self> {
        let instance = document.get("instance").and_then(Value::as_object);
        let instance = instance.ok_or_else(|| invalid("Missing instance"))?;
        let text = |name: &str| {
            instance
                .get(name)
                .and_then(text_of)
                .filter(|text| !text.is_empty())
        };
        let needed = |name: &str| text(name).ok_or_else(|| invalid(format!("Missing {name}")));

        let host = needed("hostName")?;
        let ip = needed("ipAddr")?;
        let said = needed("app")?;
        if said.to_uppercase() != app.to_uppercase() {
            let (expected, said) = (short(&app.to_uppercase()), short(&said));
            return Err(invalid(format!(
                "Mismatched app, expecting {expected} but was {said}"
            )));
        }
        let center = instance.get("dataCenterInfo").and_then(Value::as_object);
        let center = center.ok_or_else(|| invalid("Missing dataCenterInfo"))?;
        let data_center = center.get("name").and_then(text_of);
        let data_center = data_center.ok_or_else(|| invalid("Missing dataCenterInfo name"))?;
        if !DATA_CENTERS.contains(&&*data_center) {
            return Err(invalid(format!(
                "dataCenterInfo name {} is none of {}",
                short(&data_center),
                DATA_CENTERS.join(", ")
            )));
        }
        let data_center_metadata = pairs(center.get("metadata"))?;
        // Without an id of its own an instance is known by its machine's.
        let of_machine = || match data_center.as_str() {
            "Amazon" => data_center_metadata.get("instance-id").cloned(),
            _ => None,
        };
        let id = text("instanceId")
            .or_else(of_machine)
            .unwrap_or_else(|| host.clone());

        let status = match text("status") {
            Some(status) => Status::read(&status)?,
            None => Status::Up,
        };
        let lease = instance.get("leaseInfo").and_then(Value::as_object);
        let seconds = |name| lease.map_or(Ok(None), |lease| number(lease, name));
        let kept = |name| Some((name, text(name)?));
        Ok(Self {
            id,
            app: said,
            status,
            port: port(instance, "port")?,
            secure_port: port(instance, "securePort")?,
            country: number(instance, "countryId")?.unwrap_or(1),
            data_center_metadata,
            data_center,
            renewal_seconds: seconds("renewalIntervalInSecs")?
                .filter(|seconds| *seconds > 0)
                .unwrap_or(RENEWAL_SECONDS),
            duration: seconds("durationInSecs")?
                .filter(|seconds| *seconds > 0)
                .map_or(DURATION, Duration::from_secs),
            metadata: pairs(instance.get("metadata"))?,
            dirty: number(instance, "lastDirtyTimestamp")?,
            coordinates: text("isCoordinatingDiscoveryServer").as_deref() == Some("true"),
            texts: TEXTS.into_iter().filter_map(kept).collect(),
            host,
            ip,
        })
    }
}

/// `{"$": 8080, "@enabled": "true"}`, or the number alone.
fn port(instance: &Map<String, Value>, name: &str) -> Result<PortOf> {
    let (number, enabled) = match instance.get(name) {
        None | Some(Value::Null) => return Ok(PortOf::default()),
        Some(Value::Object(port)) => {
            let enabled = port.get("@enabled").and_then(text_of);
            (
                port.get("$").and_then(text_of),
                enabled.is_none_or(|enabled| enabled == "true"),
            )
        }
        Some(number) => (text_of(number), true),
    };
    // -1 and the like stand for none.
    let number = number.and_then(|number| number.parse::<i64>().ok());
    let number = number.ok_or_else(|| invalid(format!("{name} is not a port")))?;
    let number = u16::try_from(number.max(0))
        .map_err(|_| invalid(format!("{name} {number} is not a port; use 1 to 65535")))?;
    Ok(PortOf {
        number,
        enabled: enabled && number != 0,
    })
}

/// A number, which may be written as text.
fn number(object: &Map<String, Value>, name: &str) -> Result<Option<u64>> {
    let text = object
        .get(name)
        .and_then(text_of)
        .filter(|text| !text.is_empty());
    let Some(text) = text else { return Ok(None) };
    match text.parse::<i64>() {
        Ok(number) => Ok(Some(u64::try_from(number).unwrap_or(0))),
        Err(_) => Err(invalid(format!("{name} {} is not a number", short(&text)))),
    }
}

/// Metadata. Java's name of an empty map stands for none.
fn pairs(value: Option<&Value>) -> Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    match value {
        Some(Value::Object(object)) => {
            for (key, value) in object.iter().filter(|(key, _)| *key != "@class") {
                let Some(value) = text_of(value) else {
                    continue;
                };
                pairs.insert(key.clone(), value);
            }
        }
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.trim().is_empty() => {}
        Some(_) => return Err(invalid("metadata is not a map of texts")),
    }
    Ok(pairs)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidArgument, "eureka.instance_invalid", message)
}

/// What somebody sent, cut to what a message can hold.
pub(super) fn short(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tree, *};

    /// As eureka-js-client's documentation has it, with what Java and Python add.
    fn whole() -> Value {
        json!({"instance": {
            "instanceId": "10.0.0.1:orders:8080", "app": "orders", "hostName": "box", "ipAddr": "10.0.0.1",
            "status": "STARTING", "overriddenstatus": "UNKNOWN",
            "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": "443", "@enabled": "false"},
            "countryId": 1,
            "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
            "leaseInfo": {"renewalIntervalInSecs": 5, "durationInSecs": "15", "registrationTimestamp": 0},
            "metadata": {"@class": "java.util.Collections$EmptyMap", "zone": "a", "n": 1, "b": true, "none": null},
            "vipAddress": "orders", "homePageUrl": "http://box:8080/", "asgName": null,
            "isCoordinatingDiscoveryServer": "false",
            "lastUpdatedTimestamp": "1700000000001", "lastDirtyTimestamp": "1700000000000",
        }})
    }

    fn without(name: &str) -> Value {
        let mut document = whole();
        document["instance"]
            .as_object_mut()
            .unwrap()
            .remove(name)
            .unwrap();
        document
    }

    fn with(name: &str, value: Value) -> Value {
        let mut document = whole();
        document["instance"][name] = value;
        document
    }

    #[test]
    fn all_that_clients_say_is_understood() {
        let read = Announced::read(&whole(), "ORDERS").unwrap();
        assert_eq!(read.id, "10.0.0.1:orders:8080");
        assert_eq!((read.host.as_str(), read.ip.as_str()), ("box", "10.0.0.1"));
        assert_eq!(read.status, Status::Starting);
        assert_eq!(
            read.port,
            PortOf {
                number: 8080,
                enabled: true
            }
        );
        assert_eq!(
            read.secure_port,
            PortOf {
                number: 443,
                enabled: false
            }
        );
        assert_eq!((read.renewal_seconds, read.duration.as_secs()), (5, 15));
        assert_eq!(read.dirty, Some(1_700_000_000_000));
        let metadata: Vec<_> = read
            .metadata
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(metadata, [("b", "true"), ("n", "1"), ("zone", "a")]);
        let texts: Vec<_> = read.texts.iter().map(|(k, v)| (*k, v.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("homePageUrl", "http://box:8080/"),
                ("vipAddress", "orders")
            ]
        );
    }

    #[test]
    fn xml_says_the_same() {
        let xml = br#"<instance><instanceId>i</instanceId><app>ORDERS</app><hostName>box</hostName>
            <ipAddr>10.0.0.1</ipAddr><status>UP</status><port enabled="true">8080</port>
            <dataCenterInfo class="com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"><name>MyOwn</name></dataCenterInfo>
            <metadata><management.port>1</management.port></metadata></instance>"#;
        let read = Announced::read(&tree::read(xml).unwrap(), "orders").unwrap();
        assert_eq!(
            (read.id.as_str(), read.port.number, read.duration),
            ("i", 8080, DURATION)
        );
        assert_eq!(read.metadata["management.port"], "1");
    }

    #[test]
    fn what_may_be_left_out() {
        let read = Announced::read(&without("instanceId"), "orders").unwrap();
        assert_eq!(read.id, "box");
        let read = Announced::read(&without("leaseInfo"), "orders").unwrap();
        assert_eq!((read.renewal_seconds, read.duration), (30, DURATION));
        let read = Announced::read(&with("port", json!(8080)), "orders").unwrap();
        assert_eq!(
            read.port,
            PortOf {
                number: 8080,
                enabled: true
            }
        );
        let read = Announced::read(
            &with("port", json!({"$": -1, "@enabled": "true"})),
            "orders",
        )
        .unwrap();
        assert_eq!(read.port, PortOf::default());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let message = |document: Value| {
            let error = Announced::read(&document, "orders").unwrap_err();
            assert_eq!(error.code(), "eureka.instance_invalid");
            error.message().to_owned()
        };
        for name in ["hostName", "ipAddr", "app", "dataCenterInfo"] {
            assert_eq!(message(without(name)), format!("Missing {name}"));
        }
        assert_eq!(message(json!({})), "Missing instance");
        assert_eq!(message(json!([])), "Missing instance");
        let wrong = [
            ("app", json!("payments"), "Mismatched"),
            ("status", json!("UPP"), "UPP"),
            ("port", json!({"$": 65536}), "65536"),
            ("port", json!({"$": "x"}), "not a port"),
            ("port", json!([]), "not a port"),
            ("leaseInfo", json!({"durationInSecs": "soon"}), "soon"),
            ("metadata", json!(["a"]), "metadata"),
            ("dataCenterInfo", json!({"name": "Mine"}), "MyOwn"),
            ("lastDirtyTimestamp", json!("x"), "lastDirtyTimestamp"),
        ];
        for (name, value, part) in wrong {
            let said = message(with(name, value));
            assert!(said.contains(part), "{said}");
        }
    }
}
