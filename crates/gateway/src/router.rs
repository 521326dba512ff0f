//! Finds the route of a request: the most specific one wins. An exact host goes before any host,
//! an exact path before the longest prefix, so the order in which routes are written is of no
//! importance and a lookup costs a few hash probes however many routes there are.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use sinew_core::{Error, Kind, Result};

use crate::{
    host,
    route::{PathPattern, Route},
};

/// An immutable table of routes.
#[derive(Debug, Default)]
pub struct Router {
    hosts: HashMap<Box<str>, Paths>,
    any_host: Paths,
    routes: Vec<Arc<Route>>,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, usize>,
    /// Keys have no slash at the end; the empty one takes every path.
    prefixes: HashMap<Box<str>, usize>,
    longest_prefix: usize,
}

impl Router {
    /// Builds the table. `gateway.routes_invalid` (InvalidArgument) lists everything that is wrong:
    /// two routes for the same host and path, a name used twice, a host that is none, a
    /// `strip_prefix` that is no prefix of the path.
    pub fn build(routes: Vec<Route>) -> Result<Self> {
        let mut router = Self::default();
        let mut faults = Vec::new();
        let mut names = HashMap::new();
        for (index, route) in routes.into_iter().enumerate() {
            let label = route.label();
            if let Some(name) = &route.name
                && let Some(other) = names.insert(name.clone(), index)
            {
                faults.push(format!(
                    "routes {} and {} are both named {name}",
                    other + 1,
                    index + 1
                ));
            }
            if let Err(why) = check_strip_prefix(&route) {
                faults.push(format!("route {} ({label}): {why}", index + 1));
            }
            let paths = match route.host.as_deref().map(|text| (text, normal_host(text))) {
                None => &mut router.any_host,
                Some((_, Some(host))) => router.hosts.entry(host.into()).or_default(),
                Some((text, None)) => {
                    faults.push(format!(
                        "route {} ({label}): {text:?} is not a host",
                        index + 1
                    ));
                    continue;
                }
            };
            if let Some(other) = paths.insert(&route.path, index) {
                faults.push(format!(
                    "routes {} and {} take the same requests: {}{}",
                    other + 1,
                    index + 1,
                    route.host.as_deref().unwrap_or("any host "),
                    route.path
                ));
            }
            router.routes.push(Arc::new(route));
        }
        if faults.is_empty() {
            Ok(router)
        } else {
            let message = faults.join("; ");
            Err(Error::new(
                Kind::InvalidArgument,
                "gateway.routes_invalid",
                message,
            ))
        }
    }

    /// The index of the route for a canonical path; `host` in lower case without port and trailing
    /// dot.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        if !self.hosts.is_empty()
            && let Some(paths) = self.hosts.get(host)
            && let Some(index) = paths.find(path)
        {
            return Some(index);
        }
        self.any_host.find(path)
    }

    /// All routes, in the order given.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

impl Paths {
    /// Returns the route that was there already.
    fn insert(&mut self, path: &PathPattern, index: usize) -> Option<usize> {
        let (table, key) = match path {
            PathPattern::Exact(path) => (&mut self.exact, path),
            PathPattern::Prefix(path) => (&mut self.prefixes, path),
        };
        if let PathPattern::Prefix(path) = path {
            self.longest_prefix = self.longest_prefix.max(path.len());
        }
        match table.entry(key.as_str().into()) {
            Entry::Occupied(there) => Some(*there.get()),
            Entry::Vacant(free) => {
                free.insert(index);
                None
            }
        }
    }

    fn find(&self, path: &str) -> Option<usize> {
        if !self.exact.is_empty()
            && let Some(index) = self.exact.get(path)
        {
            return Some(*index);
        }
        if self.prefixes.is_empty() {
            return None;
        }
        let bytes = path.as_bytes();
        let mut end = bytes.len();
        if end > self.longest_prefix {
            end = memchr::memrchr(b'/', &bytes[..=self.longest_prefix])?;
        }
        loop {
            if let Some(index) = self.prefixes.get(&path[..end]) {
                return Some(*index);
            }
            end = memchr::memrchr(b'/', &bytes[..end])?;
        }
    }
}

fn normal_host(text: &str) -> Option<String> {
    let authority = host::parse(text.as_bytes())?;
    authority
        .port
        .is_none()
        .then(|| authority.host.to_ascii_lowercase())
}

fn check_strip_prefix(route: &Route) -> Result<(), &'static str> {
    let Some(strip) = &route.strip_prefix else {
        return Ok(());
    };
    let (PathPattern::Exact(path) | PathPattern::Prefix(path)) = &route.path;
    let rest = path.strip_prefix(strip.as_str());
    if strip.starts_with('/')
        && !strip.ends_with('/')
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    {
        Ok(())
    } else {
        Err("strip_prefix must be whole leading segments of the path, without a slash at the end")
    }
}

#[cfg(test)]
mod tests;
