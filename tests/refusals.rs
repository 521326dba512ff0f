//! What cannot be done is said in words that help, with its exit code.

use std::net::TcpListener;

use crate::harness::{Program, SINEW, read, sinew};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_and_a_way_out_given() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let free = "127.0.0.1:0";
    for (command, gateway, control, flag) in [
        ("demo", taken.as_str(), free, "--gateway"),
        ("demo", free, taken.as_str(), "--control"),
        ("serve", taken.as_str(), free, "--gateway"),
        ("serve", free, taken.as_str(), "--control"),
    ] {
        let args = [
            command,
            "--data",
            data,
            "--gateway",
            gateway,
            "--control",
            control,
        ];
        let ended = sinew(&args).await;
        assert_eq!(ended.code, Some(3), "{args:?}\n{}", ended.err);
        assert!(
            ended.err.contains(&taken) && ended.err.contains(flag),
            "{args:?}\n{}",
            ended.err
        );
        assert_eq!(
            ended.err.matches("error: ").count(),
            1,
            "said once: {}",
            ended.err
        );
    }
    // A failed start leaves nothing that would stop the next one.
    assert!(!folder.path().join("endpoints.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_serves_one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let args = |command| {
        [
            command,
            "--data",
            data,
            "--gateway",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
        ]
    };
    let mut first = Program::start(&args("serve"));
    let endpoints = folder.path().join("endpoints.json");
    first
        .wait_for("endpoints.json", || endpoints.exists().then_some(()))
        .await;
    for command in ["serve", "demo"] {
        let ended = sinew(&args(command)).await;
        assert_eq!(ended.code, Some(4), "{command}: {}", ended.err);
        assert!(
            ended.err.contains(&first.pid().to_string()),
            "who holds it: {}",
            ended.err
        );
        assert!(ended.err.contains(data), "which one: {}", ended.err);
    }
    assert_eq!(read(folder.path().join("lock")), first.pid().to_string());
    // Killed with -9, it holds nothing any more.
    first.kill_9().await;
    let mut second = Program::start(&args("serve"));
    let pid = second.pid().to_string();
    let lock = folder.path().join("lock");
    second
        .wait_for("its lock", || (read(&lock) == pid).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_configuration_is_shown_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = folder.path().join("sinew.toml");
    let route = "[[routes]]\npath = \"/a/**\"\nservice = \"a\"\n";
    let cases = [
        // (text, line, what must be said about it)
        ("[node\n".to_owned(), 1, ""),
        (format!("{route}sevrice = \"b\"\n"), 4, "sevrice"),
        (
            "\n[[routes]]\npath = \"/a/**/b\"\nservice = \"a\"\n".to_owned(),
            3,
            "/a/**/b",
        ),
        (
            "[[routes]]\npath = \"/a\"\nservice = \"A B\"\n".to_owned(),
            3,
            "A B",
        ),
        (format!("{route}\n{route}"), 5, "/a/**"),
    ];
    for (text, line, said) in cases {
        std::fs::write(&config, &text).unwrap();
        let args = [
            "serve".as_ref(),
            "--config".as_ref(),
            config.as_os_str(),
            "--data".as_ref(),
            data.as_os_str(),
        ];
        let ended = sinew(&args).await;
        assert_eq!(ended.code, Some(2), "{text}\n{}", ended.err);
        let place = format!("{}:{line}", config.display());
        assert!(
            ended.err.contains(&place) && ended.err.contains(said),
            "{place}: {}",
            ended.err
        );
    }
    let ended = sinew(&["serve", "--config", "/no/such/sinew.toml"]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("/no/such/sinew.toml"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_is_code_2() {
    for args in [
        &["demo", "--replicas", "orders=0"][..],
        &["demo", "--replicas", "cellar=2"],
        &["demo", "--gateway", "everywhere"],
        &["demo", "--orders", "5", "--no-traffic"],
        &["shop", "cellar"],
        &["dance"],
    ] {
        let ended = sinew(args).await;
        assert_eq!(ended.code, Some(2), "{SINEW} {args:?}\n{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_cannot_start_is_named_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    // A folder lies where the database should be.
    std::fs::create_dir_all(folder.path().join("shop/carts.db")).unwrap();
    let free = "127.0.0.1:0";
    let ended = sinew(&["demo", "--data", data, "--gateway", free, "--control", free]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    for said in ["carts-1", "carts.db", "logs"] {
        assert!(ended.err.contains(said), "{said}: {}", ended.err);
    }
}
