//! Routes that change while nodes run, through the control API over real sockets.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sinew_core::Clock;
use sinew_engine::{
    faulty::{Faults, Faulty},
    kv::{Kv, MemoryKv, Span, Write},
};
use sinew_node::{Config, Node};

use crate::{
    LIMIT, config,
    http::{self, Answer, eventually},
    register, route, upstream,
};

/// A node, and how its routes are changed.
pub(crate) struct Running {
    node: Node,
}

impl Running {
    pub(crate) async fn start(config: Config) -> Self {
        let node = Node::start(config).await.unwrap();
        Self { node }
    }

    async fn over(config: Config, kv: &(impl Kv + Clone)) -> Self {
        let node = Node::start_over(config, Arc::new(kv.clone())).await;
        let node = node.unwrap();
        Self { node }
    }

    /// Waits until the node says of its routes what is wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let (address, token) = (self.node.control_address(), self.node.admin_token());
        let ask = || http::get(address, "/v1/routes", Some(token));
        eventually(ask, |answer| answer.status == 200 && wanted(&answer.json()))
            .await
            .json()
    }

    /// With an instance of the service `hello` that answers at `/a`, `/b` and `/c`.
    async fn with_hello(data: &Path) -> Self {
        let running = Self::start(config(data)).await;
        let paths = ["/a", "/b", "/c"].map(|path| (path, path.to_owned()));
        let address = upstream(&paths).await;
        register(&running.node, "hello", "hello-1", address, "127.0.0.1").await;
        running
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        tag: Option<u64>,
        body: Value,
    ) -> Answer {
        let (address, token) = (self.node.control_address(), self.node.admin_token());
        let tag = tag.map(|version| format!("\"{version}\""));
        http::send(address, method, path, Some(token), tag.as_deref(), &body).await
    }

    pub(crate) async fn put(&self, tag: Option<u64>, document: Value) -> Answer {
        self.send("PUT", "/v1/routes?author=ann&note=test", tag, document)
            .await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (address, token) = (self.node.control_address(), self.node.admin_token());
        let answer = http::get(address, path, Some(token)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    pub(crate) async fn status_of(&self, path: &str) -> u16 {
        http::get(self.node.gateway_address(), path, None)
            .await
            .status
    }

    async fn metric(&self, name: &str) -> u64 {
        let answer = http::get(self.node.control_address(), "/metrics", None).await;
        let line = answer.body.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in the metrics"));
        line.trim().parse().unwrap()
    }

    pub(crate) async fn stop(self) {
        self.node.drain_and_stop(LIMIT).await.unwrap();
    }
}

fn one(name: &str, path: &str) -> Value {
    json!({"name": name, "path": path, "service": "hello"})
}

#[tokio::test]
async fn routes_are_changed_looked_at_and_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_hello(dir.path()).await;
    assert_eq!(running.get("/v1/routes").await["stored_version"], 0);
    assert_eq!(running.status_of("/a").await, 404);

    // No waiting: it is served when the change returns.
    let first = running
        .put(Some(0), json!({"routes": [one("a", "/a")]}))
        .await;
    assert_eq!(first.status, 200, "{first:?}");
    let first = first.json();
    assert_eq!(
        (&first["version"], &first["is_served"]),
        (&1.into(), &true.into())
    );
    assert_eq!(first["changes"][0]["difference"], "added");
    assert_eq!(running.status_of("/a").await, 200);
    let routes = running.get("/v1/routes").await;
    assert_eq!(
        (&routes["version"], &routes["stored_version"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&routes["routes"][0]["source"], &routes["is_stale"]),
        (&"stored".into(), &false.into())
    );

    let late = running.put(Some(0), json!({"routes": []})).await;
    assert_eq!(
        (late.status, &late.json()["code"]),
        (412, &"documents.changed_meanwhile".into())
    );

    let set = running
        .send(
            "PUT",
            "/v1/routes/b",
            Some(1),
            json!({"path": "/b", "service": "hello"}),
        )
        .await;
    assert_eq!(
        (set.status, &set.json()["version"]),
        (200, &2.into()),
        "{set:?}"
    );
    assert_eq!(
        (running.status_of("/a").await, running.status_of("/b").await),
        (200, 200)
    );
    let deleted = running
        .send("DELETE", "/v1/routes/a", None, Value::Null)
        .await;
    assert_eq!(
        (deleted.status, &deleted.json()["version"]),
        (200, &3.into())
    );
    assert_eq!(
        (running.status_of("/a").await, running.status_of("/b").await),
        (404, 200)
    );
    let gone = running
        .send("DELETE", "/v1/routes/a", None, Value::Null)
        .await;
    assert_eq!(
        (gone.status, &gone.json()["code"]),
        (404, &"routes.name_unknown".into())
    );

    let check = running
        .send(
            "POST",
            "/v1/routes/check",
            None,
            json!({"routes": [one("b", "/c")]}),
        )
        .await
        .json();
    assert_eq!(
        (&check["fits"], &check["version"]),
        (&true.into(), &3.into())
    );
    assert_eq!(check["changes"][0]["fields"][0]["to"], "/c");
    let check = running
        .send(
            "POST",
            "/v1/routes/check",
            None,
            json!({"routes": [one("b", "c")]}),
        )
        .await
        .json();
    assert_eq!(
        (&check["fits"], &check["code"]),
        (&false.into(), &"routes.document_invalid".into())
    );

    let back = running
        .send("POST", "/v1/routes/rollback", None, json!({"version": 2}))
        .await;
    assert_eq!(back.status, 200, "{back:?}");
    assert_eq!(
        (&back.json()["version"], &back.json()["restores"]),
        (&4.into(), &2.into())
    );
    assert_eq!(
        (running.status_of("/a").await, running.status_of("/b").await),
        (200, 200)
    );
    let none = running
        .send("POST", "/v1/routes/rollback", None, json!({"version": 0}))
        .await;
    assert_eq!((none.status, &none.json()["version"]), (200, &5.into()));
    assert_eq!(running.status_of("/a").await, 404);

    let versions = running.get("/v1/routes/versions").await;
    let versions = versions["versions"].as_array().unwrap();
    let numbers: Vec<_> = versions
        .iter()
        .map(|version| version["version"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [5, 4, 3, 2, 1]);
    assert_eq!(
        (&versions[4]["author"], &versions[4]["note"]),
        (&"ann".into(), &"test".into())
    );
    let third = running.get("/v1/routes/versions/3").await;
    assert_eq!(third["document"]["routes"][0]["name"], "b");
    assert_eq!(running.metric("sinew_routes_served_version ").await, 5);
    assert_eq!(running.metric("sinew_routes_changes_total ").await, 5);
    assert_eq!(running.get("/v1/status").await["routes"]["version"], 5);
    running.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let mut own = route("/own/**", "hello");
    own.name = Some("own".parse().unwrap());
    config.gateway.routing.routes = vec![own];
    let running = Running::start(config).await;
    let good = running.put(None, json!({"routes": [one("a", "/a")]})).await;
    assert_eq!(good.status, 200, "{good:?}");
    let cases = [
        (
            json!({"routes": [one("a", "/a"), one("a", "/b")]}),
            400,
            "gateway.routes_invalid",
        ),
        (
            json!({"routes": [one("a", "/own/**")]}),
            409,
            "routes.conflict_with_file",
        ),
        (
            json!({"routes": [one("own", "/b")]}),
            409,
            "routes.conflict_with_file",
        ),
        (
            json!({"routes": [{"path": "/b", "service": "b", "auth": ["jwt"]}]}),
            400,
            "routes.jwt_unconfigured",
        ),
        (json!({"routs": []}), 400, "routes.document_invalid"),
        (json!([]), 400, "routes.document_invalid"),
    ];
    for (document, status, code) in cases {
        let refused = running.put(None, document).await;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (status, &code.into()),
            "{refused:?}"
        );
    }
    for (method, body) in [("PUT", one("own", "/b")), ("DELETE", Value::Null)] {
        let refused = running.send(method, "/v1/routes/own", None, body).await;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (409, &"routes.from_file".into())
        );
    }
    let unknown = running
        .send("POST", "/v1/routes/rollback", None, json!({"version": 9}))
        .await;
    assert_eq!(
        (unknown.status, &unknown.json()["code"]),
        (404, &"documents.version_unknown".into())
    );
    let routes = running.get("/v1/routes").await;
    assert_eq!(routes["version"], 1);
    let mut sources: Vec<_> = routes["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| {
            (
                route["name"].as_str().unwrap(),
                route["source"].as_str().unwrap(),
            )
        })
        .collect();
    sources.sort_unstable();
    assert_eq!(sources, [("a", "stored"), ("own", "file")]);
    running.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_routes_and_a_file_that_is_in_their_way_does_not_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_hello(dir.path()).await;
    running.put(None, json!({"routes": [one("a", "/a")]})).await;
    running
        .put(None, json!({"routes": [one("a", "/a"), one("b", "/b")]}))
        .await;
    running.stop().await;

    let running = Running::start(config(dir.path())).await;
    // From the first request on, and not only after the store was followed for a while.
    assert_eq!(running.status_of("/b").await, 200);
    running.stop().await;

    // The newest version does not go with this file, the one before does.
    let mut with_file = config(dir.path());
    with_file.gateway.routing.routes = vec![route("/b", "hello")];
    let running = Running::start(with_file.clone()).await;
    assert_eq!(
        (running.status_of("/a").await, running.status_of("/b").await),
        (200, 200)
    );
    let routes = running.get("/v1/routes").await;
    assert_eq!(
        (&routes["version"], &routes["stored_version"]),
        (&1.into(), &2.into())
    );
    assert_eq!(routes["failure"]["code"], "routes.conflict_with_file");
    assert_eq!(running.metric("sinew_routes_unfit ").await, 1);
    let fixed = running
        .put(None, json!({"routes": [one("a", "/a"), one("c", "/c")]}))
        .await;
    assert_eq!(fixed.json()["is_served"], true, "{fixed:?}");
    let routes = running.get("/v1/routes").await;
    assert_eq!(
        (&routes["version"], routes.get("failure")),
        (&3.into(), None)
    );
    assert_eq!(running.metric("sinew_routes_unfit ").await, 0);

    // A file that is read anew, once in the way and once not.
    let mut in_the_way = with_file.clone();
    in_the_way.gateway.routing.routes = vec![route("/c", "hello")];
    let refused = running.node.reload(in_the_way).unwrap_err();
    assert_eq!(refused.code(), "routes.conflict_with_file");
    assert_eq!(running.status_of("/b").await, 200);
    with_file.gateway.routing.routes = Vec::new();
    running.node.reload(with_file).unwrap();
    assert_eq!(
        (running.status_of("/b").await, running.status_of("/c").await),
        (404, 200)
    );
    running.stop().await;
}

#[tokio::test]
async fn a_version_that_a_node_does_not_understand_leaves_the_last_one_in_use() {
    use sinew_coordination::documents::Change;

    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_hello(dir.path()).await;
    running.put(None, json!({"routes": [one("a", "/a")]})).await;
    // As a node of a newer version over the same store would write it.
    let documents = running.node.documents();
    let write = async |content: Value| {
        let change = Change {
            content: content.to_string().into(),
            author: "a newer node".into(),
            note: String::new(),
            expected: None,
            restores: None,
        };
        let name = "routes".parse().unwrap();
        documents
            .write(&name, &change)
            .await
            .unwrap()
            .version
            .version
    };
    let newer = json!({"routes": [{"path": "/a", "service": "hello", "gravity": 9.81}]});
    assert_eq!(write(newer).await, 2);
    let failed = running
        .until(|routes| routes["failure"]["version"] == 2)
        .await;
    assert_eq!(
        (&failed["version"], &failed["stored_version"]),
        (&1.into(), &2.into())
    );
    assert!(
        failed["failure"]["reason"]
            .as_str()
            .unwrap()
            .contains("gravity"),
        "{failed}"
    );
    assert_eq!(running.status_of("/a").await, 200);
    assert_eq!(running.metric("sinew_routes_failures_total ").await, 1);
    write(json!({"routes": [one("b", "/b")]})).await;
    running.until(|routes| routes["version"] == 3).await;
    assert_eq!(
        (running.status_of("/a").await, running.status_of("/b").await),
        (404, 200)
    );
    running.stop().await;
}

#[tokio::test]
async fn of_many_who_build_on_one_version_exactly_one_wins_and_no_edit_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let running = Arc::new(Running::with_hello(dir.path()).await);
    for version in 0..5_u64 {
        let puts = (0..6).map(|writer| {
            let running = running.clone();
            tokio::spawn(async move {
                let document = json!({"routes": [one(&format!("r{version}-{writer}"), "/a")]});
                running.put(Some(version), document).await.status
            })
        });
        let mut won = 0;
        for put in puts.collect::<Vec<_>>() {
            match put.await.unwrap() {
                200 => won += 1,
                status => assert_eq!(status, 412),
            }
        }
        assert_eq!(won, 1);
    }
    // Edits of single routes build on whatever is current, so all of them succeed.
    let edits = (0..8).map(|writer| {
        let running = running.clone();
        tokio::spawn(async move {
            let path = format!("/v1/routes/edit-{writer}");
            let route = json!({"path": format!("/edit/{writer}"), "service": "hello"});
            running.send("PUT", &path, None, route).await.status
        })
    });
    for edit in edits.collect::<Vec<_>>() {
        assert_eq!(edit.await.unwrap(), 200);
    }
    let routes = running.get("/v1/routes").await;
    assert_eq!(
        (
            &routes["version"],
            routes["routes"].as_array().unwrap().len()
        ),
        (&13.into(), 9)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_drop_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::with_hello(dir.path()).await;
    let with_extra =
        |extra: u64| json!({"routes": [one("a", "/a"), one(&format!("extra-{extra}"), "/b")]});
    running.put(None, with_extra(0)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let gateway = running.node.gateway_address();
    let clients = (0..4).map(|_| {
        let (is_over, answered) = (is_over.clone(), answered.clone());
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let answer = http::get(gateway, "/a", None).await;
                assert_eq!((answer.status, answer.body.as_str()), (200, "/a"));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut changes = 0;
    while changes < 50 || answered.load(Ordering::Relaxed) < 200 {
        changes += 1;
        let changed = running.put(None, with_extra(changes)).await;
        assert_eq!(changed.json()["is_served"], true, "{changed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(running.get("/v1/routes").await["version"], changes + 1);
    running.stop().await;
}

/// An engine that can be away, and does nothing else wrong.
fn engine() -> Faulty<MemoryKv> {
    engine_over(MemoryKv::new(Clock::system()))
}

fn engine_over(kv: MemoryKv) -> Faulty<MemoryKv> {
    let faults = Faults {
        errors: 0,
        lost: 0,
        breaks: 0,
        twice: 0,
        delayed: 0,
        ..Faults::default()
    };
    Faulty::new(kv, 1, faults)
}

#[tokio::test]
async fn nodes_over_one_store_serve_the_same_also_after_one_was_cut_off() {
    let kv = MemoryKv::new(Clock::system());
    let cut = engine_over(kv.clone());
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one_node = Running::over(config(here.path()), &kv).await;
    let other_node = Running::over(config(there.path()), &cut).await;
    one_node
        .put(None, json!({"routes": [one("a", "/a")]}))
        .await;
    other_node.until(|routes| routes["version"] == 1).await;
    // Nobody is there to answer, but the route is.
    assert_eq!(other_node.status_of("/a").await, 503);
    other_node
        .send(
            "PUT",
            "/v1/routes/b",
            Some(1),
            json!({"path": "/b", "service": "hello"}),
        )
        .await;
    one_node.until(|routes| routes["version"] == 2).await;
    assert_eq!(one_node.status_of("/b").await, 503);

    cut.set_away(true);
    one_node
        .send("DELETE", "/v1/routes/a", None, Value::Null)
        .await;
    let stale = other_node.until(|routes| routes["is_stale"] == true).await;
    assert_eq!(
        (&stale["version"], &stale["stored_version"]),
        (&2.into(), &2.into())
    );
    assert_eq!(
        other_node.status_of("/a").await,
        503,
        "the last version stays in use"
    );
    assert_eq!(other_node.metric("sinew_routes_stale ").await, 1);
    let refused = other_node.put(None, json!({"routes": []})).await;
    assert_eq!(refused.status, 503, "{refused:?}");

    cut.set_away(false);
    other_node.until(|routes| routes["version"] == 3).await;
    assert_eq!(other_node.status_of("/a").await, 404);
    assert_eq!(other_node.metric("sinew_routes_stale ").await, 0);
    one_node.stop().await;
    other_node.stop().await;
}

#[tokio::test]
async fn a_start_without_the_store_serves_the_copy_and_goes_on_when_the_store_comes() {
    let kv = engine();
    let dir = tempfile::tempdir().unwrap();
    let running = Running::over(config(dir.path()), &kv).await;
    running.put(None, json!({"routes": [one("a", "/a")]})).await;
    running.stop().await;

    kv.set_away(true);
    let running = Running::over(config(dir.path()), &kv).await;
    assert_eq!(
        running.status_of("/a").await,
        503,
        "the route is there, its service is not known"
    );
    let stale = running.get("/v1/routes").await;
    assert_eq!(
        (&stale["version"], &stale["is_stale"]),
        (&1.into(), &true.into())
    );
    assert_eq!(stale.get("stored_version"), None, "nobody knows");

    // Somebody else changes it meanwhile.
    let other = tempfile::tempdir().unwrap();
    let other = Running::over(config(other.path()), kv.inner()).await;
    other
        .put(Some(1), json!({"routes": [one("b", "/b")]}))
        .await;
    kv.set_away(false);
    running.until(|routes| routes["version"] == 2).await;
    assert_eq!(
        (running.status_of("/a").await, running.status_of("/b").await),
        (404, 503)
    );
    running.stop().await;
    other.stop().await;

    // A copy that is damaged is not used.
    kv.set_away(true);
    let copy = dir.path().join("routes-snapshot.json");
    let text = std::fs::read_to_string(&copy).unwrap();
    std::fs::write(&copy, text.replace("/b", "/c")).unwrap();
    let running = Running::over(config(dir.path()), &kv).await;
    assert_eq!(
        (running.status_of("/b").await, running.status_of("/c").await),
        (404, 404)
    );
    assert_eq!(running.get("/v1/routes").await["version"], 0);
    running.stop().await;
}

#[tokio::test]
async fn damage_in_the_store_leaves_the_last_whole_version_and_can_be_replaced() {
    let kv = MemoryKv::new(Clock::system());
    let dir = tempfile::tempdir().unwrap();
    let running = Running::over(config(dir.path()), &kv).await;
    running.put(None, json!({"routes": [one("a", "/a")]})).await;
    running.put(None, json!({"routes": [one("b", "/b")]})).await;
    running.stop().await;
    let parts = kv
        .range(Span::prefix("documents/part/"), 10, None)
        .await
        .unwrap();
    let key = parts.entries.last().unwrap().key.clone();
    let _ = kv
        .commit(Vec::new(), vec![Write::Delete { key }])
        .await
        .unwrap();

    let running = Running::over(config(dir.path()), &kv).await;
    assert_eq!(
        (running.status_of("/a").await, running.status_of("/b").await),
        (503, 404)
    );
    let routes = running.get("/v1/routes").await;
    assert_eq!(
        (&routes["version"], &routes["stored_version"]),
        (&1.into(), &2.into())
    );
    assert_eq!(routes["failure"]["code"], "documents.damaged");
    let put = running
        .put(Some(2), json!({"routes": [one("c", "/c")]}))
        .await;
    assert_eq!(
        (put.status, &put.json()["is_served"]),
        (200, &true.into()),
        "{put:?}"
    );
    assert_eq!(running.status_of("/c").await, 503);
    running.stop().await;
}
