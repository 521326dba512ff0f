//! Whatever happens to the parent, no service survives it.

use std::time::Duration;

use crate::harness::{Program, alive, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_killed_with_9_leaves_no_service() {
    let args = [
        "demo",
        "--json",
        "--gateway",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
        "--replicas",
        "products=2",
        "--shoppers",
        "2",
    ];
    let mut demo = Program::start(&args);
    let ready = demo.event("ready").await;
    let pids: Vec<u32> = ready["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| u32::try_from(row["pid"].as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(pids.len(), 6);
    assert!(pids.iter().all(|pid| alive(*pid)));
    // In the middle of work, not only at rest.
    tokio::time::sleep(Duration::from_millis(300)).await;
    demo.kill_9().await;
    until("no service is left", || !pids.iter().any(|pid| alive(*pid))).await;
    // It could not clean up; the test does.
    let _ = std::fs::remove_dir_all(ready["data"].as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_child_tells_why_it_cannot_run() {
    for (args, code) in [
        (&["run-child", "--", "/no/such/program"][..], 127),
        (&["run-child", "--", "/etc/passwd"], 126),
        (&["run-child"], 2),
    ] {
        let ended = crate::harness::sinew(args).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.err);
        assert!(!ended.err.is_empty());
    }
    let gone = Program::start_with(
        &["run-child", "--", "/bin/true"],
        &[("SINEW_PARENT_PID", "1")],
    );
    assert_eq!(gone.ended().await.code, Some(75));
}
