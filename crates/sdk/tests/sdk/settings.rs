//! Settings that follow the node's config centre, and outlive it.

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use sinew_sdk::{
    Environment, Service, Settings,
    settings::{Builder, Origin},
};

use crate::{eventually, fake_node::FakeNode};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(default)]
struct Shop {
    currency: String,
    max_items: u32,
}

impl Default for Shop {
    fn default() -> Self {
        Self {
            currency: "EUR".into(),
            max_items: 100,
        }
    }
}

/// Settings of a service that keeps its files in `data`. It is patient: the machine may be busy.
fn shop(environment: Environment, data: &Path) -> Builder<Shop> {
    let environment = environment.with("SINEW_DATA", data.to_str().unwrap());
    let service = Service::with_environment("shop", environment).unwrap();
    let builder = service.settings::<Shop>().patience(Duration::from_secs(60));
    builder.check(|shop| match shop.max_items {
        0 => Err("max_items must not be 0".into()),
        _ => Ok(()),
    })
}

async fn until_items(settings: &Settings<Shop>, items: u32) {
    eventually("the settings changed", || {
        settings.current().max_items == items
    })
    .await;
}

#[tokio::test]
async fn settings_follow_the_node_and_bad_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::start().await;
    node.configure(json!({"max_items": "7"}));
    let builder = shop(node.environment(), folder.path())
        .profiles(["prod", "eu"])
        .with("zone", "a b");
    let settings = builder.start().await.unwrap();
    let expected = Shop {
        max_items: 7,
        ..Shop::default()
    };
    assert_eq!(
        (&*settings.current(), settings.origin()),
        (&expected, Origin::Node)
    );
    let asked = node
        .log()
        .into_iter()
        .find(|line| line.contains("/watch/config/"))
        .unwrap();
    assert!(
        asked.contains(
            "/default/shop?profiles=prod%2Ceu&label=main&labels=zone%3Da%20b&instance=shop-"
        ),
        "{asked}"
    );
    let seen = Arc::new(Mutex::new(Vec::new()));
    settings.on_change({
        let seen = seen.clone();
        move |before, after| seen.lock().push((before.max_items, after.max_items))
    });
    let mut changes = settings.changes();
    node.configure(json!({"max_items": 0}));
    node.configure(json!({"max_items": "many"}));
    node.configure(json!({"max_items": 9}));
    until_items(&settings, 9).await;
    changes.changed().await.unwrap();
    assert_eq!(
        *seen.lock(),
        [(7, 9)],
        "what is not good was never in force"
    );
}

#[tokio::test]
async fn a_service_starts_with_what_it_kept_while_the_node_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = FakeNode::start().await;
    node.configure(json!({"max_items": 5}));
    let settings = shop(node.environment(), folder.path())
        .start()
        .await
        .unwrap();
    assert_eq!(settings.current().max_items, 5);
    drop(settings);
    node.kill().await;
    let impatient = || shop(node.environment(), folder.path()).patience(Duration::from_millis(50));
    let settings = impatient().start().await.unwrap();
    assert_eq!(
        (settings.current().max_items, settings.origin()),
        (5, Origin::File)
    );
    node.restart().await;
    eventually("the node was found again", || {
        settings.origin() == Origin::Node
    })
    .await;
    assert_eq!(settings.current().max_items, 5);
    node.configure(json!({"max_items": 6}));
    until_items(&settings, 6).await;
    // Known settings do not come again.
    let again = shop(node.environment(), folder.path())
        .start()
        .await
        .unwrap();
    assert_eq!(
        (again.current().max_items, again.origin()),
        (6, Origin::Node)
    );
    assert_eq!(*again.changes().borrow(), 0);
}

#[tokio::test]
async fn without_node_and_file_the_defaults_must_be_good() {
    let folder = tempfile::tempdir().unwrap();
    let alone = || shop(Environment::default(), folder.path());
    let settings = alone().start().await.unwrap();
    assert_eq!(
        (&*settings.current(), settings.origin()),
        (&Shop::default(), Origin::Defaults)
    );
    let refused = alone()
        .check(|_| Err("no".into()))
        .start()
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "sdk.settings_refused");
    // A file of somebody else's is passed over.
    std::fs::write(folder.path().join("settings-shop.json"), "{").unwrap();
    assert_eq!(alone().start().await.unwrap().origin(), Origin::Defaults);
    let node = FakeNode::start().await;
    node.configure(json!({"max_items": 0}));
    let settings = shop(node.environment(), folder.path())
        .start()
        .await
        .unwrap();
    assert_eq!(
        (&*settings.current(), settings.origin()),
        (&Shop::default(), Origin::Defaults)
    );
    let needed =
        shop(node.environment(), folder.path()).check(|shop| match shop.currency.as_str() {
            "USD" => Ok(()),
            _ => Err("the currency is none of ours".into()),
        });
    assert_eq!(
        needed.start().await.unwrap_err().code(),
        "sdk.settings_refused"
    );
}
