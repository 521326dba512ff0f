//! Checks as Consul registers them, as the registry makes them.

use std::time::Duration;

use sinew_coordination::registry::{Check, Health, Probe};
use sinew_core::Result;

use super::{json::CheckBody, reply, shape::KeptCheck};

/// The checks of a service: what the registry does, and what is kept of how they were registered.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) checks: Vec<Check>,
    pub(super) kept: Vec<KeptCheck>,
    /// By the check that lives by being passed.
    pub(super) ttl: Option<Duration>,
    /// The shortest that is asked for.
    pub(super) deregister_after: Option<Duration>,
}

impl Checks {
    /// Adds a check of the service with this id and name.
    ///
    /// InvalidArgument `consul.unsupported`, `consul.request_invalid`.
    pub(super) fn add(
        &mut self,
        body: &CheckBody,
        service: (&str, &str),
        number: usize,
    ) -> Result<()> {
        let (service_id, service_name) = service;
        let own = [&body.checkid, &body.id]
            .into_iter()
            .find(|id| !id.is_empty());
        let id = own.cloned().unwrap_or_else(|| match number {
            0 => format!("service:{service_id}"),
            n => format!("service:{service_id}:{}", n + 1),
        });
        let name = match &*body.name {
            "" => format!("Service '{service_name}' check"),
            name => name.to_owned(),
        };
        let (probe, ttl) = probe(body)?;
        if ttl.is_some() && self.ttl.is_some() {
            return Err(reply::unsupported(
                "a service can have one TTL check here: its heartbeat",
            ));
        }
        self.ttl = self.ttl.or(ttl);
        let asked = body.deregistercriticalserviceafter.0;
        self.deregister_after = match (self.deregister_after, asked.filter(|d| !d.is_zero())) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut check = Check::new(id.as_str(), probe);
        check.health = match (&*body.status, ttl) {
            // Until it has been passed.
            ("", Some(_)) => Health::Critical,
            ("", None) => Health::Unknown,
            (status, _) => health(status)?,
        };
        if let Some(interval) = body.interval.0 {
            check.interval = interval;
        }
        if let Some(timeout) = body.timeout.0 {
            check.timeout = timeout;
        }
        // What Consul counts comes before the one that decides. Its default of none is what makes
        // checks flap, so what is not said stays with the registry.
        if body.failuresbeforecritical > 0 {
            check.failures = body.failuresbeforecritical.saturating_add(1);
        }
        if body.successbeforepassing > 0 {
            check.passes = body.successbeforepassing.saturating_add(1);
        }
        self.checks.push(check);
        self.kept.push(KeptCheck {
            id,
            name,
            notes: body.notes.clone(),
            ttl: ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            separate: false,
        });
        Ok(())
    }
}

/// A status by its name.
///
/// InvalidArgument `consul.request_invalid`.
pub(super) fn health(status: &str) -> Result<Health> {
    match status {
        "passing" | "pass" => Ok(Health::Passing),
        "warning" | "warn" => Ok(Health::Warning),
        "critical" | "fail" => Ok(Health::Critical),
        _ => Err(reply::invalid(
            "Invalid check status: use 'passing', 'warning' or 'critical'",
        )),
    }
}

/// What the check does; with its time to live if it waits for being passed.
fn probe(body: &CheckBody) -> Result<(Probe, Option<Duration>)> {
    let unsupported = [
        (
            !body.script.is_null() || !body.args.is_empty() || !body.scriptargs.is_empty(),
            "scripts",
        ),
        (!body.dockercontainerid.is_empty(), "checks in containers"),
        (!body.udp.is_empty(), "UDP checks"),
        (!body.h2ping.is_empty(), "H2PING checks"),
        (
            !body.osservice.is_empty(),
            "checks of the operating system's services",
        ),
        (
            !body.aliasnode.is_empty() || !body.aliasservice.is_empty(),
            "alias checks",
        ),
        (body.grpcusetls || body.tcpusetls, "checks over TLS"),
        (body.http.starts_with("https:"), "checks over TLS"),
        (
            !body.header.is_empty() || !body.body.is_empty(),
            "HTTP checks with headers or a body",
        ),
    ];
    if let Some((_, what)) = unsupported.iter().find(|(is, _)| *is) {
        return Err(reply::unsupported(format!(
            "{what} are not there; use a TTL, HTTP, TCP or gRPC check"
        )));
    }
    let given = [&body.http, &body.tcp, &body.grpc];
    let kinds = given.iter().filter(|kind| !kind.is_empty()).count();
    match (kinds, body.ttl.0.filter(|ttl| !ttl.is_zero())) {
        (0, Some(ttl)) => return Ok((Probe::Reported, Some(ttl))),
        (1, None) if body.interval.0.is_some() => {}
        (1, None) => return Err(reply::invalid("Invalid check: an interval must be given")),
        _ => {
            return Err(reply::invalid(
                "Invalid check: TTL must be > 0, or Interval with one of HTTP, TCP and GRPC must be given",
            ));
        }
    }
    let probe = if !body.http.is_empty() {
        let method = match &*body.method {
            "" => "GET".to_owned(),
            method => method.to_ascii_uppercase(),
        };
        Probe::Http {
            target: body.http.as_str().into(),
            method: method.into(),
            from: 200,
            to: 299,
        }
    } else if !body.tcp.is_empty() {
        Probe::Tcp {
            target: body.tcp.as_str().into(),
        }
    } else {
        let (target, service) = body.grpc.split_once('/').unwrap_or((&body.grpc, ""));
        Probe::Grpc {
            target: target.into(),
            service: service.into(),
        }
    };
    Ok((probe, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consul::json;

    fn add(body: &str) -> Result<Checks> {
        let mut checks = Checks::default();
        checks.add(&json::read(body.as_bytes())?, ("web-1", "web"), 0)?;
        Ok(checks)
    }

    #[test]
    fn a_ttl_check_is_a_heartbeat() {
        let checks = add(r#"{"TTL":"15s","DeregisterCriticalServiceAfter":"90s"}"#).unwrap();
        assert_eq!(checks.ttl, Some(Duration::from_secs(15)));
        assert_eq!(checks.deregister_after, Some(Duration::from_secs(90)));
        assert_eq!(&*checks.checks[0].id, "service:web-1");
        assert_eq!(
            checks.checks[0].health,
            Health::Critical,
            "until it is passed"
        );
        assert_eq!(checks.kept[0].name, "Service 'web' check");
        let passing = add(r#"{"TTL":"15s","Status":"passing"}"#).unwrap();
        assert_eq!(passing.checks[0].health, Health::Passing);
    }

    #[test]
    fn what_the_node_does() {
        let http = r#"{"HTTP":"http://a/h","Interval":"5s","Timeout":"1s","CheckID":"h","FailuresBeforeCritical":2}"#;
        let check = add(http).unwrap().checks.remove(0);
        assert_eq!((&*check.id, check.failures, check.passes), ("h", 3, 2));
        assert_eq!((check.interval.as_secs(), check.timeout.as_secs()), (5, 1));
        assert!(matches!(
            check.probe,
            Probe::Http {
                from: 200,
                to: 299,
                ..
            }
        ));
        let grpc = add(r#"{"GRPC":"127.0.0.1:90/orders","Interval":"5s"}"#).unwrap();
        let expected = Probe::Grpc {
            target: "127.0.0.1:90".into(),
            service: "orders".into(),
        };
        assert_eq!(grpc.checks[0].probe, expected);
    }

    #[test]
    fn what_is_refused_and_why() {
        for (body, code) in [
            (r#"{}"#, "consul.request_invalid"),
            (r#"{"TTL":"0s"}"#, "consul.request_invalid"),
            (r#"{"TCP":"a:1"}"#, "consul.request_invalid"),
            (
                r#"{"TCP":"a:1","HTTP":"http://a","Interval":"1s"}"#,
                "consul.request_invalid",
            ),
            (r#"{"TTL":"1s","Status":"fine"}"#, "consul.request_invalid"),
            (r#"{"Script":"x","Interval":"1s"}"#, "consul.unsupported"),
            (r#"{"Args":["x"],"Interval":"1s"}"#, "consul.unsupported"),
            (
                r#"{"HTTP":"https://a","Interval":"1s"}"#,
                "consul.unsupported",
            ),
            (
                r#"{"HTTP":"http://a","Interval":"1s","Header":{"A":["b"]}}"#,
                "consul.unsupported",
            ),
        ] {
            assert_eq!(add(body).unwrap_err().code(), code, "{body}");
        }
        let mut two = add(r#"{"TTL":"15s"}"#).unwrap();
        let body = json::read(br#"{"TTL":"5s"}"#).unwrap();
        let error = two.add(&body, ("web-1", "web"), 1).unwrap_err();
        assert_eq!(error.code(), "consul.unsupported");
    }
}
