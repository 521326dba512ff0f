use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use sinew_core::Name;

use super::*;
use crate::registry::Status;

fn name(n: u8) -> ServiceId {
    // Some of another namespace, so that both forms are seen.
    let space = match n {
        0 => model::default_namespace(),
        _ => Name::new("team-a").unwrap(),
    };
    ServiceId::new(space, Name::new(&format!("service-{n}")).unwrap())
}

fn id(n: u8) -> InstanceId {
    InstanceId::new(&format!("id-{n}")).unwrap()
}

fn instance(service: u8, n: u8, revision: Revision) -> Instance {
    let instance = registration(service, n).check(&Config::default());
    Instance {
        revision,
        lease: Some(LeaseId(revision)),
        ..instance.unwrap()
    }
}

fn registration(service: u8, n: u8) -> Registration {
    Registration::new(name(service), id(n), "127.0.0.1", 80)
}

type Truth = BTreeMap<(u8, u8), Revision>;

/// The store as it is, and how far the watch has brought it.
#[derive(Default)]
struct Store {
    truth: Truth,
    /// Commit n is at index n - 1.
    history: Vec<Vec<Change>>,
    delivered: usize,
}

#[derive(Clone, Debug)]
enum Action {
    /// One commit: each key is put (true) or deleted.
    Commit(Vec<(u8, u8, bool)>),
    /// The watch brings the next commit.
    Deliver,
    /// Everything is listed in two pages, the second one of these commits later.
    Relist {
        split: (u8, u8),
        between: Vec<(u8, u8, bool)>,
    },
    /// A watcher reads.
    Read,
}

impl Store {
    fn commit(&mut self, keys: &[(u8, u8, bool)]) {
        let revision = self.history.len() as Revision + 1;
        let mut changes = BTreeMap::new();
        for &(service, n, put) in keys {
            if put {
                self.truth.insert((service, n), revision);
                changes.insert((service, n), Change::Put(instance(service, n, revision)));
            } else if self.truth.remove(&(service, n)).is_some() {
                changes.insert((service, n), Change::Gone(name(service), id(n)));
            }
        }
        self.history.push(changes.into_values().collect());
    }

    fn page(&self, keep: impl Fn(&(u8, u8)) -> bool) -> Vec<Instance> {
        self.truth
            .iter()
            .filter(|(key, _)| keep(key))
            .map(|(&(service, n), &revision)| instance(service, n, revision))
            .collect()
    }

    fn lists(&self) -> BTreeMap<ServiceId, Vec<Instance>> {
        let mut lists: BTreeMap<ServiceId, Vec<Instance>> = BTreeMap::new();
        for instance in self.page(|_| true) {
            lists
                .entry(instance.service.clone())
                .or_default()
                .push(instance);
        }
        lists
    }
}

fn keys() -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
    proptest::collection::vec((0..3u8, 0..4u8, any::<bool>()), 1..4)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => keys().prop_map(Action::Commit),
        4 => Just(Action::Deliver),
        1 => ((0..3u8, 0..4u8), keys())
            .prop_map(|(split, between)| Action::Relist { split, between }),
        2 => Just(Action::Read),
    ]
}

fn plain(service: &Service) -> Vec<Instance> {
    service
        .instances
        .iter()
        .map(|instance| instance.as_ref().clone())
        .collect()
}

proptest! {
    /// Whatever the order of commits, deliveries, listings and reads: once the watch has brought
    /// everything, the snapshot, the last publications and a watcher's view are the truth.
    #[test]
    fn the_snapshot_converges(actions in proptest::collection::vec(action(), 1..60)) {
        let config = Config::default();
        let mut store = Store::default();
        let mut state = State::default();
        let mut published: BTreeMap<ServiceId, Arc<Service>> = BTreeMap::new();
        let mut view: BTreeMap<ServiceId, Arc<Service>> = BTreeMap::new();
        let mut cursor = state.cursor();

        // In the end the watch brings the rest, and the watcher reads once more.
        let rest = std::iter::repeat_n(Action::Deliver, 200).chain([Action::Read]);
        for action in actions.into_iter().chain(rest) {
            let input = match action {
                Action::Commit(keys) => {
                    store.commit(&keys);
                    continue;
                }
                Action::Deliver if store.delivered == store.history.len() => continue,
                Action::Deliver => {
                    let index = store.delivered;
                    store.delivered += 1;
                    let changes = store.history[index].iter().map(|change| match change {
                        Change::Put(instance) => Change::Put(instance.clone()),
                        Change::Gone(service, id) => Change::Gone(service.clone(), id.clone()),
                    });
                    Input::Observed { revision: index as u64 + 1, changes: changes.collect() }
                }
                Action::Relist { split, between } => {
                    let revision = store.history.len() as Revision;
                    let mut instances = store.page(|key| *key < split);
                    store.commit(&between);
                    instances.extend(store.page(|key| *key >= split));
                    store.delivered = usize::try_from(revision).unwrap();
                    Input::Listed { revision, instances }
                }
                Action::Read => {
                    for service in state.changed_since(cursor).expect("few services vanish") {
                        view.insert(service.id.clone(), service);
                    }
                    cursor = state.cursor();
                    continue;
                }
            };
            let before = state.revision();
            for effect in step(&mut state, input, &config).unwrap() {
                let Effect::Publish(service) = effect else { panic!("{effect:?}") };
                let old = published.insert(service.id.clone(), service.clone());
                prop_assert!(old.is_none_or(|old| old.revision <= service.revision));
            }
            prop_assert!(before <= state.revision());
            let listing = state.listing();
            let total: usize = listing.services.iter().map(|service| service.instances.len()).sum();
            prop_assert_eq!((total, listing.services.len()), (state.instances(), state.services()));
        }

        let truth = store.lists();
        let shown: BTreeMap<ServiceId, Vec<Instance>> =
            state.listing().services.iter().map(|s| (s.id.clone(), plain(s))).collect();
        prop_assert_eq!(&shown, &truth);
        for seen in [published, view] {
            let seen: BTreeMap<ServiceId, Vec<Instance>> = seen
                .into_iter()
                .filter(|(_, service)| !service.instances.is_empty())
                .map(|(name, service)| (name, plain(&service)))
                .collect();
            prop_assert_eq!(&seen, &truth);
        }
    }
}

fn with_instances(instances: &[(u8, u8)]) -> State {
    let mut state = State::default();
    let changes = instances
        .iter()
        .map(|&(service, n)| Change::Put(instance(service, n, 1)))
        .collect();
    let input = Input::Observed {
        revision: 1,
        changes,
    };
    step(&mut state, input, &Config::default()).unwrap();
    state
}

#[test]
fn a_registration_keeps_its_lease_unless_the_ttl_changes() {
    let mut state = with_instances(&[(0, 0)]);
    let mut stored = |registration| {
        let effects = step(
            &mut state,
            Input::Register(Box::new(registration)),
            &Config::default(),
        )
        .unwrap();
        match &effects[..] {
            [
                Effect::Store {
                    instance,
                    expected,
                    created,
                },
            ] => (instance.lease, *expected, *created),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        stored(registration(0, 0)),
        (Some(LeaseId(1)), Some(1), false)
    );
    let other_ttl = Registration {
        ttl: Some(Duration::from_secs(3)),
        ..registration(0, 0)
    };
    assert_eq!(stored(other_ttl), (None, None, false));
    assert_eq!(stored(registration(0, 1)), (None, None, true));
}

#[test]
fn limits_refuse_the_new_and_keep_the_known() {
    let config = Config {
        instances_per_service: 2,
        instances: 3,
        ..Config::default()
    };
    let mut state = with_instances(&[(0, 0), (0, 1)]);
    let mut try_it = |service, n| {
        let input = Input::Register(Box::new(registration(service, n)));
        step(&mut state, input, &config)
            .map(drop)
            .map_err(|error| error.code().to_owned())
    };
    assert_eq!(try_it(0, 2), Err("registry.service_full".to_owned()));
    assert_eq!(try_it(0, 1), Ok(()));
    assert_eq!(try_it(1, 0), Ok(()));
    let mut state = with_instances(&[(0, 0), (0, 1), (1, 0)]);
    let error = step(
        &mut state,
        Input::Register(Box::new(registration(1, 1))),
        &config,
    )
    .unwrap_err();
    assert_eq!(error.code(), "registry.full");
}

#[test]
fn a_status_is_written_only_if_it_changes_and_nobody_else_did() {
    let mut state = with_instances(&[(0, 0)]);
    let mut set = |n, status| {
        step(
            &mut state,
            Input::Edit(name(0), id(n), Edit::Status(status)),
            &Config::default(),
        )
    };
    match &set(0, Status::Draining).unwrap()[..] {
        [
            Effect::Store {
                instance,
                expected: Some(1),
                created: false,
            },
        ] => {
            assert_eq!(
                (instance.status, instance.lease),
                (Status::Draining, Some(LeaseId(1)))
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        &set(0, Status::Up).unwrap()[..],
        [Effect::Nothing(_)]
    ));
    assert_eq!(
        set(1, Status::Up).unwrap_err().code(),
        "registry.instance_unknown"
    );
}

#[test]
fn the_memory_of_emptied_services_is_bounded() {
    let config = Config::default();
    let mut state = State::default();
    let beginning = state.cursor();
    for n in 0..2 * EMPTIED_KEPT as u64 {
        let service = ServiceId::from(Name::new(&format!("s-{n}")).unwrap());
        let put = Instance {
            service: service.clone(),
            ..instance(0, 0, 2 * n + 1)
        };
        for (revision, change) in [
            (2 * n + 1, Change::Put(put)),
            (2 * n + 2, Change::Gone(service, id(0))),
        ] {
            let input = Input::Observed {
                revision,
                changes: vec![change],
            };
            step(&mut state, input, &config).unwrap();
        }
    }
    assert_eq!((state.services(), state.services.len()), (0, EMPTIED_KEPT));
    assert_eq!(state.changes.len(), EMPTIED_KEPT);
    assert!(
        state.changed_since(beginning).is_none(),
        "a watcher so far behind must list anew"
    );
    assert_eq!(state.changed_since(state.cursor()), Some(Vec::new()));
}
