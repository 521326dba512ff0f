//! The registry over the reference store, with time moved by hand.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use sinew_core::{InstanceId, ManualClock, Name, Result, Timestamp};
use sinew_engine::kv::{
    Batch, Capability, Condition, Entry, Kv, LeaseId, MemoryKv, Outcome, Page, Revision, Span,
    Watch, Write,
};

use super::*;

struct Setup {
    manual: ManualClock,
    kv: Arc<Counting>,
}

/// Counts what a registration costs, lists in short pages, and can hold back what watches see.
struct Counting {
    kv: MemoryKv,
    commits: AtomicUsize,
    grants: AtomicUsize,
    held: tokio::sync::watch::Sender<bool>,
}

struct HeldWatch(Box<dyn Watch>, tokio::sync::watch::Receiver<bool>);

#[async_trait]
impl Watch for HeldWatch {
    async fn next(&mut self) -> Result<Batch> {
        let batch = self.0.next().await;
        self.1.wait_for(|held| !held).await.unwrap();
        batch
    }
}

#[async_trait]
impl Kv for Counting {
    fn capability(&self) -> &Capability {
        self.kv.capability()
    }
    async fn revision(&self) -> Result<Revision> {
        self.kv.revision().await
    }
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        self.kv.get(key).await
    }
    async fn range(&self, span: Span, limit: usize, at: Option<Revision>) -> Result<Page> {
        self.kv.range(span, limit.min(3), at).await
    }
    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Outcome> {
        // Without writes it is a read, which the registry does every second.
        if !writes.is_empty() {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        self.kv.commit(conditions, writes).await
    }
    async fn watch(&self, span: Span, after: Revision) -> Result<Box<dyn Watch>> {
        let watch = self.kv.watch(span, after).await?;
        Ok(Box::new(HeldWatch(watch, self.held.subscribe())))
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.grants.fetch_add(1, Ordering::Relaxed);
        self.kv.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.kv.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.kv.revoke(lease).await
    }
    async fn compact(&self, revision: Revision) -> Result<()> {
        self.kv.compact(revision).await
    }
}

impl Setup {
    fn new() -> Self {
        let manual = ManualClock::new(Timestamp(1_000_000));
        let kv = Arc::new(Counting {
            kv: MemoryKv::new(manual.clock()),
            commits: AtomicUsize::new(0),
            grants: AtomicUsize::new(0),
            held: tokio::sync::watch::Sender::new(false),
        });
        Self { manual, kv }
    }

    /// Another node over the same store.
    fn another(&self) -> Self {
        let kv = Counting {
            kv: self.kv.kv.clone(),
            commits: AtomicUsize::new(0),
            grants: AtomicUsize::new(0),
            held: tokio::sync::watch::Sender::new(false),
        };
        Self {
            manual: self.manual.clone(),
            kv: Arc::new(kv),
        }
    }

    async fn start(&self) -> Registry {
        self.start_with(Config::default()).await
    }

    async fn start_with(&self, config: Config) -> Registry {
        let registry = Registry::start(self.kv.clone(), self.manual.clock(), config)
            .await
            .unwrap();
        settle().await;
        registry
    }
}

/// Lets the background tasks do what they can do without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn name(text: &str) -> ServiceId {
    Name::new(text).unwrap().into()
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn registration(service: &str, instance: &str) -> Registration {
    Registration {
        metadata: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        ..Registration::new(name(service), id(instance), "127.0.0.1", 8081)
    }
}

fn ids(service: &Service) -> Vec<&str> {
    service
        .instances
        .iter()
        .map(|instance| instance.id.as_str())
        .collect()
}

#[tokio::test]
async fn a_registration_is_one_commit_and_seen_on_return() {
    let setup = Setup::new();
    let registry = setup.start().await;
    let before = setup.kv.grants.load(Ordering::Relaxed);
    let registered = registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    assert!(registered.created);
    assert_eq!(setup.kv.commits.load(Ordering::Relaxed), 1);

    let orders = registry.service(&name("orders"));
    assert_eq!(orders.instances, vec![registered.instance.clone()]);
    assert_eq!(orders.revision, registered.instance.revision);
    assert_eq!(registry.list().services, vec![orders]);

    let again = Registration {
        port: 9_000,
        ..registration("orders", "orders-1")
    };
    let again = registry.register(again).await.unwrap();
    assert!(!again.created && again.instance.revision > registered.instance.revision);
    assert_eq!(registry.service(&name("orders")).instances[0].port, 9_000);
    settle().await;
    assert_eq!(
        setup.kv.grants.load(Ordering::Relaxed),
        before,
        "a spare lease was used"
    );
}

#[tokio::test]
async fn coming_and_going_needs_no_new_leases() {
    let setup = Setup::new();
    let registry = setup.start().await;
    let granted = setup.kv.grants.load(Ordering::Relaxed);
    for n in 0..50 {
        let instance = format!("orders-{n}");
        registry
            .register(registration("orders", &instance))
            .await
            .unwrap();
        assert!(
            registry
                .deregister(&name("orders"), &id(&instance))
                .await
                .unwrap()
        );
        settle().await;
    }
    assert_eq!(setup.kv.grants.load(Ordering::Relaxed), granted);
    assert_eq!(setup.kv.commits.load(Ordering::Relaxed), 100);
}

/// The trap of giving leases back: a node that is behind must not put an instance on a lease that
/// is another's by now.
#[tokio::test]
async fn a_lease_is_never_shared() {
    let setup = Setup::new();
    let behind = setup.another();
    let (a, b) = (setup.start().await, behind.start().await);
    a.register(registration("orders", "orders-1"))
        .await
        .unwrap();
    settle().await;
    behind.kv.held.send_replace(true);
    // The lease that orders-1 had goes to orders-2, and b knows nothing of it.
    a.deregister(&name("orders"), &id("orders-1"))
        .await
        .unwrap();
    a.register(registration("orders", "orders-2"))
        .await
        .unwrap();
    assert_eq!(ids(&b.service(&name("orders"))), ["orders-1"]);
    let register = b.register(registration("orders", "orders-1"));
    let (registered, ()) = tokio::join!(register, async {
        settle().await;
        behind.kv.held.send_replace(false);
    });
    registered.unwrap();
    settle().await;
    let orders = a.service(&name("orders"));
    assert_eq!(ids(&orders), ["orders-1", "orders-2"]);
    assert_ne!(orders.instances[0].lease, orders.instances[1].lease);
}

#[tokio::test]
async fn more_registrations_than_spare_leases() {
    let setup = Setup::new();
    let registry = setup.start().await;
    let all = (0..40).map(|n| registry.register(registration("orders", &format!("i-{n:02}"))));
    futures_util::future::try_join_all(all).await.unwrap();
    assert_eq!(registry.service(&name("orders")).instances.len(), 40);
    assert_eq!(registry.stats().instances, 40);
    // Each has its own lease: one that goes takes nobody along.
    let leases: std::collections::BTreeSet<_> = registry
        .service(&name("orders"))
        .instances
        .iter()
        .map(|i| i.lease)
        .collect();
    assert_eq!(leases.len(), 40);
}

#[tokio::test]
async fn an_instance_lives_by_its_heartbeats() {
    let setup = Setup::new();
    let registry = setup.start().await;
    for instance in ["beats", "silent"] {
        registry
            .register(registration("orders", instance))
            .await
            .unwrap();
    }
    let commits = setup.kv.commits.load(Ordering::Relaxed);
    for _ in 0..4 {
        setup.manual.advance(Duration::from_secs(4));
        settle().await;
        let ttl = registry
            .heartbeat(&name("orders"), &id("beats"))
            .await
            .unwrap();
        assert_eq!(ttl, Duration::from_secs(10));
    }
    settle().await;
    assert_eq!(ids(&registry.service(&name("orders"))), ["beats"]);
    assert_eq!(
        setup.kv.commits.load(Ordering::Relaxed),
        commits,
        "heartbeats write nothing"
    );
    let unknown = registry
        .heartbeat(&name("orders"), &id("silent"))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), "registry.instance_unknown");
    assert_eq!(registry.stats().departures, 1);

    assert!(
        registry
            .register(registration("orders", "silent"))
            .await
            .unwrap()
            .created
    );
    assert_eq!(ids(&registry.service(&name("orders"))), ["beats", "silent"]);
}

/// Lets time pass, step by step, so that what is to happen every second does.
async fn pass(setup: &Setup, seconds: u64) {
    for _ in 0..seconds {
        setup.manual.advance(Duration::from_secs(1));
        settle().await;
    }
}

async fn stored(setup: &Setup) -> usize {
    let span = Span::prefix("registry/");
    let page = setup.kv.kv.range(span, usize::MAX, None).await.unwrap();
    page.entries.len()
}

#[tokio::test]
async fn the_dead_leave_nothing_behind() {
    let setup = Setup::new();
    let (a, b) = (setup.start().await, setup.start().await);
    for n in 0..3 {
        a.register(registration("orders", &format!("orders-{n}")))
            .await
            .unwrap();
    }
    a.deregister(&name("orders"), &id("orders-2"))
        .await
        .unwrap();
    assert_eq!(stored(&setup).await, 4);
    pass(&setup, 11).await;
    assert_eq!(stored(&setup).await, 2, "their heartbeats are gone");
    assert_eq!(a.list().services, vec![]);
    pass(&setup, 14).await;
    assert_eq!(stored(&setup).await, 0);
    let reaped = a.stats().reaped + b.stats().reaped;
    assert_eq!(reaped, 2, "each by one of the nodes");
}

#[tokio::test]
async fn a_persistent_instance_stays_and_may_come_back() {
    let setup = Setup::new();
    let (a, b) = (setup.start().await, setup.start().await);
    let (orders, one) = (name("orders"), id("orders-1"));
    let persistent = |ttl, deregister_after| Registration {
        persistent: true,
        ttl,
        deregister_after,
        ..registration("orders", "orders-1")
    };
    // Without heartbeats it stays for ever.
    a.register(persistent(None, None)).await.unwrap();
    pass(&setup, 30).await;
    assert_eq!(a.service(&orders).instances[0].health(), Health::Unknown);
    assert!(a.heartbeat(&orders, &one).await.is_ok(), "it owes none");
    assert_eq!(stored(&setup).await, 1);

    let minute = Some(Duration::from_secs(60));
    let ten = Some(Duration::from_secs(10));
    a.register(persistent(ten, minute)).await.unwrap();
    assert_eq!(a.service(&orders).instances[0].health(), Health::Passing);
    pass(&setup, 11).await;
    for registry in [&a, &b] {
        let service = registry.service(&orders);
        assert_eq!(service.instances[0].health(), Health::Critical);
        assert_eq!(service.status_of(&service.instances[0]), Status::Down);
    }
    // The other node's heartbeat wakes it.
    b.heartbeat(&orders, &one).await.unwrap();
    assert_eq!(b.service(&orders).instances[0].health(), Health::Passing);
    settle().await;
    assert_eq!(a.service(&orders).instances[0].effective(), Status::Up);
    pass(&setup, 50).await;
    assert_eq!(a.service(&orders).instances.len(), 1, "critical for 40 s");
    pass(&setup, 30).await;
    assert_eq!(a.service(&orders).instances.len(), 0);
    let gone = a.heartbeat(&orders, &one).await.unwrap_err();
    assert_eq!(gone.code(), "registry.instance_unknown");
    assert_eq!(stored(&setup).await, 0);
}

#[tokio::test]
async fn a_cut_network_does_not_empty_a_service() {
    let setup = Setup::new();
    let (a, b) = (setup.start().await, setup.start().await);
    let beat = async || {
        for n in 0..2 {
            let id = id(&format!("orders-{n}"));
            a.heartbeat(&name("orders"), &id).await.unwrap();
        }
    };
    for n in 0..10 {
        a.register(registration("orders", &format!("orders-{n}")))
            .await
            .unwrap();
    }
    for _ in 0..4 {
        pass(&setup, 5).await;
        beat().await;
    }
    for registry in [&a, &b] {
        let service = registry.service(&name("orders"));
        assert!(service.panic);
        assert_eq!(service.instances.len(), 10);
        let up = |i: &&Arc<Instance>| service.status_of(i) == Status::Up;
        assert_eq!(service.instances.iter().filter(up).count(), 10);
        assert_eq!((registry.stats().panics, registry.stats().critical), (1, 8));
    }
    // They come back, by registering again as they are told to.
    let lost = a.heartbeat(&name("orders"), &id("orders-5")).await;
    assert_eq!(lost.unwrap_err().code(), "registry.instance_unknown");
    for n in 2..6 {
        let back = a
            .register(registration("orders", &format!("orders-{n}")))
            .await
            .unwrap();
        assert!(back.created);
    }
    settle().await;
    for registry in [&a, &b] {
        let service = registry.service(&name("orders"));
        assert!(!service.panic);
        assert_eq!(service.instances.len(), 6, "the others are dead after all");
    }
}

#[tokio::test]
async fn an_operators_word_survives_registering_again() {
    let setup = Setup::new();
    let registry = setup.start().await;
    let (orders, one) = (name("orders"), id("orders-1"));
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    let out = Edit::Override(Some(Status::OutOfService));
    let out = registry.edit(&orders, &one, out).await.unwrap();
    assert_eq!(out.effective(), Status::OutOfService);
    // It goes, and comes back before it is forgotten.
    pass(&setup, 12).await;
    assert!(registry.service(&orders).instances.is_empty());
    let again = registry.register(registration("orders", "orders-1"));
    let again = again.await.unwrap();
    assert!(again.created);
    assert_eq!(again.instance.effective(), Status::OutOfService);
    let up = registry.edit(&orders, &one, Edit::Override(None)).await;
    assert_eq!(up.unwrap().effective(), Status::Up);
}

#[tokio::test]
async fn a_node_that_is_behind_does_not_unsay_an_operators_word() {
    let setup = Setup::new();
    let behind = setup.another();
    let (a, b) = (setup.start().await, behind.start().await);
    a.register(registration("orders", "orders-1"))
        .await
        .unwrap();
    settle().await;
    behind.kv.held.send_replace(true);
    let out = Edit::Override(Some(Status::OutOfService));
    a.edit(&name("orders"), &id("orders-1"), out).await.unwrap();
    let register = b.register(registration("orders", "orders-1"));
    let (registered, ()) = tokio::join!(register, async {
        settle().await;
        behind.kv.held.send_replace(false);
    });
    let registered = registered.unwrap().instance;
    assert_eq!(registered.effective(), Status::OutOfService);
}

#[tokio::test]
async fn reads_say_when_they_are_stale() {
    let setup = Setup::new();
    let other = setup.another();
    let (behind, writer) = (setup.start().await, other.start().await);
    pass(&setup, 20).await;
    assert_eq!(behind.stale(), None, "nothing happened is not stale");
    assert_eq!(behind.newest().await.unwrap(), 0);

    setup.kv.held.send_replace(true);
    writer
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    for _ in 0..7 {
        pass(&setup, 1).await;
        writer
            .heartbeat(&name("orders"), &id("orders-1"))
            .await
            .unwrap();
    }
    assert!(
        behind
            .stale()
            .is_some_and(|age| age >= Duration::from_secs(5))
    );
    assert_eq!(writer.stale(), None);
    assert!(behind.service(&name("orders")).instances.is_empty());
    let (newest, ()) = tokio::join!(behind.newest(), async {
        setup.manual.advance(Duration::from_secs(2));
        settle().await;
    });
    assert_eq!(newest.unwrap_err().code(), "registry.behind");

    setup.kv.held.send_replace(false);
    let newest = behind.newest().await.unwrap();
    assert_eq!(behind.service(&name("orders")).revision, newest);
    assert_eq!(behind.stale(), None);
    // Commits of others are none of the registry's.
    let write = Write::Put {
        key: "other".into(),
        value: "".into(),
        lease: None,
    };
    setup
        .kv
        .commit(vec![], vec![write])
        .await
        .map(drop)
        .unwrap();
    assert_eq!(behind.newest().await.unwrap(), newest);
}

#[tokio::test]
async fn a_list_is_waited_for() {
    let setup = Setup::new();
    let registry = setup.start().await;
    let first = registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    let (orders, carts) = (name("orders"), name("carts"));
    let long = Duration::from_secs(60);
    let now = registry.changed(&orders, 0, long).await;
    assert_eq!(now.revision, first.instance.revision);
    let unknown = registry.service(&carts).revision;
    // Others' changes do not end the wait.
    let waiting = registry.changed(&carts, unknown, long);
    let (carts, ()) = tokio::join!(waiting, async {
        settle().await;
        for instance in ["orders-2", "orders-3"] {
            registry
                .register(registration("orders", instance))
                .await
                .unwrap();
        }
        registry
            .register(registration("carts", "carts-1"))
            .await
            .unwrap();
    });
    assert_eq!(carts.instances.len(), 1);
    let soon = Duration::from_millis(1);
    let none = registry.changed(&name("carts"), carts.revision, soon).await;
    assert_eq!(none, carts);
    let listing = registry.list_in(&default_namespace());
    assert_eq!(listing.services.len(), 2);
    registry
        .any_changed(listing.revision - 1, Duration::from_secs(60))
        .await;
}

#[tokio::test]
async fn namespaces_are_apart() {
    let setup = Setup::new();
    let registry = setup.start().await;
    let space = Name::new("team-a").unwrap();
    let theirs = ServiceId::new(space.clone(), Name::new("orders").unwrap());
    let elsewhere = Registration {
        service: theirs.clone(),
        ..registration("orders", "orders-1")
    };
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    let (mut watcher, present) = registry.watch_in(space.clone());
    assert!(present.is_empty());
    registry
        .register(registration("orders", "orders-2"))
        .await
        .unwrap();
    registry.register(elsewhere).await.unwrap();
    let seen = watcher.next().await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].id, seen[0].instances.len()), (&theirs, 1));
    assert_eq!(watcher.revision(), seen[0].revision);
    let resumed = registry
        .watch_since(Some(space.clone()), watcher.revision())
        .await;
    assert!(resumed.is_some_and(|(_, changed)| changed.is_empty()));
    let resumed = registry.watch_since(None, seen[0].revision - 1).await;
    assert_eq!(resumed.unwrap().1, seen);
    assert_eq!(ids(&registry.service(&theirs)), ["orders-1"]);
    assert_eq!(registry.list_in(&space).services.len(), 1);
    assert_eq!(registry.list().services.len(), 2);
    assert_eq!(registry.find(&space, &id("orders-1")).len(), 1);
    assert_eq!(registry.find(&space, &id("orders-2")).len(), 0);
    registry.deregister(&theirs, &id("orders-1")).await.unwrap();
    assert_eq!(registry.service(&name("orders")).instances.len(), 2);
}

/// As versions before 0.2 wrote them: the instance itself goes with its lease.
#[tokio::test]
async fn instances_of_an_earlier_version_live_on() {
    let setup = Setup::new();
    let lease = setup.kv.grant(Duration::from_secs(10)).await.unwrap();
    let write = Write::Put {
        key: key("orders-1"),
        value: br#"{"v":1,"address":"10.0.0.1","port":1,"status":"up","ttl_ms":10000}"#[..].into(),
        lease: Some(lease),
    };
    setup
        .kv
        .commit(vec![], vec![write])
        .await
        .map(drop)
        .unwrap();
    let registry = setup.start().await;
    let (orders, one) = (name("orders"), id("orders-1"));
    assert_eq!(
        registry.service(&orders).instances[0].effective(),
        Status::Up
    );
    pass(&setup, 8).await;
    registry.heartbeat(&orders, &one).await.unwrap();
    let edit = registry.set_status(&orders, &one, Status::Draining).await;
    assert_eq!(edit.unwrap().effective(), Status::Draining);
    pass(&setup, 8).await;
    assert_eq!(registry.service(&orders).instances.len(), 1);
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    assert_eq!(stored(&setup).await, 2);
    pass(&setup, 30).await;
    assert_eq!(stored(&setup).await, 0);
}

#[tokio::test]
async fn a_spare_lease_gives_the_full_ttl() {
    let setup = Setup::new();
    let registry = setup.start().await;
    // The spares are some seconds old, or renewed, when they are used.
    setup.manual.advance(Duration::from_secs(3));
    settle().await;
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    setup.manual.advance(Duration::from_millis(9_900));
    settle().await;
    assert_eq!(registry.service(&name("orders")).instances.len(), 1);
    setup.manual.advance(Duration::from_millis(200));
    settle().await;
    assert_eq!(registry.service(&name("orders")).instances.len(), 0);
}

#[tokio::test]
async fn registering_after_the_lease_ended_unseen() {
    let setup = Setup::new();
    let registry = setup.start().await;
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    // No turn for the watch: the snapshot still shows the instance, with a lease that has ended.
    setup.manual.advance(Duration::from_secs(60));
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    settle().await;
    assert_eq!(ids(&registry.service(&name("orders"))), ["orders-1"]);
    registry
        .heartbeat(&name("orders"), &id("orders-1"))
        .await
        .unwrap();
}

#[tokio::test]
async fn another_ttl_takes_another_lease() {
    let setup = Setup::new();
    let registry = setup.start().await;
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    let longer = Duration::from_secs(60);
    let changed = Registration {
        ttl: Some(longer),
        ..registration("orders", "orders-1")
    };
    assert_eq!(
        registry.register(changed).await.unwrap().instance.ttl,
        Some(longer)
    );
    setup.manual.advance(Duration::from_secs(59));
    settle().await;
    assert_eq!(
        registry
            .heartbeat(&name("orders"), &id("orders-1"))
            .await
            .unwrap(),
        longer
    );
}

#[tokio::test]
async fn status_and_departure() {
    let setup = Setup::new();
    let registry = setup.start().await;
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    let (orders, one) = (name("orders"), id("orders-1"));
    let draining = registry
        .set_status(&orders, &one, Status::Draining)
        .await
        .unwrap();
    assert_eq!(draining.status, Status::Draining);
    assert_eq!(registry.service(&orders).instances[0], draining);
    assert_eq!(&draining.metadata["zone"], "a", "the rest stays");
    let same = registry
        .set_status(&orders, &one, Status::Draining)
        .await
        .unwrap();
    assert_eq!(same.revision, draining.revision, "nothing to write");

    assert!(registry.deregister(&orders, &one).await.unwrap());
    assert!(registry.service(&orders).instances.is_empty());
    assert!(!registry.deregister(&orders, &one).await.unwrap());
    let error = registry
        .set_status(&orders, &one, Status::Up)
        .await
        .unwrap_err();
    assert_eq!(error.code(), "registry.instance_unknown");
    assert_eq!(registry.list().services, vec![]);
}

#[tokio::test]
async fn two_nodes_over_one_store_act_as_one() {
    let setup = Setup::new();
    let (a, b) = (setup.start().await, setup.start().await);
    a.register(registration("orders", "orders-1"))
        .await
        .unwrap();
    // b has had no turn to see it yet: each of these looks into the store first.
    b.heartbeat(&name("orders"), &id("orders-1")).await.unwrap();
    a.register(registration("orders", "orders-2"))
        .await
        .unwrap();
    let status = b
        .set_status(&name("orders"), &id("orders-2"), Status::Down)
        .await
        .unwrap();
    assert_eq!(status.status, Status::Down);
    assert!(
        b.deregister(&name("orders"), &id("orders-1"))
            .await
            .unwrap()
    );
    settle().await;
    assert_eq!(a.list().services, b.list().services);
    assert_eq!(ids(&a.service(&name("orders"))), ["orders-2"]);
}

#[tokio::test]
async fn watchers_see_the_newest_list_of_what_changed() {
    let setup = Setup::new();
    let registry = setup.start().await;
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    let mut orders = registry.watch(&name("orders"));
    assert_eq!(ids(&orders.borrow_and_update()), ["orders-1"]);
    let (mut all, present) = registry.watch_all();
    assert_eq!(present, registry.list().services);
    let (mut some, present) = registry.watch_some(vec![name("payments"), name("users")]);
    assert_eq!(present.len(), 2, "unknown services are empty lists");

    for n in 1..=5 {
        registry
            .register(registration("payments", &format!("payments-{n}")))
            .await
            .unwrap();
    }
    registry
        .register(registration("carts", "carts-1"))
        .await
        .unwrap();
    registry
        .deregister(&name("orders"), &id("orders-1"))
        .await
        .unwrap();

    let seen = all.next().await.unwrap();
    let shown: Vec<_> = seen
        .iter()
        .map(|s| (s.id.name.as_str(), s.instances.len()))
        .collect();
    assert_eq!(
        shown,
        [("payments", 5), ("carts", 1), ("orders", 0)],
        "coalesced, oldest first"
    );
    let seen = some.next().await.unwrap();
    assert_eq!(
        seen.iter().map(|s| s.id.name.as_str()).collect::<Vec<_>>(),
        ["payments"]
    );
    assert_eq!(seen[0].instances.len(), 5);
    assert!(orders.has_changed().unwrap());
    assert!(orders.borrow_and_update().instances.is_empty());
    for watcher in [&mut all, &mut some] {
        let more = tokio::time::timeout(Duration::from_millis(20), watcher.next()).await;
        assert!(more.is_err(), "nothing more changed");
    }
    drop(registry);
    assert_eq!(all.next().await.unwrap_err().code(), "registry.stopped");
    assert_eq!(some.next().await.unwrap_err().code(), "registry.stopped");
}

#[tokio::test]
async fn an_observer_is_as_fresh_as_the_registry() {
    let setup = Setup::new();
    let registry = setup.start().await;
    let orders = name("orders");
    let seen = Arc::new(AtomicUsize::new(usize::MAX));
    let wanted = Arc::new(AtomicUsize::new(1));
    registry.observe(&orders, {
        let (seen, wanted) = (seen.clone(), wanted.clone());
        move |service| {
            seen.store(service.instances.len(), Ordering::Relaxed);
            wanted.load(Ordering::Relaxed) > 0
        }
    });
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    registry
        .register(registration("orders", "orders-1"))
        .await
        .unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    registry
        .register(registration("carts", "carts-1"))
        .await
        .unwrap();
    wanted.store(0, Ordering::Relaxed);
    registry.deregister(&orders, &id("orders-1")).await.unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    registry
        .register(registration("orders", "orders-2"))
        .await
        .unwrap();
    assert_eq!(
        seen.load(Ordering::Relaxed),
        0,
        "it asked not to be called again"
    );
}

#[tokio::test]
async fn compacted_history_is_survived_by_listing_again() {
    let setup = Setup::new();
    let registry = setup.start().await;
    registry
        .register(registration("orders", "orders-0"))
        .await
        .unwrap();
    let watched = registry.watch(&name("orders"));
    // Behind the registry's back, and before its watch has a turn.
    let other = setup
        .start_with(Config {
            spare_leases: 0,
            ..Config::default()
        })
        .await;
    for n in 1..8 {
        setup
            .kv
            .commit(vec![], vec![foreign(&format!("orders-{n}"))])
            .await
            .map(drop)
            .unwrap();
    }
    setup
        .kv
        .commit(
            vec![],
            vec![Write::Delete {
                key: key("orders-0"),
            }],
        )
        .await
        .map(drop)
        .unwrap();
    setup
        .kv
        .compact(setup.kv.revision().await.unwrap())
        .await
        .unwrap();
    settle().await;
    for registry in [&registry, &other] {
        assert_eq!(registry.service(&name("orders")).instances.len(), 7);
        assert_eq!(registry.stats().relists, 1);
    }
    assert_eq!(watched.borrow().instances.len(), 7);
    registry
        .register(registration("orders", "orders-9"))
        .await
        .unwrap();
    assert_eq!(registry.service(&name("orders")).instances.len(), 8);
}

fn key(instance: &str) -> bytes::Bytes {
    super::keys::instance(&name("orders"), &id(instance))
}

fn foreign(instance: &str) -> Write {
    let value =
        br#"{"v":1,"address":"10.0.0.1","port":1,"status":"up","ttl_ms":0,"persistent":true}"#;
    Write::Put {
        key: key(instance),
        value: value[..].into(),
        lease: None,
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_skipped() {
    let setup = Setup::new();
    let broken = |text: &'static str| Write::Put {
        key: key("broken"),
        value: text.into(),
        lease: None,
    };
    setup
        .kv
        .commit(vec![], vec![broken("{"), foreign("good")])
        .await
        .map(drop)
        .unwrap();
    let registry = setup.start().await;
    assert_eq!(ids(&registry.service(&name("orders"))), ["good"]);
    registry
        .register(registration("orders", "broken"))
        .await
        .unwrap();
    assert_eq!(ids(&registry.service(&name("orders"))), ["broken", "good"]);
    setup
        .kv
        .commit(vec![], vec![broken("\"newer\"")])
        .await
        .map(drop)
        .unwrap();
    settle().await;
    assert_eq!(ids(&registry.service(&name("orders"))), ["good"]);
}

#[tokio::test]
async fn a_restart_finds_everything_again() {
    let setup = Setup::new();
    let registry = setup.start().await;
    for n in 0..10 {
        registry
            .register(registration("orders", &format!("orders-{n}")))
            .await
            .unwrap();
    }
    let before = registry.list();
    drop(registry);
    let registry = setup.start().await;
    assert_eq!(
        registry.list().services[0].instances,
        before.services[0].instances
    );
    registry
        .heartbeat(&name("orders"), &id("orders-3"))
        .await
        .unwrap();
}

#[tokio::test]
async fn wrong_registrations_are_refused_before_the_store_is_asked() {
    let setup = Setup::new();
    let registry = setup.start().await;
    let good = || registration("orders", "orders-1");
    let cases = [
        (
            Registration {
                address: "0.0.0.0".into(),
                ..good()
            },
            "registry.address_invalid",
        ),
        (
            Registration {
                ttl: Some(Duration::from_millis(999)),
                ..good()
            },
            "registry.ttl_invalid",
        ),
        (
            Registration {
                ttl: Some(Duration::from_secs(601)),
                ..good()
            },
            "registry.ttl_invalid",
        ),
    ];
    for (registration, code) in cases {
        assert_eq!(
            registry.register(registration).await.unwrap_err().code(),
            code
        );
    }
    assert_eq!(setup.kv.commits.load(Ordering::Relaxed), 0);
}
