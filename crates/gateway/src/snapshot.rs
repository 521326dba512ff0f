//! The routes at one time, as all threads share them. What a change does not touch is taken over from
//! the snapshot before: compiled routes, targets with what discovery tells of them, counters.

use std::{collections::HashMap, sync::Arc};

use sinew_core::Name;

use crate::{
    backend::TargetKey,
    compiled::Compiled,
    discovery::Discovery,
    endpoints::Endpoints,
    metrics::{Metrics, PerThread, RouteCounters, ServiceCounters},
    policy::Upstream,
    router::Router,
    upstream::Bulkhead,
};

/// The routes at one time.
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) router: Router,
    /// In the order of the router's.
    pub(crate) routes: Vec<Arc<RouteEntry>>,
    pub(crate) targets: Arc<Targets>,
    pub(crate) policies: Arc<Policies>,
}

/// How services are treated that are not treated as by default.
#[derive(Default)]
pub(crate) struct Policies(HashMap<Name, Policy>);

pub(crate) struct Policy {
    pub(crate) upstream: Arc<Upstream>,
    /// Shared by the threads, and kept over changes of everything but itself.
    pub(crate) bulkhead: Option<Arc<Bulkhead>>,
}

pub(crate) struct RouteEntry {
    pub(crate) compiled: Arc<Compiled>,
    /// In the order of the route's backends; one without a target when it does not forward.
    pub(crate) backends: Box<[BackendEntry]>,
    /// Who gets copies, as an index in the snapshot's targets.
    pub(crate) mirror: Option<usize>,
}

pub(crate) struct BackendEntry {
    /// Its index in the snapshot's targets.
    pub(crate) target: Option<usize>,
    pub(crate) counters: Arc<PerThread<RouteCounters>>,
}

/// All places that routes forward to, each once.
#[derive(Default)]
pub(crate) struct Targets {
    pub(crate) list: Vec<Arc<Target>>,
    indexes: HashMap<TargetKey, usize>,
}

pub(crate) struct Target {
    pub(crate) key: TargetKey,
    /// Which part of the service it is; empty when it is all of it.
    pub(crate) subset: Box<str>,
    pub(crate) counters: Arc<PerThread<ServiceCounters>>,
    /// Watched from the beginning, so that the first request finds the instances.
    pub(crate) endpoints: Endpoints,
}

/// What snapshots are made with.
pub(crate) struct Surroundings<'a> {
    pub(crate) metrics: &'a Metrics,
    pub(crate) discovery: &'a dyn Discovery,
    pub(crate) zone: Option<&'a str>,
}

impl Snapshot {
    pub(crate) fn new(
        version: u64,
        router: Router,
        upstreams: &[Upstream],
        old: Option<&Self>,
        with: &Surroundings<'_>,
    ) -> Self {
        let policies = match old {
            Some(old) if old.policies.are(upstreams) => old.policies.clone(),
            _ => Arc::new(Policies::new(upstreams, old.map(|old| &*old.policies))),
        };
        let none = Targets::default();
        let mut targets = Collected::new(old.map_or(&none, |old| &old.targets), with);
        let mut routes = Vec::with_capacity(router.compiled().len());
        for (index, compiled) in router.compiled().iter().enumerate() {
            let origin = router.origin(index);
            let kept = origin.and_then(|origin| old?.routes.get(origin));
            routes.push(match kept {
                Some(kept) => targets.keep(kept),
                None => Arc::new(targets.add_route(compiled)),
            });
        }
        let targets = targets.finish();
        Self {
            version,
            router,
            routes,
            policies,
            targets: match (targets, old) {
                (Some(targets), _) => Arc::new(targets),
                (None, Some(old)) => old.targets.clone(),
                (None, None) => Arc::default(),
            },
        }
    }
}

impl Policies {
    fn new(upstreams: &[Upstream], old: Option<&Self>) -> Self {
        let policy = |upstream: &Upstream| {
            let bulkhead = upstream.bulkhead.as_ref().map(|wanted| {
                let known = old.and_then(|old| old.of(&upstream.service)?.bulkhead.clone());
                let same = known.filter(|known| known.policy == *wanted);
                same.unwrap_or_else(|| Bulkhead::new(wanted))
            });
            let upstream = Arc::new(upstream.clone());
            (upstream.service.clone(), Policy { upstream, bulkhead })
        };
        Self(upstreams.iter().map(policy).collect())
    }

    pub(crate) fn of(&self, service: &Name) -> Option<&Policy> {
        self.0.get(service)
    }

    fn are(&self, upstreams: &[Upstream]) -> bool {
        let same = |one: &Upstream| {
            self.of(&one.service)
                .is_some_and(|policy| *policy.upstream == *one)
        };
        self.0.len() == upstreams.len() && upstreams.iter().all(same)
    }
}

/// The targets of a snapshot in the making.
struct Collected<'a> {
    old: &'a Targets,
    /// Where those of the snapshot before stand now.
    moved: Vec<Option<usize>>,
    list: Vec<Arc<Target>>,
    /// Those that the snapshot before had not.
    new: HashMap<TargetKey, usize>,
    with: &'a Surroundings<'a>,
}

impl<'a> Collected<'a> {
    fn new(old: &'a Targets, with: &'a Surroundings<'a>) -> Self {
        Self {
            moved: vec![None; old.list.len()],
            list: Vec::with_capacity(old.list.len()),
            new: HashMap::new(),
            old,
            with,
        }
    }

    /// A route that has not changed; itself, if its targets stand where they stood.
    fn keep(&mut self, route: &Arc<RouteEntry>) -> Arc<RouteEntry> {
        let old = |backend: &BackendEntry| backend.target;
        let indexes = route.backends.iter().filter_map(old).chain(route.mirror);
        let mut same = true;
        for index in indexes {
            same &= self.keep_target(index) == index;
        }
        if same {
            return route.clone();
        }
        let backend = |backend: &BackendEntry| BackendEntry {
            target: backend.target.map(|index| self.keep_target(index)),
            counters: backend.counters.clone(),
        };
        Arc::new(RouteEntry {
            compiled: route.compiled.clone(),
            backends: route.backends.iter().map(backend).collect(),
            mirror: route.mirror.map(|index| self.keep_target(index)),
        })
    }

    fn keep_target(&mut self, old: usize) -> usize {
        *self.moved[old].get_or_insert_with(|| {
            self.list.push(self.old.list[old].clone());
            self.list.len() - 1
        })
    }

    fn add_route(&mut self, compiled: &Arc<Compiled>) -> RouteEntry {
        let metrics = self.with.metrics;
        let shares = compiled.backends.iter().flat_map(|all| &all.list);
        let mut backends: Vec<_> = shares
            .map(|share| {
                let target = self.add(&share.key);
                let service = share.key.service.as_str();
                let subset = &self.list[target].subset;
                BackendEntry {
                    counters: metrics.route(&compiled.label, service, subset),
                    target: Some(target),
                }
            })
            .collect();
        if backends.is_empty() {
            backends.push(BackendEntry {
                target: None,
                counters: metrics.route(&compiled.label, "", ""),
            });
        }
        let mirror = compiled.route.mirror.as_ref();
        RouteEntry {
            mirror: mirror.map(|mirror| self.add(&mirror.key())),
            compiled: compiled.clone(),
            backends: backends.into(),
        }
    }

    fn add(&mut self, key: &TargetKey) -> usize {
        if let Some(old) = self.old.indexes.get(key) {
            return self.keep_target(*old);
        }
        if let Some(known) = self.new.get(key) {
            return *known;
        }
        self.list
            .push(Arc::new(Target::new(key.clone(), self.with)));
        self.new.insert(key.clone(), self.list.len() - 1);
        self.list.len() - 1
    }

    /// `None` when they are those of the snapshot before.
    fn finish(self) -> Option<Targets> {
        let mut stand = self.moved.iter().zip(0..);
        if self.new.is_empty() && stand.all(|(now, before)| *now == Some(before)) {
            return None;
        }
        let keys = self.list.iter().map(|target| target.key.clone());
        Some(Targets {
            indexes: keys.zip(0..).collect(),
            list: self.list,
        })
    }
}

impl Targets {
    pub(crate) fn contains(&self, key: &TargetKey) -> bool {
        self.indexes.contains_key(key)
    }
}

impl Target {
    fn new(key: TargetKey, with: &Surroundings<'_>) -> Self {
        let subset = key.subset_label();
        let endpoints = if key.addresses.is_empty() {
            Endpoints::watched(with.discovery.watch(&key.service), &key, with.zone)
        } else {
            Endpoints::fixed(&key)
        };
        Self {
            counters: with.metrics.service(&key.service, &subset),
            subset: subset.into(),
            endpoints,
            key,
        }
    }
}
