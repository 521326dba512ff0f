//! Routes that are changed from the command line, and a node that is killed in between.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Ended, Program, free_address, http, http_until, read, sinew, until};

/// A node on a folder with a `sinew.toml`.
struct Node {
    program: Program,
    gateway: SocketAddr,
    data: String,
}

impl Node {
    async fn start(folder: &Path, gateway: SocketAddr, control: SocketAddr) -> Self {
        let data = folder.join("data").to_str().unwrap().to_owned();
        let config = folder.join("sinew.toml");
        let program = Program::start(&[
            "serve",
            "--config",
            config.to_str().unwrap(),
            "--data",
            &data,
            "--gateway",
            &gateway.to_string(),
            "--control",
            &control.to_string(),
        ]);
        http_until(
            200,
            "GET",
            &format!("http://{control}/v1/health"),
            &[],
            None,
        )
        .await;
        Self {
            program,
            gateway,
            data,
        }
    }

    async fn routes(&self, args: &[&str]) -> Ended {
        let args = [&["routes"], args, &["--data", &self.data]].concat();
        sinew(&args).await
    }

    /// As [`Node::routes`], and it must go well.
    #[track_caller]
    fn good(&self, args: &[&str]) -> impl Future<Output = String> {
        let place = std::panic::Location::caller();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        async move {
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let ended = self.routes(&args).await;
            assert_eq!(ended.code, Some(0), "{place}: {}", ended.err);
            ended.out
        }
    }

    /// 404 when no route takes the path, 503 when one does: nobody is registered.
    async fn status_of(&self, path: &str) -> u16 {
        let answer = http("GET", &format!("http://{}{path}", self.gateway), &[], None).await;
        answer.unwrap().0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_changed_from_the_command_line_and_outlive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sinew.toml");
    let own = "[[routes]]\nname = \"own\"\npath = \"/own\"\nservice = \"a\"\n";
    std::fs::write(&config, own).unwrap();
    let (gateway, control) = (free_address(), free_address());
    let mut node = Node::start(folder.path(), gateway, control).await;

    let out = node
        .good(&["set", "a", "path=/a", "service=a", "--note", "the first"])
        .await;
    assert!(
        out.starts_with("stored as version 1\n+ routes a\n"),
        "{out}"
    );
    assert_eq!(node.status_of("/a").await, 503);
    let out = node.good(&["set", "a", "retries=3"]).await;
    assert!(out.contains("retries = (not set)  ->  3"), "{out}");
    for (args, code, said) in [
        (
            &["set", "own", "path=/x", "service=a"][..],
            1,
            "routes.from_file",
        ),
        (
            &["set", "b", "path=/a", "service=a"],
            2,
            "gateway.routes_invalid",
        ),
        (
            &["set", "b", "path=/own", "service=a"],
            2,
            "routes.conflict_with_file",
        ),
        (&["set", "b", "path"], 2, "FIELD=VALUE"),
        (&["delete", "b"], 1, "routes.name_unknown"),
        (&["rollback", "9"], 1, "documents.version_unknown"),
        (
            &["delete", "a", "--expect", "1"],
            1,
            "documents.changed_meanwhile",
        ),
        (&["apply", "/nowhere.toml"], 2, "config.unreadable"),
    ] {
        let ended = node.routes(args).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.err);
        assert!(ended.err.contains(said), "{args:?}: {}", ended.err);
    }

    // Out to a file, changed, and in again.
    let file = folder.path().join("routes.toml");
    let path = file.to_str().unwrap();
    let text = node.good(&["get"]).await;
    assert!(
        text.contains("[[routes]]\nname = \"a\"\npath = \"/a\"\n"),
        "{text}"
    );
    std::fs::write(
        &file,
        format!("{text}\n[[routes]]\npath = \"/b\"\nservice = \"b\"\n"),
    )
    .unwrap();
    let dry = node.good(&["apply", path, "--dry-run"]).await;
    assert!(dry.contains("+ routes /b"), "{dry}");
    assert_eq!(node.status_of("/b").await, 404);
    node.good(&["apply", path, "--expect", "2"]).await;
    assert_eq!(node.status_of("/b").await, 503);
    assert!(node.good(&["diff", "2"]).await.contains("+ routes /b"));

    node.program.kill_9().await;
    let node = Node::start(folder.path(), gateway, control).await;
    assert_eq!(node.status_of("/b").await, 503);
    let list = node.good(&[]).await;
    assert!(list.contains("version 3 of the stored routes"), "{list}");
    let out = node.good(&["rollback", "2", "--note", "b was wrong"]).await;
    assert!(
        out.starts_with("stored as version 4\n- routes /b\n"),
        "{out}"
    );
    assert_eq!(node.status_of("/b").await, 404);
    let history = node.good(&["history"]).await;
    assert!(history.contains("back to 2: b was wrong"), "{history}");
    assert!(history.contains("the first"), "{history}");

    // The file is read anew; one that is wrong changes nothing.
    std::fs::write(&config, own.replace("\"/own\"", "\"/other\"")).unwrap();
    node.program.signal(Signal::SIGHUP);
    let other = format!("http://{gateway}/other");
    http_until(503, "GET", &other, &[], None).await;
    assert_eq!(
        (node.status_of("/own").await, node.status_of("/a").await),
        (404, 503)
    );
    std::fs::write(&config, "[[routes]]\npath = 1\n").unwrap();
    let errors = node
        .program
        .errors(|line| line.contains("cannot be taken in"));
    node.program.signal(Signal::SIGHUP);
    until("the refusal", || !errors().is_empty()).await;
    assert_eq!(
        (node.status_of("/other").await, node.status_of("/a").await),
        (503, 503)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_while_routes_change_has_every_answered_change() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sinew.toml"), "").unwrap();
    let (gateway, control) = (free_address(), free_address());
    let mut answered = 0;
    for round in 0..3 {
        let mut node = Node::start(folder.path(), gateway, control).await;
        let token = read(folder.path().join("data/admin-token"));
        let bearer = format!("Bearer {token}");
        let list = async || {
            let url = format!("http://{control}/v1/routes");
            let answer = http("GET", &url, &[("authorization", &bearer)], None).await;
            answer.unwrap().1
        };
        let routes = list().await;
        let version = routes["version"].as_u64().unwrap();
        // The one change that was under way at the kill may have happened or not.
        assert!(
            (answered..=answered + 1).contains(&version),
            "{version}, {answered} answered"
        );
        assert_eq!(routes["stored_version"], version, "{routes:#}");
        if version > 0 {
            assert_eq!(routes["routes"][0]["path"], format!("/v{version}"));
            assert_eq!(node.status_of(&format!("/v{version}")).await, 503);
        }

        let changes = Arc::new(AtomicU64::new(version));
        let writer = tokio::spawn({
            let (changes, bearer) = (changes.clone(), bearer.clone());
            async move {
                for number in version + 1.. {
                    let url = format!("http://{control}/v1/routes");
                    let route = json!({"path": format!("/v{number}"), "service": "a"});
                    let body = json!({ "routes": [route] });
                    match http("PUT", &url, &[("authorization", &bearer)], Some(body)).await {
                        Some((200, answer)) => {
                            assert_eq!(answer["version"], number);
                            changes.store(number, Ordering::SeqCst);
                        }
                        Some(other) => panic!("{other:?}"),
                        None => return,
                    }
                }
            }
        });
        until("some changes", || {
            changes.load(Ordering::SeqCst) >= version + 5 + round
        })
        .await;
        node.program.kill_9().await;
        writer.await.unwrap();
        answered = changes.load(Ordering::SeqCst);
    }
}
