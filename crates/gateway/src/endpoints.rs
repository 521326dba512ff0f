//! Which of the instances that discovery knows a target gets: a subset by metadata, fixed addresses,
//! and those of the gateway's own zone before others.

use std::{collections::BTreeMap, sync::Arc};

use sinew_core::InstanceId;
use tokio::sync::watch;

use crate::{
    backend::{SubsetFallback, TargetKey},
    discovery::{Endpoint, EndpointStatus},
};

/// The metadata that says where an instance is.
const ZONE: &str = "zone";

/// The instances of one target, now and after each change.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    source: Source,
    selection: Option<Arc<Selection>>,
}

#[derive(Clone, Debug)]
enum Source {
    Watched(watch::Receiver<Arc<[Endpoint]>>),
    Fixed { list: Arc<[Endpoint]>, taken: bool },
}

#[derive(Debug)]
struct Selection {
    subset: BTreeMap<String, String>,
    fallback: SubsetFallback,
    zone: Option<Box<str>>,
}

impl Endpoints {
    /// Those of a service that `key` means, for a gateway in this zone.
    pub(crate) fn watched(
        receiver: watch::Receiver<Arc<[Endpoint]>>,
        key: &TargetKey,
        zone: Option<&str>,
    ) -> Self {
        let selection = Selection {
            subset: key.subset.clone(),
            fallback: key.fallback,
            zone: zone.map(Into::into),
        };
        let selects = !selection.subset.is_empty() || selection.zone.is_some();
        Self {
            source: Source::Watched(receiver),
            selection: selects.then(|| Arc::new(selection)),
        }
    }

    /// One instance for each address, always up.
    pub(crate) fn fixed(key: &TargetKey) -> Self {
        let endpoint = |address: &std::net::SocketAddr| Endpoint {
            id: InstanceId::new(&address.to_string().replace(['[', ']', '%'], ""))
                .expect("digits, dots and colons make an id"),
            address: *address,
            status: EndpointStatus::Up,
            metadata: Arc::default(),
        };
        Self {
            source: Source::Fixed {
                list: key.addresses.iter().map(endpoint).collect(),
                taken: false,
            },
            selection: None,
        }
    }

    /// The next look finds something new.
    pub(crate) fn mark_changed(&mut self) {
        match &mut self.source {
            Source::Watched(receiver) => receiver.mark_changed(),
            Source::Fixed { taken, .. } => *taken = false,
        }
    }

    /// Whether there is something new. When discovery is gone, nothing is.
    pub(crate) fn has_changed(&self) -> bool {
        match &self.source {
            Source::Watched(receiver) => receiver.has_changed().unwrap_or(false),
            Source::Fixed { taken, .. } => !taken,
        }
    }

    /// The instances as they are now.
    pub(crate) fn take(&mut self) -> Arc<[Endpoint]> {
        let list = match &mut self.source {
            Source::Watched(receiver) => receiver.borrow_and_update().clone(),
            Source::Fixed { list, taken } => {
                *taken = true;
                list.clone()
            }
        };
        match &self.selection {
            Some(selection) => selection.of(&list),
            None => list,
        }
    }
}

impl From<watch::Receiver<Arc<[Endpoint]>>> for Endpoints {
    fn from(receiver: watch::Receiver<Arc<[Endpoint]>>) -> Self {
        Self {
            source: Source::Watched(receiver),
            selection: None,
        }
    }
}

impl Selection {
    fn of(&self, list: &[Endpoint]) -> Arc<[Endpoint]> {
        let has = |endpoint: &&Endpoint| {
            let metadata = &endpoint.metadata;
            let holds = |(key, value): (&String, &String)| metadata.get(key) == Some(value);
            self.subset.iter().all(holds)
        };
        let mut chosen: Vec<&Endpoint> = list.iter().filter(has).collect();
        if !chosen.iter().any(|one| is_up(one)) && self.fallback == SubsetFallback::Any {
            chosen = list.iter().collect();
        }
        if let Some(zone) = &self.zone {
            prefer(zone, &mut chosen);
        }
        chosen.into_iter().cloned().collect()
    }
}

fn is_up(endpoint: &Endpoint) -> bool {
    endpoint.status == EndpointStatus::Up
}

/// Leaves only the instances of `zone`, if at least half as many of them are up as of all zones on
/// average: a zone that has fewer would be overrun by requests that others could have taken.
fn prefer(zone: &str, chosen: &mut Vec<&Endpoint>) {
    let mut up: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    fn zone_of(endpoint: &Endpoint) -> Option<&str> {
        endpoint.metadata.get(ZONE).map(String::as_str)
    }
    for endpoint in chosen.iter().filter(|one| is_up(one)) {
        *up.entry(zone_of(endpoint)).or_default() += 1;
    }
    let total: usize = up.values().sum();
    let own = up.get(&Some(zone)).copied().unwrap_or_default();
    if own > 0 && 2 * own * up.len() >= total {
        chosen.retain(|endpoint| zone_of(endpoint) == Some(zone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, status: EndpointStatus, metadata: &[(&str, &str)]) -> Endpoint {
        let pairs = metadata
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Endpoint {
            id: InstanceId::new(id).unwrap(),
            address: ([127, 0, 0, 1], 1).into(),
            status,
            metadata: Arc::new(pairs.collect()),
        }
    }

    fn ids(selection: &Selection, list: &[Endpoint]) -> String {
        let chosen = selection.of(list);
        chosen.iter().map(|one| one.id.as_str()).collect()
    }

    #[test]
    fn subsets_are_chosen_by_metadata() {
        use EndpointStatus::{Down, Up};
        let list = [
            endpoint("a", Up, &[("version", "1")]),
            endpoint("b", Up, &[("version", "1"), ("zone", "x")]),
            endpoint("c", Down, &[("version", "2")]),
            endpoint("d", Up, &[]),
        ];
        let of = |version: &str, fallback| {
            let subset = BTreeMap::from([("version".to_owned(), version.to_owned())]);
            let selection = Selection {
                subset,
                fallback,
                zone: None,
            };
            ids(&selection, &list)
        };
        assert_eq!(of("1", SubsetFallback::Any), "ab");
        assert_eq!(of("2", SubsetFallback::Refuse), "c");
        assert_eq!(of("2", SubsetFallback::Any), "abcd");
        assert_eq!(of("3", SubsetFallback::Refuse), "");
    }

    #[test]
    fn the_own_zone_is_preferred_while_it_has_half_its_share() {
        use EndpointStatus::{Draining, Up};
        let selection = Selection {
            subset: BTreeMap::new(),
            fallback: SubsetFallback::Refuse,
            zone: Some("x".into()),
        };
        let (x, y) = ([("zone", "x")], [("zone", "y")]);
        let mut list = vec![
            endpoint("a", Up, &x),
            endpoint("b", Up, &y),
            endpoint("c", Up, &y),
            endpoint("d", Up, &y),
        ];
        // One of two zones with four instances: half of two is one.
        assert_eq!(ids(&selection, &list), "a");
        list.push(endpoint("e", Up, &y));
        assert_eq!(ids(&selection, &list), "abcde");
        list.push(endpoint("f", Up, &x));
        assert_eq!(ids(&selection, &list), "af");
        list[0].status = Draining;
        list[5].status = Draining;
        assert_eq!(ids(&selection, &list), "abcdef");
    }
}
