use std::{sync::Arc, time::Duration};

use serde_json::json;
use sinew_core::{Clock, Result};
use sinew_engine::{
    faulty::{Faults, Faulty},
    kv::{Kv, MemoryKv, Span},
};
use tokio::time::timeout;

use super::*;

/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

fn masters() -> MasterKeys {
    MasterKeys::read(&"A".repeat(43)).unwrap()
}

fn memory() -> Arc<MemoryKv> {
    Arc::new(MemoryKv::new(Clock::system()))
}

async fn over(kv: Arc<dyn Kv>) -> Configs {
    over_with(kv, Config::default()).await
}

async fn over_with(kv: Arc<dyn Kv>, config: Config) -> Configs {
    Configs::start(kv, Clock::system(), config, masters())
        .await
        .unwrap()
}

fn id(application: &str, profile: &str) -> ItemId {
    ItemId::new("default", application, profile, "main").unwrap()
}

fn yaml(content: &str) -> Content {
    Content {
        content: content.to_owned(),
        format: Some(Format::Yaml),
        schema: None,
    }
}

fn by(expected: Option<u64>) -> By {
    By {
        author: "ann".into(),
        note: "why".into(),
        expected,
    }
}

fn instance(id: &str) -> Client {
    Client {
        instance: Some(id.to_owned()),
        ..Client::default()
    }
}

#[track_caller]
fn code<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it is not refused"),
        Err(error) => error.code().to_owned(),
    }
}

#[tokio::test]
async fn a_node_reads_what_it_wrote_and_so_do_others_and_later_ones() {
    let kv = memory();
    let (one, other) = (over(kv.clone()).await, over(kv.clone()).await);
    let orders = id("orders", "default");
    let written = one.put(&orders, &yaml("a: 1"), &by(Some(0))).await.unwrap();
    assert_eq!((written.version.version, written.is_new), (1, true));
    assert_eq!(one.item(&orders).unwrap().content(), "a: 1");
    let again = one.put(&orders, &yaml("a: 1"), &by(None)).await.unwrap();
    assert_eq!((again.version.version, again.is_new), (1, false));
    assert_eq!(
        code(one.put(&orders, &yaml("a: 2"), &by(Some(0))).await),
        "configs.changed_meanwhile"
    );
    // What it does not say itself comes from the version before.
    let bare = Content {
        content: "a: 2".into(),
        ..Content::default()
    };
    let second = one.put(&orders, &bare, &by(Some(1))).await.unwrap();
    assert_eq!(second.version.format, Format::Yaml);
    let mut applied = other.applied();
    let caught_up = applied.wait_for(|applied| *applied >= second.revision);
    timeout(LIMIT, caught_up).await.unwrap().unwrap();
    assert_eq!(other.item(&orders).unwrap().content(), "a: 2");
    let later = over(kv).await;
    assert_eq!(later.item(&orders).unwrap().content(), "a: 2");
    let versions = later.versions(&orders).await.unwrap();
    let told: Vec<_> = versions
        .iter()
        .map(|v| (v.version, v.author.as_str(), v.note.as_str()))
        .collect();
    assert_eq!(told, [(2, "ann", "why"), (1, "ann", "why")]);
    assert_eq!(later.stats().items, 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_stored() {
    let configs = over(memory()).await;
    let orders = id("orders", "default");
    let put = |content: Content| {
        let (configs, orders) = (configs.clone(), orders.clone());
        async move { code(configs.put(&orders, &content, &by(None)).await) }
    };
    let json = |content: &str, schema: &str| Content {
        content: content.into(),
        format: Some(Format::Json),
        schema: Some(schema.into()),
    };
    assert_eq!(put(yaml("a: [")).await, "configs.content_invalid");
    assert_eq!(put(json("{", "")).await, "configs.content_invalid");
    assert_eq!(put(json("1", "{")).await, "configs.schema_invalid");
    let number = r#"{"properties": {"a": {"type": "number"}}}"#;
    assert_eq!(
        put(json(r#"{"a": "x"}"#, number)).await,
        "configs.schema_mismatch"
    );
    assert_eq!(
        put(yaml("a: '{cipher}1:AAAA'")).await,
        "configs.secret_invalid"
    );
    assert_eq!(put(yaml(&"#".repeat(300 << 10))).await, "configs.too_large");
    let nobody = By::default();
    assert_eq!(
        code(configs.put(&orders, &yaml(""), &nobody).await),
        "configs.text_invalid"
    );
    assert!(configs.item(&orders).is_none());
    // The schema stays with the item, for other formats too, until it is taken away.
    configs
        .put(&orders, &json(r#"{"a": 1}"#, number), &by(None))
        .await
        .unwrap();
    assert_eq!(put(yaml("a: x")).await, "configs.schema_mismatch");
    let without = Content {
        schema: Some(String::new()),
        ..yaml("a: x")
    };
    configs.put(&orders, &without, &by(None)).await.unwrap();
    let full = over_with(
        memory(),
        Config {
            items: 1,
            ..Config::default()
        },
    )
    .await;
    full.put(&orders, &yaml("a: 1"), &by(None)).await.unwrap();
    let more = full
        .put(&id("more", "default"), &yaml("a: 1"), &by(None))
        .await;
    assert_eq!(code(more), "configs.full");
}

#[tokio::test]
async fn a_gray_release_is_seen_by_those_it_names_until_it_ends() {
    let configs = over(memory()).await;
    let orders = id("orders", "default");
    let rule = Rule {
        instances: vec!["one".into()],
        ..Rule::default()
    };
    configs
        .put(&orders, &yaml("a: old"), &by(None))
        .await
        .unwrap();
    configs
        .gray(&orders, &yaml("a: new"), &rule, &by(Some(1)))
        .await
        .unwrap();
    let seen = |name: &str| {
        let query = Query {
            client: instance(name),
            ..Query::of("orders")
        };
        let effective = configs.resolve(&query).unwrap();
        (
            effective.settings["a"].value.clone(),
            effective.sources[0].is_gray,
        )
    };
    assert_eq!(seen("one"), (json!("new"), true));
    assert_eq!(seen("two"), (json!("old"), false));
    let all = Rule {
        percent: 100.0,
        ..Rule::default()
    };
    configs.widen(&orders, &all, &by(None)).await.unwrap();
    assert_eq!(seen("two"), (json!("new"), true));
    configs.abort(&orders, &by(None)).await.unwrap();
    assert_eq!(seen("one"), (json!("old"), false));
    configs
        .gray(&orders, &yaml("a: newer"), &rule, &by(None))
        .await
        .unwrap();
    configs.promote(&orders, &by(Some(1))).await.unwrap();
    assert_eq!(seen("two"), (json!("newer"), false));
    assert_eq!(configs.item(&orders).unwrap().current().unwrap().version, 3);
    // Also of an item that had nothing in force.
    let fresh = id("fresh", "default");
    configs
        .gray(&fresh, &yaml("b: 1"), &rule, &by(Some(0)))
        .await
        .unwrap();
    let query = |name: &str| Query {
        client: instance(name),
        ..Query::of("fresh")
    };
    assert_eq!(configs.resolve(&query("one")).unwrap().settings.len(), 1);
    assert_eq!(configs.resolve(&query("two")).unwrap().settings.len(), 0);
}

#[tokio::test]
async fn drafts_wait_and_are_published_on_what_they_were_based_on() {
    let configs = over(memory()).await;
    let orders = id("orders", "default");
    assert_eq!(
        code(configs.draft_of(&orders).await),
        "configs.draft_unknown"
    );
    configs
        .draft(&orders, &yaml("a: ["), &by(None))
        .await
        .unwrap();
    assert!(configs.item(&orders).is_none());
    assert_eq!(
        code(configs.publish(&orders, None, &by(None)).await),
        "configs.content_invalid"
    );
    let draft = configs
        .draft(&orders, &yaml("a: 1"), &by(Some(0)))
        .await
        .unwrap();
    assert_eq!(configs.draft_of(&orders).await.unwrap(), draft);
    assert_eq!(configs.drafts().await.unwrap(), [draft]);
    configs
        .put(&orders, &yaml("a: 0"), &by(None))
        .await
        .unwrap();
    assert_eq!(
        code(configs.publish(&orders, None, &by(None)).await),
        "configs.changed_meanwhile"
    );
    let published = configs.publish(&orders, None, &by(Some(1))).await.unwrap();
    assert_eq!(published.version.version, 2);
    assert_eq!(
        code(configs.draft_of(&orders).await),
        "configs.draft_unknown"
    );
    configs
        .draft(&orders, &yaml("a: 3"), &by(None))
        .await
        .unwrap();
    let rule = Rule {
        percent: 1.0,
        ..Rule::default()
    };
    configs
        .publish(&orders, Some(&rule), &by(None))
        .await
        .unwrap();
    assert!(configs.item(&orders).unwrap().gray().is_some());
    configs
        .draft(&orders, &yaml("a: 4"), &by(None))
        .await
        .unwrap();
    configs.discard(&orders, &by(None)).await.unwrap();
    assert!(configs.drafts().await.unwrap().is_empty());
}

#[tokio::test]
async fn history_goes_back_and_ends_when_it_is_purged() {
    let kv = memory();
    let configs = over(kv.clone()).await;
    let orders = id("orders", "default");
    for number in 1..=3 {
        let content = yaml(&format!("a: {number}\nb: x\n"));
        configs.put(&orders, &content, &by(None)).await.unwrap();
    }
    let compared = configs.compare(&orders, 1, 3).await.unwrap();
    assert_eq!(compared.lines, "-a: 1\n+a: 3\n b: x\n");
    assert_eq!(
        (compared.changes.len(), compared.changes[0].name.as_str()),
        (1, "a")
    );
    assert_eq!(
        code(configs.compare(&orders, 1, 9).await),
        "configs.version_unknown"
    );
    let back = configs.roll_back(&orders, 1, &by(Some(3))).await.unwrap();
    assert_eq!((back.version.version, back.version.restores), (4, Some(1)));
    assert_eq!(configs.item(&orders).unwrap().content(), "a: 1\nb: x\n");
    configs.delete(&orders, &by(None)).await.unwrap();
    assert!(configs.item(&orders).is_none());
    assert_eq!(
        code(configs.delete(&orders, &by(None)).await),
        "configs.item_unknown"
    );
    configs.roll_back(&orders, 2, &by(Some(0))).await.unwrap();
    assert_eq!(configs.versions(&orders).await.unwrap().len(), 6);
    let audit = configs.audit(Some(&orders), LIMIT * 60, 3).await.unwrap();
    let actions: Vec<_> = audit.iter().map(|entry| entry.action).collect();
    assert_eq!(
        actions,
        [Action::RollBack, Action::Delete, Action::RollBack]
    );
    configs.purge(&orders, &by(None)).await.unwrap();
    assert!(configs.versions(&orders).await.unwrap().is_empty());
    let left = kv
        .range(Span::prefix("configs/version/"), 9, None)
        .await
        .unwrap();
    assert!(left.entries.is_empty());
    let first = configs
        .put(&orders, &yaml("a: 1"), &by(Some(0)))
        .await
        .unwrap();
    assert_eq!(first.version.version, 1);
}

#[tokio::test]
async fn settings_come_from_the_strongest_item() {
    let configs = over(memory()).await;
    let text = |content: &str, format| Content {
        content: content.into(),
        format,
        schema: None,
    };
    for (item, content) in [
        (
            id("application", "default"),
            yaml("a: shared\nb: shared\nc: shared\n"),
        ),
        (
            id("orders", "default"),
            text("b=own\nn=1\n", Some(Format::Properties)),
        ),
        (
            id("orders", "prod"),
            text("c = 'prod'\n[t]\nx = 1\n", Some(Format::Toml)),
        ),
        // As a client with data ids names it; the format comes from the name.
        (
            ItemId::from_data_id("", "DEFAULT_GROUP", "orders-eu.yaml").unwrap(),
            text("d: eu\nc: eu\n", None),
        ),
        (id("notes", "default"), text("no settings", None)),
    ] {
        configs.put(&item, &content, &by(None)).await.unwrap();
    }
    let query = Query {
        profiles: vec!["prod".into(), "eu".into()],
        ..Query::of("orders")
    };
    let effective = configs.resolve(&query).unwrap();
    assert_eq!(
        effective.document(),
        json!({"a": "shared", "b": "own", "c": "eu", "d": "eu", "n": "1", "t": {"x": 1}})
    );
    let origin = |name: &str| {
        effective.sources[effective.settings[name].source]
            .id
            .data_id()
    };
    assert_eq!(
        (origin("c"), origin("t.x")),
        ("orders-eu.yaml".into(), "orders:prod".into())
    );
    assert_eq!(
        configs.resolve_now(&query).await.unwrap().version,
        effective.version
    );
    assert!(
        configs
            .resolve(&Query::of("notes"))
            .unwrap()
            .sources
            .iter()
            .all(|source| source.id.application() == "application")
    );
}

#[tokio::test]
async fn secrets_are_opened_for_those_who_ask_and_lie_nowhere_in_the_open() {
    let kv = memory();
    let configs = over(kv.clone()).await;
    let orders = id("orders", "default");
    let token = configs.encrypt("pass\"word\nsekret").await.unwrap();
    configs
        .put(
            &orders,
            &yaml(&format!("db:\n  password: '{token}'\n")),
            &by(None),
        )
        .await
        .unwrap();
    let mut effective = configs.resolve(&Query::of("orders")).unwrap();
    assert_eq!(effective.settings["db.password"].value, json!(token));
    configs.reveal_all(&mut effective).unwrap();
    assert_eq!(
        effective.settings["db.password"].value,
        json!("pass\"word\nsekret")
    );
    assert_eq!(
        effective.sources[0].settings["db.password"],
        json!("pass\"word\nsekret")
    );
    let content = configs.item(&orders).unwrap().content().to_owned();
    let plain = configs.reveal(Format::Yaml, &content).unwrap();
    let plain = Format::Yaml.parse(&plain).unwrap().unwrap();
    assert_eq!(plain["db"]["password"], "pass\"word\nsekret");
    assert_eq!(configs.stats().reveals, 2);

    let rotated = configs.rotate_keys(true, &by(None)).await.unwrap();
    assert_eq!((rotated.key, rotated.items, rotated.wrapped), (2, 1, 0));
    let content = configs.item(&orders).unwrap().content().to_owned();
    assert!(content.contains("{cipher}2:"), "{content}");
    assert_eq!(
        configs.decrypt(&token).unwrap(),
        "pass\"word\nsekret",
        "the old key still opens"
    );
    let again = configs.rotate_keys(false, &by(None)).await.unwrap();
    assert_eq!((again.key, again.items), (3, 0));

    let all = kv.range(Span::all(), 1000, None).await.unwrap();
    let is_open = |value: &[u8]| value.windows(6).any(|window| window == b"sekret");
    assert!(all.entries.iter().all(|entry| !is_open(&entry.value)));
    // A node with another master key says so, and one with both takes the keys over.
    let start = |text: String| {
        let masters = MasterKeys::read(&text).unwrap();
        Configs::start(kv.clone(), Clock::system(), Config::default(), masters)
    };
    let other = start("B".repeat(42) + "A").await.unwrap();
    assert_eq!(code(other.decrypt(&token)), "configs.key_unavailable");
    let both = start(format!("{}A\n{}", "B".repeat(42), "A".repeat(43)))
        .await
        .unwrap();
    assert_eq!(both.rotate_keys(false, &by(None)).await.unwrap().wrapped, 3);
    let other = start("B".repeat(42) + "A").await.unwrap();
    assert_eq!(other.decrypt(&token).unwrap(), "pass\"word\nsekret");
}

#[tokio::test]
async fn bundles_carry_items_over() {
    let (from, to) = (over(memory()).await, over(memory()).await);
    let (orders, users) = (id("orders", "default"), id("users", "prod"));
    let schema = Content {
        schema: Some(r#"{"type": "object"}"#.into()),
        ..yaml("a: 1")
    };
    from.put(&orders, &schema, &by(None)).await.unwrap();
    from.put(&users, &yaml("b: 1"), &by(None)).await.unwrap();
    let bundle = from.export(|_| true);
    assert_eq!(from.export(|id| id.application() == "users").items.len(), 1);
    let text = serde_json::to_string(&bundle).unwrap();
    let bundle: Bundle = serde_json::from_str(&text).unwrap();
    to.put(&users, &yaml("b: 0"), &by(None)).await.unwrap();
    let dry = to.import(&bundle, true, &by(None)).await.unwrap();
    let done = to.import(&bundle, false, &by(None)).await.unwrap();
    assert_eq!(dry, done);
    assert_eq!(
        (done.created, done.changed, done.same),
        (vec![orders.clone()], vec![users.clone()], 0)
    );
    assert_eq!(to.import(&bundle, false, &by(None)).await.unwrap().same, 2);
    assert_eq!(to.export(|_| true), bundle);
    let mut bad = bundle.clone();
    bad.items[1].content = "b: [".into();
    bad.items[0].content = "a: 2".into();
    assert_eq!(
        code(to.import(&bad, false, &by(None)).await),
        "configs.bundle_invalid"
    );
    assert_eq!(
        to.item(&orders).unwrap().content(),
        "a: 1",
        "nothing of it was written"
    );
    bad.items[1] = bad.items[0].clone();
    assert_eq!(
        code(to.import(&bad, false, &by(None)).await),
        "configs.bundle_invalid"
    );
}

#[tokio::test]
async fn a_watcher_sees_changes_that_concern_it_and_no_others() {
    let configs = over(memory()).await;
    let orders = id("orders", "default");
    configs
        .put(&orders, &yaml("a: 1"), &by(None))
        .await
        .unwrap();
    let mut watcher = configs.watch(Query::of("orders"), None).unwrap();
    let first = timeout(LIMIT, watcher.next()).await.unwrap().unwrap();
    assert_eq!(first.settings["a"].value, json!(1));
    let mut resumed = configs
        .watch(Query::of("orders"), Some(first.version.clone()))
        .unwrap();
    configs
        .put(&id("other", "default"), &yaml("a: 9"), &by(None))
        .await
        .unwrap();
    configs
        .put(&orders, &yaml("a: 2"), &by(None))
        .await
        .unwrap();
    configs
        .put(&orders, &yaml("a: 3"), &by(None))
        .await
        .unwrap();
    for watcher in [&mut watcher, &mut resumed] {
        let newest = timeout(LIMIT, watcher.next()).await.unwrap().unwrap();
        assert_eq!(newest.settings["a"].value, json!(3));
        assert!(newest.revision > first.revision);
        watcher.caught_up(newest.revision).await.unwrap();
    }
    // A shared item concerns it too.
    configs
        .put(&id("application", "default"), &yaml("z: 1"), &by(None))
        .await
        .unwrap();
    let shared = timeout(LIMIT, watcher.next()).await.unwrap().unwrap();
    assert_eq!(shared.sources.len(), 2);
    drop(configs);
    assert_eq!(
        code(timeout(LIMIT, watcher.next()).await.unwrap()),
        "configs.stopped"
    );
}

#[tokio::test]
async fn no_answered_change_is_lost_or_doubled_over_a_store_that_misbehaves() {
    for seed in 0..4 {
        let kv = memory();
        let faults = Faults {
            lose_the_undecidable: true,
            ..Faults::default()
        };
        let faulty: Arc<dyn Kv> = Arc::new(Faulty::new(kv.clone(), seed, faults));
        let orders = id("orders", "default");
        let mut writers = Vec::new();
        for writer in 0..3 {
            let started = Configs::start(
                faulty.clone(),
                Clock::system(),
                Config::default(),
                masters(),
            )
            .await;
            // The first listing may meet a fault, too; then another node has to do.
            let Ok(configs) = started else { continue };
            let orders = orders.clone();
            writers.push(tokio::spawn(async move {
                let mut answered = Vec::new();
                for round in 0..10 {
                    let content = format!("w: {writer}-{round}");
                    if let Ok(written) = configs.put(&orders, &yaml(&content), &by(None)).await {
                        assert!(written.is_new);
                        answered.push((written.version.version, content));
                    }
                }
                answered
            }));
        }
        let mut answered = Vec::new();
        for writer in writers {
            answered.extend(writer.await.unwrap());
        }
        let configs = over(kv).await;
        for (version, content) in &answered {
            assert_eq!(
                &configs.version(&orders, *version).await.unwrap().content,
                content
            );
        }
        let versions = configs.versions(&orders).await.unwrap();
        let hashes: std::collections::BTreeSet<_> =
            versions.iter().map(|version| &version.hash).collect();
        assert_eq!(hashes.len(), versions.len(), "no change happened twice");
        assert_eq!(
            versions.first().map_or(0, |version| version.version),
            versions.len() as u64
        );
        let audit = configs.audit(None, LIMIT * 60, 1000).await.unwrap();
        assert_eq!(audit.len(), versions.len(), "each has its audit entry");
    }
}

#[tokio::test]
async fn readers_keep_what_they_have_while_the_store_is_away() {
    let kv = memory();
    let calm = Faults {
        errors: 0,
        lost: 0,
        breaks: 0,
        twice: 0,
        delayed: 0,
        ..Faults::default()
    };
    let faulty = Arc::new(Faulty::new(kv.clone(), 1, calm));
    let (writer, reader) = (over(kv.clone()).await, over(faulty.clone()).await);
    let orders = id("orders", "default");
    let first = writer.put(&orders, &yaml("a: 1"), &by(None)).await.unwrap();
    let mut applied = reader.applied();
    let seen = applied.wait_for(|applied| *applied >= first.revision);
    timeout(LIMIT, seen).await.unwrap().unwrap();
    faulty.set_away(true);
    for number in 2..5 {
        let content = yaml(&format!("a: {number}"));
        writer.put(&orders, &content, &by(None)).await.unwrap();
    }
    kv.compact(kv.revision().await.unwrap()).await.unwrap();
    let stale = async {
        while !reader.stats().is_stale {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, stale).await.unwrap();
    assert_eq!(reader.item(&orders).unwrap().content(), "a: 1");
    assert!(reader.item_now(&orders).await.is_err());
    faulty.set_away(false);
    let back = async {
        while reader.item(&orders).unwrap().content() != "a: 4" {
            applied.changed().await.unwrap();
        }
    };
    timeout(LIMIT, back).await.unwrap();
    assert!(!reader.stats().is_stale && reader.stats().relists >= 1);
}
