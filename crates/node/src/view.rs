//! What the control API shows of the node.

use std::{fmt::Write, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sinew_api::{
    consul::Consul,
    eureka::Eureka,
    rest::{NodeView, RoutesControl, model},
};
use sinew_coordination::registry::Registry;
use sinew_core::{Clock, Result, Timestamp};
use sinew_engine::{Health, kv::Kv};
use sinew_engine_embedded::EmbeddedKv;
use sinew_gateway::{Gateway, Route, Router};
use tokio::sync::{mpsc, watch};

use crate::routing::Control;

/// How long the status waits for the store's revision.
const REVISION_WITHIN: Duration = Duration::from_secs(1);

pub(crate) struct View {
    pub(crate) clock: Clock,
    pub(crate) started: Timestamp,
    pub(crate) data: PathBuf,
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) kv_health: watch::Receiver<Health>,
    pub(crate) embedded: Option<Arc<EmbeddedKv>>,
    pub(crate) registry: Registry,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) routes: Control,
    pub(crate) eureka: Eureka,
    pub(crate) consul: Option<Consul>,
}

#[async_trait]
impl NodeView for View {
    async fn status(&self) -> Result<model::Status> {
        let gateway = self.gateway.stats();
        let registry = self.registry.stats();
        let uptime = self.clock.now().since(self.started);
        Ok(model::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ms: self.started.as_millis(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            data: self.data.display().to_string(),
            kv: self.kv_status().await,
            memory: self.embedded.as_ref().map(|kv| {
                let memory = kv.memory();
                model::MemoryStatus {
                    budget: memory.budget as u64,
                    used: memory.used() as u64,
                }
            }),
            gateway: model::GatewayStatus {
                address: self.gateway.address().to_string(),
                requests: gateway.requests,
                in_flight: gateway.in_flight,
                connections: gateway.connections,
            },
            routes: self.routes.status(),
            services: registry.services,
            instances: registry.instances,
        })
    }

    fn backup(&self, since: Option<u64>) -> mpsc::Receiver<Result<Bytes>> {
        crate::backup::stream(self.kv.clone(), since)
    }

    fn routes(&self) -> &dyn RoutesControl {
        &self.routes
    }

    fn metrics(&self, text: &mut String) {
        text.push_str(&self.gateway.metrics_text());
        self.routes.metrics(text);
        self.eureka.metrics(text);
        if let Some(consul) = &self.consul {
            consul.metrics(text);
        }
        let _ = write!(
            text,
            "# HELP sinew_engine_up Whether the engine answers.\n# TYPE sinew_engine_up gauge\n\
             sinew_engine_up{{trait=\"kv\",engine=\"{}\"}} {}\n",
            self.kv.capability().engine,
            u8::from(self.kv_health.borrow().is_up()),
        );
        if let Some(kv) = &self.embedded {
            let memory = kv.memory();
            let _ = write!(
                text,
                "# HELP sinew_engines_memory_budget_bytes What embedded engines may hold in memory.\n\
                 # TYPE sinew_engines_memory_budget_bytes gauge\nsinew_engines_memory_budget_bytes {}\n\
                 # HELP sinew_engines_memory_bytes What embedded engines hold in memory.\n\
                 # TYPE sinew_engines_memory_bytes gauge\n",
                memory.budget
            );
            for (part, bytes) in [
                ("layers", memory.layers),
                ("pages", memory.pages),
                ("filters", memory.filters),
                ("recent", memory.recent),
                ("queued", memory.queued),
            ] {
                let _ = writeln!(
                    text,
                    "sinew_engines_memory_bytes{{trait=\"kv\",part=\"{part}\"}} {bytes}"
                );
            }
        }
        let version = env!("CARGO_PKG_VERSION");
        let _ = write!(
            text,
            "# HELP sinew_build_info The version that runs.\n# TYPE sinew_build_info gauge\n\
             sinew_build_info{{version=\"{version}\"}} 1\n\
             # HELP process_start_time_seconds When the process started.\n\
             # TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {}\n",
            self.started.as_secs()
        );
        if let Some(bytes) = resident_bytes() {
            let _ = write!(
                text,
                "# HELP process_resident_memory_bytes Memory in use.\n\
                 # TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {bytes}\n"
            );
        }
    }
}

impl View {
    async fn kv_status(&self) -> model::KvStatus {
        let mut status = model::KvStatus {
            engine: self.kv.capability().engine.to_owned(),
            state: model::EngineState::Up,
            since_ms: None,
            reason: None,
            revision: None,
        };
        match self.kv_health.borrow().clone() {
            Health::Up => {}
            Health::Starting => status.state = model::EngineState::Starting,
            Health::Away { since, reason } => {
                status.state = model::EngineState::Away;
                status.since_ms = Some(since.as_millis());
                status.reason = Some(reason);
            }
        }
        if status.state == model::EngineState::Up {
            // An engine that just went away must not take the status with it.
            let revision = tokio::time::timeout(REVISION_WITHIN, self.kv.revision()).await;
            status.revision = revision.ok().and_then(Result::ok);
        }
        status
    }
}

/// The routes in the order in which they are tried; the first `own` of them are the file's.
pub(crate) fn listed(routes: &[Arc<Route>], own: usize) -> Vec<model::ListedRoute> {
    // Those in force can always be built; if not, they are shown as they were given.
    let whole = routes.iter().map(|route| Route::clone(route)).collect();
    let order = Router::build(whole).map(|router| router.by_precedence());
    let order = order.unwrap_or_else(|_| (0..routes.len()).collect());
    let listed = |(index, route): (usize, &Arc<Route>)| {
        let source = match index < own {
            true => model::RouteSource::File,
            false => model::RouteSource::Stored,
        };
        let route = wire(route)?;
        Some(model::ListedRoute { source, route })
    };
    let routes = order.into_iter().map(|index| (index, &routes[index]));
    routes.filter_map(listed).collect()
}

/// Both sides write the documented form of a route, so one reads the other's.
fn wire(route: &Route) -> Option<model::Route> {
    let read = serde_json::to_value(route).and_then(serde_json::from_value);
    read.inspect_err(|error| tracing::error!(%error, "a route cannot be shown"))
        .ok()
}

/// Linux tells; elsewhere the metric is left out.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_route_is_shown() {
        for text in [
            r#"{"name":"orders","priority":3,"host":"*.shop.example","path":"/api/orders/{id}/**","methods":["GET"],"headers":[{"name":"x-a","exact":"1"}],"cookies":[{"name":"b","present":false}],"query":[{"name":"q","regex":"x+"}],"sources":["10.0.0.0/8"],"service":"orders","rewrite":"/o/{id}{rest}","auth":["jwt"],"connect_timeout":"2s","timeout":"5s","retries":2,"retry_on":["reset","503"],"retry_backoff":"10ms","max_body":"2MiB"}"#,
            r#"{"path":"/a/**","service":"a","mirror":{"service":"b","percent":10,"timeout":"5s"},"strip_prefix":"/a","connect_timeout":"2s","timeout":"5s","retries":2,"retry_on":["reset","503"],"retry_backoff":"10ms","max_body":"2MiB"}"#,
            r#"{"path":"/b","backends":[{"service":"a","subset":{"version":"2"},"fallback":"any","weight":9},{"addresses":["10.0.0.1:80"],"name":"legacy"}],"sticky":{"cookie":"split","max_age":"1h","secure":true},"connect_timeout":"2s","timeout":"5s","retries":2,"retry_on":["reset","503"],"retry_backoff":"10ms","max_body":"2MiB"}"#,
            r#"{"path":"/old","redirect":{"to":"/new","status":307},"connect_timeout":"2s","timeout":"5s","retries":2,"retry_on":["reset","503"],"retry_backoff":"10ms","max_body":"2MiB"}"#,
            r#"{"path":"/ping","reply":{"status":200,"body":"pong","content_type":"text/plain","headers":{"x-a":"1"}},"connect_timeout":"2s","timeout":"5s","retries":2,"retry_on":["reset","503"],"retry_backoff":"10ms","max_body":"2MiB"}"#,
            r#"{"name":"orders","host":"shop.example","path":"/api/orders/**","service":"orders","strip_prefix":"/api","auth":["jwt"],"connect_timeout":"2s","timeout":"5s","retries":2,"retry_on":["reset","503"],"retry_backoff":"10ms","retry_any_method":true,"try_timeout":"1s","total_timeout":"9s","idle_timeout":"7s","hedge":{"after":"50ms"},"fallback":{"status":200,"content_type":"application/json","body":"[]"},"protocol":"h2","max_body":"2MiB"}"#,
        ] {
            let route: Route = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&wire(&route).unwrap()).unwrap(), text);
        }
    }
}
