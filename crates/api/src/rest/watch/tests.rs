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
        synced: false,
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
        "event: synced\ndata: {}\n\n"
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
    assert_eq!(next(&mut feed).await, None);
}

#[test]
fn queries_name_services() {
    let parsed = names("service=a&service=b&service=a&").unwrap();
    assert_eq!(
        parsed.iter().map(Name::as_str).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(names("").unwrap().is_empty());
    let many: Vec<_> = (0..=SERVICES).map(|n| format!("service=s{n}")).collect();
    assert_eq!(
        names(&many.join("&")).unwrap_err().code(),
        "api.query_invalid"
    );
    for bad in ["services=a", "service", "a"] {
        assert_eq!(names(bad).unwrap_err().code(), "api.query_invalid", "{bad}");
    }
}
