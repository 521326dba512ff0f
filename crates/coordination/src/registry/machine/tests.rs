use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

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

/// As the store has it: whether it is alive, its heartbeats tell.
fn instance(service: u8, n: u8, revision: Revision) -> Instance {
    let instance = registration(service, n).check(&Config::default());
    Instance {
        revision,
        alive: false,
        ..instance.unwrap()
    }
}

fn beating(service: u8, n: u8, revision: Revision, lease: Option<LeaseId>) -> Instance {
    let mut instance = instance(service, n, revision);
    instance.beats(lease);
    instance
}

fn put(service: u8, n: u8, revision: Revision) -> Change {
    Change::Put(Box::new(instance(service, n, revision)))
}

fn registration(service: u8, n: u8) -> Registration {
    // Some stay when their heartbeats cease.
    Registration {
        persistent: n == 4,
        ttl: Some(Duration::from_secs(10)),
        ..Registration::new(name(service), id(n), "127.0.0.1", 80)
    }
}

/// When an instance was last written, and the lease of its heartbeats while they come.
type Truth = BTreeMap<(u8, u8), (Revision, Option<LeaseId>)>;

/// The store as it is, and how far the watch has brought it.
#[derive(Default)]
struct Store {
    truth: Truth,
    /// Commit n is at index n - 1.
    history: Vec<Vec<Event>>,
    delivered: usize,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Put(u8, u8),
    Gone(u8, u8),
    Beats(u8, u8),
    Silent(u8, u8),
}

#[derive(Clone, Copy, Debug)]
enum Write {
    Register,
    Edit,
    Deregister,
    Expire,
}

type Writes = Vec<(u8, u8, Write)>;

#[derive(Clone, Debug)]
enum Action {
    Commit(Writes),
    /// The watch brings the next commit.
    Deliver,
    /// Everything is listed in two pages, heartbeats first, the second one of these commits later.
    Relist {
        split: (bool, u8, u8),
        between: Writes,
    },
    /// A watcher reads.
    Read,
}

impl Store {
    fn commit(&mut self, writes: &Writes) {
        let revision = self.history.len() as Revision + 1;
        let mut events = BTreeMap::new();
        for &(service, n, write) in writes {
            let key = (service, n);
            // A transaction writes a key once.
            if events.contains_key(&key) {
                continue;
            }
            let known = self.truth.get(&key).copied();
            let done = match (write, known) {
                (Write::Register, _) => {
                    self.truth.insert(key, (revision, Some(LeaseId(revision))));
                    // In either order.
                    let mut both = vec![Event::Put(service, n), Event::Beats(service, n)];
                    both.rotate_left(usize::from(n % 2));
                    both
                }
                (Write::Edit, Some((_, beat))) => {
                    self.truth.insert(key, (revision, beat));
                    vec![Event::Put(service, n)]
                }
                (Write::Deregister, Some((_, beat))) => {
                    self.truth.remove(&key);
                    let mut events = vec![Event::Gone(service, n)];
                    events.extend(beat.map(|_| Event::Silent(service, n)));
                    events
                }
                (Write::Expire, Some((at, Some(_)))) => {
                    self.truth.insert(key, (at, None));
                    vec![Event::Silent(service, n)]
                }
                _ => vec![],
            };
            events.insert(key, done);
        }
        self.history.push(events.into_values().flatten().collect());
    }

    fn change(event: Event, revision: Revision) -> Change {
        match event {
            Event::Put(service, n) => put(service, n, revision),
            Event::Gone(service, n) => Change::Gone(name(service), id(n)),
            Event::Beats(service, n) => Change::Beats(name(service), id(n), LeaseId(revision)),
            Event::Silent(service, n) => Change::Silent(name(service), id(n)),
        }
    }

    /// What shall be listed, worked out anew: those that live, and the dead of services of which most
    /// are dead.
    fn lists(&self) -> BTreeMap<ServiceId, (bool, Vec<Instance>)> {
        let mut all: BTreeMap<ServiceId, Vec<Instance>> = BTreeMap::new();
        for (&(service, n), &(revision, lease)) in &self.truth {
            let list = all.entry(name(service)).or_default();
            list.push(beating(service, n, revision, lease));
        }
        let listed = all.into_iter().map(|(service, mut list)| {
            let dead = list.iter().filter(|instance| !instance.alive).count();
            let panic = dead >= 3 && dead * 2 > list.len();
            list.retain(|instance| instance.alive || instance.persistent || panic);
            (service, (panic, list))
        });
        listed.filter(|(_, (_, list))| !list.is_empty()).collect()
    }
}

fn writes() -> impl Strategy<Value = Writes> {
    let write = prop_oneof![
        3 => Just(Write::Register),
        1 => Just(Write::Edit),
        1 => Just(Write::Deregister),
        3 => Just(Write::Expire),
    ];
    proptest::collection::vec((0..3u8, 0..5u8, write), 1..6)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => writes().prop_map(Action::Commit),
        4 => Just(Action::Deliver),
        1 => ((any::<bool>(), 0..3u8, 0..5u8), writes())
            .prop_map(|(split, between)| Action::Relist { split, between }),
        2 => Just(Action::Read),
    ]
}

fn plain(service: &Service) -> (bool, Vec<Instance>) {
    let instances = service.instances.iter();
    let instances = instances.map(|instance| instance.as_ref().clone());
    (service.panic, instances.collect())
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
                Action::Commit(writes) => {
                    store.commit(&writes);
                    continue;
                }
                Action::Deliver if store.delivered == store.history.len() => continue,
                Action::Deliver => {
                    let index = store.delivered;
                    store.delivered += 1;
                    let revision = index as u64 + 1;
                    let changes = store.history[index].iter();
                    let changes = changes.map(|event| Store::change(*event, revision));
                    Input::Observed { revision, changes: changes.collect() }
                }
                Action::Relist { split, between } => {
                    let revision = store.history.len() as Revision;
                    let before = store.truth.clone();
                    store.commit(&between);
                    // Heartbeats are (false, service, n), and listed first.
                    let page = |key: (bool, u8, u8)| if key < split { &before } else { &store.truth };
                    let all = (0..3).flat_map(|service| (0..5).map(move |n| (service, n)));
                    let at = |key: (bool, u8, u8)| page(key).get(&(key.1, key.2)).copied();
                    let instances = all.clone().filter_map(|(service, n)| {
                        let (revision, _) = at((true, service, n))?;
                        Some(instance(service, n, revision))
                    });
                    let beats = all.filter_map(|(service, n)| {
                        let (_, lease) = at((false, service, n))?;
                        Some(((name(service), id(n)), lease?))
                    });
                    let (instances, beats) = (instances.collect(), beats.collect());
                    store.delivered = usize::try_from(revision).unwrap();
                    Input::Listed { revision, instances, beats }
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
            let listing = state.listing(None);
            let total: usize = listing.services.iter().map(|service| service.instances.len()).sum();
            prop_assert_eq!((total, listing.services.len()), (state.instances(), state.services()));
            let panics = listing.services.iter().filter(|service| service.panic).count();
            prop_assert_eq!(panics, state.panics());
        }

        let truth = store.lists();
        let shown: BTreeMap<ServiceId, (bool, Vec<Instance>)> =
            state.listing(None).services.iter().map(|s| (s.id.clone(), plain(s))).collect();
        prop_assert_eq!(&shown, &truth);
        for seen in [published, view] {
            let seen: BTreeMap<ServiceId, (bool, Vec<Instance>)> = seen
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
    let changes = instances.iter().flat_map(|&(service, n)| {
        let beats = Change::Beats(name(service), id(n), LeaseId(1));
        [put(service, n, 1), beats]
    });
    let input = Input::Observed {
        revision: 1,
        changes: changes.collect(),
    };
    step(&mut state, input, &Config::default()).unwrap();
    state
}

fn silence(state: &mut State, instances: &[(u8, u8)]) {
    let silent = instances
        .iter()
        .map(|&(service, n)| Change::Silent(name(service), id(n)));
    let input = Input::Observed {
        revision: state.revision() + 1,
        changes: silent.collect(),
    };
    step(state, input, &Config::default()).unwrap();
}

fn tick(state: &mut State, seconds: u64) -> Vec<InstanceId> {
    let input = Input::Tick(Duration::from_secs(seconds));
    let effects = step(state, input, &Config::default()).unwrap();
    let reaped = effects.into_iter().map(|effect| match effect {
        Effect::Reap(instance) => instance.id.clone(),
        other => panic!("{other:?}"),
    });
    reaped.collect()
}

#[test]
fn the_dead_are_remembered_for_a_ttl_and_then_reaped() {
    let mut state = with_instances(&[(0, 0), (0, 1), (0, 2)]);
    silence(&mut state, &[(0, 1)]);
    assert_eq!(state.instances(), 2);
    assert_eq!(tick(&mut state, 100), []);
    assert_eq!(tick(&mut state, 109), []);
    assert_eq!(tick(&mut state, 110), [id(1)]);
    assert_eq!(
        tick(&mut state, 111),
        [id(1)],
        "until the store shows it gone"
    );
    // It came back: it is listed again, and not dead any more.
    let input = Input::Observed {
        revision: 9,
        changes: vec![Change::Beats(name(0), id(1), LeaseId(9))],
    };
    step(&mut state, input, &Config::default()).unwrap();
    assert_eq!(state.instances(), 3);
    assert_eq!(tick(&mut state, 500), []);
    assert!(state.dead.is_empty());
}

#[test]
fn most_of_a_service_does_not_die_at_once() {
    let ten: Vec<_> = (0..10).map(|n| (0, n)).collect();
    let mut state = with_instances(&ten);
    for n in 0..5 {
        silence(&mut state, &[(0, n)]);
    }
    let half = state.service(&name(0));
    // The persistent one of the five stays listed.
    assert_eq!((half.panic, half.instances.len()), (false, 6));
    silence(&mut state, &[(0, 5)]);
    let service = state.service(&name(0));
    assert_eq!((service.panic, service.instances.len()), (true, 10));
    assert_eq!((state.panics(), state.critical()), (1, 6));
    for instance in &service.instances {
        assert_eq!(service.status_of(instance), Status::Up);
    }
    assert_eq!(tick(&mut state, 10), []);
    assert_eq!(tick(&mut state, 609), []);
    assert_eq!(tick(&mut state, 610).len(), 5, "not for ever");

    let off = Config {
        panic_threshold: 0,
        ..Config::default()
    };
    let input = Input::Observed {
        revision: 90,
        changes: vec![Change::Silent(name(0), id(6))],
    };
    step(&mut state, input, &off).unwrap();
    assert!(!state.service(&name(0)).panic);
}

#[test]
fn of_two_both_may_be_dead() {
    let mut state = with_instances(&[(0, 0), (0, 1)]);
    silence(&mut state, &[(0, 0), (0, 1)]);
    let service = state.service(&name(0));
    assert_eq!((service.panic, service.instances.len()), (false, 0));
    assert_eq!((state.services(), state.instances()), (0, 0));
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
        let mut put = Instance {
            service: service.clone(),
            ..instance(0, 0, 2 * n + 1)
        };
        put.beats(Some(LeaseId(1)));
        for (revision, change) in [
            (2 * n + 1, Change::Put(Box::new(put))),
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
