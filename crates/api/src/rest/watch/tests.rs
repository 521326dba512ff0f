use sinew_coordination::registry::{Config, Registration, Registry};
use sinew_core::{Clock, InstanceId};
use sinew_engine::kv::MemoryKv;
use tokio::sync::Semaphore;

use super::*;

async fn feed() -> (Registry, Feed) {
    let clock = Clock::system();
    let kv = Arc::new(MemoryKv::new(clock.clone()));
    let registry = Registry::start(kv, clock, Config::default()).await.unwrap();
    let (watcher, present) = registry.watch_all();
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let feed = Feed {
        watcher,
        queue: present.into(),
        reset: false,
        synced: false,
        given: Instant::now(),
        ended: false,
        drain: Drain::new(),
        _permit: permit,
    };
    (registry, feed)
}

async fn next(feed: &mut Feed) -> Option<String> {
    feed.next()
        .await
        .map(|event| String::from_utf8(event.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_shows_that_it_lives() {
    let (_registry, mut feed) = feed().await;
    assert_eq!(
        next(&mut feed).await.unwrap(),
        "event: synced\nid: 0\ndata: {}\n\n"
    );
    // Paused time jumps to the next deadline when nothing else happens.
    assert_eq!(next(&mut feed).await.unwrap(), ": alive\n\n");
    assert_eq!(next(&mut feed).await.unwrap(), ": alive\n\n");
    feed.drain.start();
    assert_eq!(next(&mut feed).await, None);
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_list_once() {
    let (registry, mut feed) = feed().await;
    next(&mut feed).await;
    for n in 1..=20 {
        let service = Name::new("orders").unwrap();
        let id = InstanceId::new(&format!("orders-{n}")).unwrap();
        let registration = Registration::new(service, id, "127.0.0.1", 80);
        registry.register(registration).await.unwrap();
    }
    let event = next(&mut feed).await.unwrap();
    assert_eq!(event.matches("\"id\":").count(), 20, "{event}");
    assert!(feed.queue.is_empty());
    drop(registry);
    let end = next(&mut feed).await.unwrap();
    assert!(end.contains("registry.stopped"), "{end}");
    assert_eq!(next(&mut feed).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_told_why_it_ends() {
    let (_registry, mut feed) = feed().await;
    next(&mut feed).await;
    tokio::time::advance(SLOW + Duration::from_secs(1)).await;
    let end = next(&mut feed).await.unwrap();
    assert!(end.starts_with("event: end\ndata: {"), "{end}");
    assert!(end.contains("registry.watch_slow"), "{end}");
    assert_eq!(next(&mut feed).await, None);
}

#[test]
fn a_watch_names_services_once_and_not_too_many() {
    let selection = |namespace: &str, services: Vec<String>| {
        let mut pairs = vec![("namespace".to_owned(), namespace.to_owned())];
        pairs.extend(
            services
                .into_iter()
                .map(|name| ("service".to_owned(), name)),
        );
        Selection::read(&pairs, &["namespace", "service"]).unwrap()
    };
    let named = |services: Vec<String>| names(&selection("default", services));
    let two = named(["b", "a", "b"].map(Into::into).into()).unwrap();
    let two: Vec<_> = two.iter().map(|id| id.name.as_str()).collect();
    assert_eq!(two, ["a", "b"]);
    let many = (0..=SERVICES).map(|n| format!("s{n}")).collect();
    assert_eq!(named(many).unwrap_err().code(), "api.query_invalid");
    let anywhere = selection("*", vec!["a".to_owned()]);
    assert_eq!(names(&anywhere).unwrap_err().code(), "api.query_invalid");
}
