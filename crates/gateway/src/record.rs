//! What is to be known of a request once it is answered.

use std::{rc::Rc, time::Duration};

use sinew_core::InstanceId;

use crate::{
    access_log,
    scratch::Scratch,
    server::Client,
    snapshot::{BackendEntry, RouteEntry, Target},
    worker::{Table, Worker},
};

pub(crate) struct Record {
    worker: Rc<Worker>,
    started: Duration,
    /// And which of its backends.
    route: Option<(Rc<Table>, usize, usize)>,
    status: u16,
    code: Option<&'static str>,
    upgraded: bool,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) retries: u32,
    pub(crate) body_in: u64,
    pub(crate) body_out: u64,
}

/// What is logged when the client left before it had an answer, as nginx does.
pub(crate) const CLIENT_GONE: u16 = 499;

impl Record {
    /// A request has come in.
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        worker.counters().in_flight.add(1);
        Self {
            started: worker.clock.monotonic(),
            worker: worker.clone(),
            route: None,
            status: CLIENT_GONE,
            code: None,
            upgraded: false,
            instance: None,
            retries: 0,
            body_in: 0,
            body_out: 0,
        }
    }

    pub(crate) fn routed(&mut self, table: &Rc<Table>, route: usize, backend: usize) {
        self.route = Some((table.clone(), route, backend));
    }

    pub(crate) fn answered(&mut self, status: u16, code: Option<&'static str>) {
        (self.status, self.code) = (status, code);
    }

    /// Something went wrong after the answer had begun.
    pub(crate) fn failed(&mut self, code: &'static str) {
        self.code = Some(code);
    }

    /// The connection goes on in another protocol: as a request it is over and counted now, and what
    /// comes is logged when it ends.
    pub(crate) fn upgraded(&mut self) {
        let counters = self.worker.counters();
        counters.in_flight.sub(1);
        counters.upgraded.add(1);
        self.upgraded = true;
        self.count(self.took());
    }

    fn took(&self) -> Duration {
        self.worker.clock.monotonic().saturating_sub(self.started)
    }

    fn route(&self) -> Option<(&RouteEntry, &BackendEntry)> {
        let (table, route, backend) = self.route.as_ref()?;
        let route = &table.snapshot.routes[*route];
        Some((route, &route.backends[*backend]))
    }

    fn target(&self) -> Option<&Target> {
        let (table, ..) = self.route.as_ref()?;
        let (_, backend) = self.route()?;
        Some(&table.snapshot.targets.list[backend.target?])
    }

    fn count(&self, took: Duration) {
        self.worker.counters().requests.add(1);
        let metrics = &self.worker.shared.metrics;
        let counters = self
            .route()
            .map_or(&metrics.unrouted, |(_, backend)| &backend.counters);
        counters
            .of(self.worker.index)
            .record(self.status, took, self.body_in, self.body_out);
    }

    /// Counts and logs.
    pub(crate) fn finish(self, worker: &Worker, client: &Client, scratch: &Scratch) {
        let (took, route, target) = (self.took(), self.route(), self.target());
        if !self.upgraded {
            self.count(took);
        }
        let Some(log) = &worker.log else { return };
        // An answer that broke off has a code beside its status.
        let broke = self.code.is_some() && self.status < 400;
        let failed = self.status >= CLIENT_GONE || broke;
        if !log.wants(failed, took, &worker.random) {
            worker.counters().log_sampled_out.add(1);
            return;
        }
        let line = access_log::Line {
            time: worker.clock.now(),
            request_id: &scratch.request_id,
            trace_id: scratch.trace_id(),
            peer: client.peer.ip(),
            protocol: client.protocol(scratch.head.minor),
            method: scratch.head.method(),
            host: &scratch.host,
            path: &scratch.path,
            query: &scratch.query,
            status: self.status,
            code: self.code,
            route: route.map(|(route, _)| &*route.compiled.label),
            service: target.map(|target| target.key.service.as_str()),
            subset: target.map_or("", |target| &target.subset),
            instance: self.instance.as_ref().map(InstanceId::as_str),
            retries: self.retries,
            took,
            body_in: self.body_in,
            body_out: self.body_out,
            user_agent: scratch.head.named(b"user-agent"),
            referer: scratch.head.named(b"referer"),
        };
        if !log.send(&line) {
            worker.counters().log_dropped.add(1);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let counters = self.worker.counters();
        if self.upgraded {
            counters.upgraded.sub(1);
        } else {
            counters.in_flight.sub(1);
        }
    }
}
