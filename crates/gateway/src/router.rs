//! Finds the route of a request. Explicit priority goes first, then the most specific route by a
//! total order (host, path segment by segment, number of conditions), so the order in which routes
//! are written is of no importance. A lookup costs a few hash probes however many routes there are.

mod builder;
mod table;

use std::{
    cell::OnceCell,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use sinew_core::{Error, Kind, Result};

use crate::{compiled::Compiled, matcher::Question, route::Route};

use builder::Conflict;
use table::Table;

/// An immutable table of routes.
#[derive(Debug, Default)]
pub struct Router {
    routes: Vec<Arc<Compiled>>,
    /// The same one as long as no route takes other requests than before.
    table: Arc<Table>,
    /// Where each stood in the table that this one was built from; NOWHERE when it is new.
    origins: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

/// Something that is wrong with a list of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFault {
    /// Which of them, from 0; of two, the later.
    pub index: usize,
    /// What is wrong, in words that begin with the route.
    pub message: String,
}

/// More conflicts than this are not listed: they have one cause.
const MOST_CONFLICTS: usize = 20;

impl Router {
    /// Builds the table. `gateway.routes_invalid` (InvalidArgument) lists everything that is wrong:
    /// routes that could take the same request with the same precedence, a name used twice, a host
    /// that is none, actions and conditions that make no sense.
    pub fn build(routes: Vec<Route>) -> Result<Self> {
        Self::rebuild(routes, &Self::default())
    }

    /// Builds the table, and takes over what is the same in `old`.
    pub(crate) fn rebuild(routes: Vec<Route>, old: &Self) -> Result<Self> {
        let (router, faults) = Self::build_or_faults(routes, old);
        if faults.is_empty() {
            return Ok(router);
        }
        let messages: Vec<_> = faults.into_iter().map(|fault| fault.message).collect();
        Err(Error::new(
            Kind::InvalidArgument,
            "gateway.routes_invalid",
            messages.join("; "),
        ))
    }

    /// Everything that is wrong with these routes.
    pub fn faults(routes: &[Route]) -> Vec<RouteFault> {
        Self::build_or_faults(routes.to_vec(), &Self::default()).1
    }

    fn build_or_faults(routes: Vec<Route>, old: &Self) -> (Self, Vec<RouteFault>) {
        let mut faults = Vec::new();
        let mut compiled = Vec::with_capacity(routes.len());
        let mut origins = Vec::with_capacity(routes.len());
        // The place in the list of each that could be compiled.
        let mut places = Vec::with_capacity(routes.len());
        let mut names = HashMap::new();
        let known = Known::new(old);
        for (index, route) in routes.into_iter().enumerate() {
            if let Some(name) = &route.name {
                match names.entry(name.clone()) {
                    Entry::Vacant(free) => {
                        free.insert(index);
                    }
                    Entry::Occupied(other) => faults.push(RouteFault {
                        index,
                        message: format!(
                            "routes {} and {} are both named {name}",
                            other.get() + 1,
                            index + 1
                        ),
                    }),
                }
            }
            if let Some(origin) = known.find(index, &route) {
                compiled.push(old.routes[origin].clone());
                origins.push(origin as u32);
                places.push(index);
                continue;
            }
            let label = route.label();
            let mut whys = Vec::new();
            if let Some(route) = Compiled::new(Arc::new(route), &mut whys) {
                compiled.push(Arc::new(route));
                origins.push(NOWHERE);
                places.push(index);
            }
            faults.extend(whys.into_iter().map(|why| RouteFault {
                index,
                message: format!("route {} ({label}): {why}", index + 1),
            }));
        }
        let (table, conflicts) = if faults.is_empty() && match_alike(&compiled, &old.routes) {
            (old.table.clone(), Vec::new())
        } else {
            let (table, conflicts) = Table::build(&compiled, MOST_CONFLICTS);
            (Arc::new(table), conflicts)
        };
        faults.extend(conflicts.iter().map(|conflict| {
            let (one, two) = (places[conflict.first()], places[conflict.second()]);
            let (one, two) = (one.min(two), one.max(two));
            let label = |place: usize| {
                let at = places.binary_search(&place).unwrap_or_default();
                &compiled[at].label
            };
            let (first, second) = (label(one), label(two));
            let (n, m) = (one + 1, two + 1);
            let message = match conflict {
                Conflict::Same(..) => format!(
                    "routes {n} ({first}) and {m} ({second}) could take the same request, and \
                     neither is more specific: give one of them a higher `priority`, or conditions \
                     that exclude each other"
                ),
                Conflict::TooMany { most, .. } => format!(
                    "routes {n} ({first}) to {m} ({second}) and others are more than {most} for one \
                     host and path, or more than {most} expressions for one host"
                ),
            };
            RouteFault {
                index: two,
                message,
            }
        }));
        (
            Self {
                routes: compiled,
                table,
                origins,
            },
            faults,
        )
    }

    /// The index of the route that takes the request.
    pub fn find(&self, asked: &Question<'_>) -> Option<usize> {
        self.table.find(&self.routes, asked)
    }

    /// All routes, in the order given.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<Route>> {
        self.routes.iter().map(|compiled| &compiled.route)
    }

    /// The indexes of all routes, the one that is asked first at the front.
    pub fn by_precedence(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.routes.len()).collect();
        order.sort_by(|a, b| self.routes[*a].precedence.cmp(&self.routes[*b].precedence));
        order
    }

    /// Where the route of this index stood in the table that this one was built from, if it did.
    pub(crate) fn origin(&self, index: usize) -> Option<usize> {
        let origin = self.origins[index];
        (origin != NOWHERE).then_some(origin as usize)
    }

    pub(crate) fn compiled(&self) -> &[Arc<Compiled>] {
        &self.routes
    }
}

/// Whether each route takes the same requests as the one in the same place of the other list.
fn match_alike(routes: &[Arc<Compiled>], others: &[Arc<Compiled>]) -> bool {
    let alike = |(one, other): (&Arc<Compiled>, &Arc<Compiled>)| {
        Arc::ptr_eq(one, other) || one.route.matches_like(&other.route)
    };
    routes.len() == others.len() && routes.iter().zip(others).all(alike)
}

/// The routes of an older table, to be found again.
struct Known<'a> {
    old: &'a [Arc<Compiled>],
    /// Made when a route has moved in the list.
    labels: OnceCell<HashMap<&'a str, usize>>,
}

impl<'a> Known<'a> {
    fn new(old: &'a Router) -> Self {
        Self {
            old: &old.routes,
            labels: OnceCell::new(),
        }
    }

    fn find(&self, index: usize, route: &Route) -> Option<usize> {
        let here = self.old.get(index);
        if here.is_some_and(|here| *here.route == *route) {
            return Some(index);
        }
        let label = route.label();
        if self.old.is_empty() || here.is_some_and(|here| *here.label == label) {
            // It has changed where it stood.
            return None;
        }
        let all = || self.old.iter().zip(0..).map(|(one, at)| (&*one.label, at));
        let labels = self.labels.get_or_init(|| all().collect());
        let at = *labels.get(label.as_str())?;
        (*self.old[at].route == *route).then_some(at)
    }
}

#[cfg(test)]
mod tests;
