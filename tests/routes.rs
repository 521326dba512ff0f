//! Routes that are changed from the command line, and a node that is killed in between.

use std::{net::SocketAddr, path::Path};

use nix::sys::signal::Signal;

use crate::harness::{Ended, Program, free_address, http, http_until, sinew, until};

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
