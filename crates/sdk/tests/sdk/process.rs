//! Whole processes: signals, exit codes, and the end of the parent.

use std::process::{Child, Command, ExitStatus, Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sinew_sdk::{Environment, Service};

use crate::{alone, eventually, fake_node::FakeNode};

const IS_CHILD: &str = "SINEW_SDK_TEST_CHILD";

/// Not a test by itself: the service that the others start as a process.
#[test]
fn child() {
    if std::env::var_os(IS_CHILD).is_none() {
        return;
    }
    let code = sinew_sdk::main(async { Service::new("child")?.run().await });
    // `ExitCode` cannot be read; what it is made of can be told by its form.
    let code = format!("{code:?}");
    let digits: String = code.chars().filter(char::is_ascii_digit).collect();
    let code = if code.contains("unix_exit_status") {
        digits.parse().unwrap_or(99)
    } else {
        99
    };
    std::process::exit(code);
}

fn start(node: &FakeNode, more: &[(&str, String)]) -> Child {
    let environment = node.environment();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "process::child", "--nocapture"])
        .env(IS_CHILD, "1")
        .env("SINEW_URL", environment.get("SINEW_URL").unwrap())
        .env("SINEW_TOKEN", environment.get("SINEW_TOKEN").unwrap())
        .env("SINEW_INSTANCE", "child-1")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for (name, value) in more {
        command.env(name, value);
    }
    command.spawn().unwrap()
}

async fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    status.unwrap()
}

#[tokio::test]
async fn a_signal_ends_a_service_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let node = FakeNode::start().await;
        let mut child = start(&node, &[]);
        node.wait_for("child", "child-1").await;
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let status = ended(&mut child).await;
        assert!(status.success(), "{status}");
        assert!(!node.has("child", "child-1"));
        assert!(
            node.log()
                .iter()
                .any(|line| line.contains("child-1/status"))
        );
    }
}

#[tokio::test]
async fn a_service_does_not_outlive_its_parent() {
    let node = FakeNode::start().await;
    let mut parent = Command::new("sleep").arg("600").spawn().unwrap();
    let mut child = start(&node, &[("SINEW_PARENT_PID", parent.id().to_string())]);
    node.wait_for("child", "child-1").await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    let status = ended(&mut child).await;
    assert!(status.success(), "{status}");
    assert!(!node.has("child", "child-1"));
}

#[tokio::test]
async fn exit_codes_tell_a_taken_port_from_a_wrong_setting() {
    let node = FakeNode::start().await;
    let other = alone("other").start().await.unwrap();
    let port = other.address().port().to_string();
    let status = ended(&mut start(&node, &[("PORT", port)])).await;
    assert_eq!(status.code(), Some(3));
    let status = ended(&mut start(&node, &[("PORT", "x".into())])).await;
    assert_eq!(status.code(), Some(2));
    // The environment of this process has none of that.
    assert!(Service::with_environment("a", Environment::default()).is_ok());
}
