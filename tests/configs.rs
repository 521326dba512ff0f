//! Configurations that are changed from the command line, and a node that is killed in between.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use crate::harness::{Ended, Program, SINEW, free_address, http_until, read, sinew};

struct Node {
    program: Program,
    data: String,
}

impl Node {
    async fn start(folder: &Path) -> Self {
        let data = folder.join("data").to_str().unwrap().to_owned();
        let (gateway, control) = (free_address().to_string(), free_address().to_string());
        let args = [
            "serve",
            "--data",
            &data,
            "--gateway",
            &gateway,
            "--control",
            &control,
        ];
        let program = Program::start(&args);
        http_until(
            200,
            "GET",
            &format!("http://{control}/v1/health"),
            &[],
            None,
        )
        .await;
        Self { program, data }
    }

    async fn config(&self, args: &[&str]) -> Ended {
        let args = [&["config"], args, &["--data", &self.data]].concat();
        sinew(&args).await
    }

    /// As [`Node::config`], and it must go well.
    #[track_caller]
    fn good(&self, args: &[&str]) -> impl Future<Output = String> {
        let place = std::panic::Location::caller();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        async move {
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let ended = self.config(&args).await;
            assert_eq!(ended.code, Some(0), "{place}: {}", ended.err);
            ended.out + "\n"
        }
    }

    /// Runs with something on standard input, or in the environment.
    async fn fed(&self, args: &[&str], input: &str, env: &[(&str, &str)]) -> String {
        let mut command = Command::new(SINEW);
        command
            .arg("config")
            .args(args)
            .args(["--data", &self.data]);
        command
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configurations_are_changed_from_the_command_line_and_outlive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path()).await;
    let out = node
        .good(&[
            "set",
            "orders",
            "server.port=8080",
            "name=a b",
            "--note",
            "first",
        ])
        .await;
    assert_eq!(out, "stored as version 1\n");
    node.good(&["set", "orders", "server.port=9090"]).await;
    assert_eq!(
        node.good(&["get", "orders"]).await,
        "server.port=9090\nname=a b\n"
    );
    let diff = node.good(&["diff", "orders", "1"]).await;
    assert_eq!(diff, "-server.port=8080\n+server.port=9090\n name=a b\n");
    let file = folder.path().join("orders.yaml");
    std::fs::write(&file, "# for production\nserver:\n  port: 80\n").unwrap();
    node.good(&["set", "orders/prod", "--file", file.to_str().unwrap()])
        .await;
    let shown = node.good(&["show", "orders", "--profiles", "prod"]).await;
    assert!(
        shown.contains("server.port  80     default/orders/prod/main (version 1)\n"),
        "{shown}"
    );
    assert!(
        shown.contains("name         a b    default/orders/default/main (version 2)\n"),
        "{shown}"
    );
    for (args, code, said) in [
        (&["get", "nothing"][..], 1, "configs.item_unknown"),
        (&["get", "a/b/c"], 2, "is not an item"),
        (&["set", "orders/prod", "a=1"], 2, "sinew config edit"),
        (
            &["set", "orders", "a=1", "--expect", "1"],
            1,
            "configs.changed_meanwhile",
        ),
        (
            &["set", "new", "--file", "/nowhere.yaml"],
            2,
            "config.unreadable",
        ),
        (&["gray", "orders", "a=1"], 2, "--percent"),
        (&["promote", "orders"], 1, "configs.gray_absent"),
        (&["publish", "orders"], 1, "configs.draft_unknown"),
    ] {
        let ended = node.config(args).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.err);
        assert!(ended.err.contains(said), "{args:?}: {}", ended.err);
    }
    // An editor that changes one word.
    let editor = [("EDITOR", "sed -i s/80/81/"), ("VISUAL", "sed -i s/80/81/")];
    assert_eq!(
        node.fed(&["edit", "orders/prod"], "", &editor).await,
        "stored as version 2\n"
    );
    assert!(
        node.good(&["get", "orders/prod"])
            .await
            .starts_with("# for production\n")
    );

    let out = node
        .good(&["gray", "orders", "name=c", "--instance", "i-1"])
        .await;
    assert_eq!(out, "in gray release as version 3\n");
    assert!(
        node.good(&["get", "orders", "--instance", "i-1"])
            .await
            .contains("name=c")
    );
    assert!(node.good(&["get", "orders"]).await.contains("name=a b"));
    node.good(&["gray", "orders", "--with", "zone=a", "--percent", "0.5"])
        .await;
    let listed = node.good(&["list"]).await;
    assert!(
        listed.contains(r#"version 3 to {"labels":{"zone":"a"},"percent":0.5}"#),
        "{listed}"
    );
    assert_eq!(
        node.good(&["promote", "orders"]).await,
        "everybody sees version 3\n"
    );
    node.good(&["draft", "set", "orders", "name=d"]).await;
    assert!(
        node.good(&["draft", "get", "orders"])
            .await
            .contains("name=d")
    );
    assert!(
        node.good(&["draft", "list"])
            .await
            .contains("default/orders/default/main  3 ")
    );
    assert_eq!(
        node.good(&["publish", "orders"]).await,
        "published as version 4\n"
    );

    let token = node.fed(&["encrypt"], "sekret\n", &[]).await;
    let password = format!("password={}", token.trim());
    node.good(&["set", "orders", &password]).await;
    assert!(!node.good(&["get", "orders"]).await.contains("sekret"));
    assert!(
        node.good(&["get", "orders", "--reveal"])
            .await
            .contains("password=sekret\n")
    );
    assert!(
        node.good(&["rotate-keys", "--values"])
            .await
            .contains("1 items")
    );

    let export = node.good(&["export"]).await;
    let kept = folder.path().join("all.json");
    std::fs::write(&kept, &export).unwrap();
    node.program.kill_9().await;
    let node = Node::start(folder.path()).await;
    assert_eq!(node.good(&["export"]).await, export);
    assert!(
        node.good(&["get", "orders", "--reveal"])
            .await
            .contains("password=sekret\n")
    );
    let history = node.good(&["history", "orders"]).await;
    assert_eq!(history.lines().count(), 7, "{history}");
    assert_eq!(
        node.good(&["rollback", "orders", "1"]).await,
        "stored as version 7\n"
    );
    node.good(&["delete", "orders/prod", "--purge"]).await;
    let path = kept.to_str().unwrap();
    let dry = node.good(&["import", path, "--dry-run"]).await;
    assert!(
        dry.ends_with("1 new, 1 changed, 0 the same; nothing was written\n"),
        "{dry}"
    );
    node.good(&["import", path]).await;
    assert_eq!(node.good(&["export"]).await, export);
    let audit = node.good(&["audit"]).await;
    assert!(
        audit.contains("purge") && audit.contains("reveal"),
        "{audit}"
    );
    assert!(!audit.contains("sekret"));
    let master = folder.path().join("data").join("config-master-key");
    assert!(!read(&master).trim().is_empty());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&master).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
