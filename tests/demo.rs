//! `sinew demo` from start to audit, undisturbed and with services killed under it.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::harness::{Program, alive, http, http_until, read, until};

/// A demo on free ports that speaks JSON.
fn demo(more: &[&str]) -> Program {
    let base = [
        "demo",
        "--json",
        "--gateway",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
    ];
    Program::start(&[&base, more].concat())
}

fn pid_of(ready: &Value, instance: &str) -> u32 {
    let services = ready["services"].as_array().unwrap();
    let row = services
        .iter()
        .find(|row| row["instance"] == instance)
        .unwrap();
    u32::try_from(row["pid"].as_u64().unwrap()).unwrap()
}

fn pids(ready: &Value) -> Vec<u32> {
    let services = ready["services"].as_array().unwrap();
    services
        .iter()
        .map(|row| u32::try_from(row["pid"].as_u64().unwrap()).unwrap())
        .collect()
}

fn kill_9(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undisturbed_run_ends_with_a_clean_audit() {
    let mut demo = demo(&[
        "--orders",
        "150",
        "--replicas",
        "orders=2",
        "--shoppers",
        "4",
    ]);
    let ready = demo.event("ready").await;
    assert_eq!(ready["services"].as_array().unwrap().len(), 6, "{ready:#}");
    let data = ready["data"].as_str().unwrap().to_owned();
    let summary = demo.event("summary").await;
    let ended = demo.ended().await;
    assert_eq!(ended.code, Some(0), "{summary:#}\n{}", ended.err);
    assert_eq!(summary["sound"], true);
    assert_eq!(summary["audit"]["ok"], true, "{summary:#}");
    let traffic = &summary["traffic"];
    assert_eq!(traffic["orders"], 150, "{summary:#}");
    assert_eq!(
        (&traffic["errors_unexpected"], &traffic["errors_in_outages"]),
        (&0.into(), &0.into())
    );
    // Both instances of orders shared the work, the bank declined some, some were cancelled.
    assert!(
        traffic["outcomes"]["declined"].as_u64().unwrap() > 0,
        "{traffic:#}"
    );
    assert!(
        traffic["outcomes"]["cancelled"].as_u64().unwrap() > 0,
        "{traffic:#}"
    );
    assert!(
        traffic["outcomes"]["refunds"].as_u64().unwrap() > 0,
        "{traffic:#}"
    );
    assert!(
        !pids(&ready).iter().any(|pid| alive(*pid)),
        "a service is left"
    );
    assert!(
        !std::path::Path::new(&data).exists(),
        "the temporary folder is left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_services_come_back_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut demo = demo(&[
        "--orders",
        "600",
        "--replicas",
        "orders=2",
        "--shoppers",
        "4",
        "--data",
        data,
    ]);
    let ready = demo.event("ready").await;
    let gateway = ready["gateway"].as_str().unwrap().to_owned();
    demo.event("progress").await;
    kill_9(pid_of(&ready, "orders-1"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    kill_9(pid_of(&ready, "payments-1"));
    // Through the gateway, by itself: payments answers again. 401 is its own word: it wants a token.
    http_until(
        401,
        "GET",
        &format!("{gateway}/api/payments/bank"),
        &[],
        None,
    )
    .await;
    let summary = demo.event("summary").await;
    let ended = demo.ended().await;
    assert_eq!(summary["falls"], 2, "{summary:#}");
    assert_eq!(summary["audit"]["ok"], true, "{summary:#}");
    assert_eq!(
        summary["traffic"]["errors_unexpected"], 0,
        "{summary:#}\n{}",
        ended.err
    );
    assert_eq!(summary["traffic"]["orders"], 600);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    // What was asked to be kept is kept.
    assert!(folder.path().join("shop/orders.db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_everything_in_order() {
    let mut demo = demo(&["--shoppers", "2"]);
    let ready = demo.event("ready").await;
    let gateway = ready["gateway"].as_str().unwrap().to_owned();
    demo.event("progress").await;
    demo.signal(Signal::SIGINT);
    let summary = demo.event("summary").await;
    let ended = demo.ended().await;
    assert_eq!(ended.code, Some(0), "{summary:#}\n{}", ended.err);
    assert_eq!(summary["audit"]["ok"], true);
    assert!(
        !pids(&ready).iter().any(|pid| alive(*pid)),
        "a service is left"
    );
    assert!(
        http("GET", &format!("{gateway}/api/products"), &[], None)
            .await
            .is_none()
    );
}

/// Does what the `curl` line asks for. A shell cuts it into words, as it would for a user; curl
/// itself need not be there.
async fn curl(line: &str) -> Value {
    let script = format!("curl() {{ printf '%s\\0' \"$@\"; }}\n{line}");
    let output = tokio::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .output();
    let words = String::from_utf8(output.await.unwrap().stdout).unwrap();
    let (mut url, mut headers, mut body) = (None, Vec::new(), None);
    let mut words = words.split_terminator('\0');
    while let Some(word) = words.next() {
        match word {
            "-s" => {}
            "-H" => headers.push(words.next().unwrap().split_once(": ").unwrap()),
            "-d" => body = Some(serde_json::from_str(words.next().unwrap()).unwrap()),
            other if url.is_none() && !other.starts_with('-') => url = Some(other),
            other => panic!("{line}: what would curl do with {other}?"),
        }
    }
    let method = if body.is_some() { "POST" } else { "GET" };
    // The client of these tests always says that it sends JSON; curl says it when the line does.
    assert_eq!(headers.is_empty(), body.is_none(), "{line}");
    let (status, answer) = http(method, url.unwrap(), &[], body).await.unwrap();
    assert!((200..300).contains(&status), "{line}: {status} {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_lines_work_as_printed() {
    let args = [
        "demo",
        "--no-traffic",
        "--gateway",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
    ];
    let mut demo = Program::start(&args);
    let find = demo.lines(|line| line.trim().starts_with("curl "));
    let lines = demo
        .wait_for("curl lines", || {
            Some(find()).filter(|lines| lines.len() >= 3)
        })
        .await;
    let mut answers = Vec::new();
    for line in &lines {
        answers.push(curl(line).await);
    }
    assert_eq!(
        answers[0]["items"].as_array().unwrap().len(),
        3,
        "{answers:#?}"
    );
    assert_eq!(answers[1]["email"], "ada@example.com", "{answers:#?}");
    assert!(answers[2]["access_token"].is_string(), "{answers:#?}");
    demo.signal(Signal::SIGTERM);
    let ended = demo.ended().await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    assert!(ended.out.contains("Everything adds up"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_goes_on_with_the_first_ones_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    for seed in ["7", "7"] {
        let mut demo = demo(&[
            "--orders",
            "20",
            "--shoppers",
            "2",
            "--data",
            data,
            "--seed",
            seed,
        ]);
        let summary = demo.event("summary").await;
        assert_eq!(demo.ended().await.code, Some(0), "{summary:#}");
    }
    let audit = shop::audit::audit(&folder.path().join("shop"), &[]).unwrap();
    assert!(audit.ok(), "{}", audit.table());
    until("the folder is free", || {
        !folder.path().join("endpoints.json").exists()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_on_the_data_of_one_that_was_killed_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let args = ["--shoppers", "3", "--data", data];
    let mut first = demo(&args);
    let ready = first.event("ready").await;
    first.event("progress").await;
    first.kill_9().await;
    until("no service is left", || {
        !pids(&ready).iter().any(|pid| alive(*pid))
    })
    .await;
    // What was at work is taken up again; whoever the registry still lists is not mistaken for one
    // of those that start now.
    let mut second = demo(&[&args[..], &["--orders", "30"]].concat());
    let summary = second.event("summary").await;
    let ended = second.ended().await;
    assert_eq!(ended.code, Some(0), "{summary:#}\n{}", ended.err);
    assert_eq!(summary["falls"], 0, "{summary:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_nothing_explains_is_told_and_is_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut demo = demo(&["--shoppers", "2", "--data", data]);
    let ready = demo.event("ready").await;
    let api = format!("{}/api", ready["gateway"].as_str().unwrap());
    demo.event("progress").await;
    // The bank stops answering, while every process is alive and well.
    let password = read(folder.path().join("shop/users-admin-password"));
    let login = json!({ "email": "admin@shop.example", "password": password });
    let url = format!("{api}/users/login");
    let login = http_until(200, "POST", &url, &[], Some(login)).await;
    let bearer = format!("Bearer {}", login["access_token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str())];
    let bank = format!("{api}/payments/bank");
    let switch = |outage: bool| Some(json!({ "outage": outage }));
    http_until(200, "PUT", &bank, &headers, switch(true)).await;
    let unpaid = folder.path().join("shop/orders.db");
    let unpaid = || {
        let orders = rusqlite::Connection::open(&unpaid).unwrap();
        let query = "SELECT count(*) FROM orders WHERE failure = 'payment_unavailable'";
        orders
            .query_row(query, [], |row| row.get::<_, i64>(0))
            .unwrap()
            > 0
    };
    until("an order fails for want of a bank", unpaid).await;
    http_until(200, "PUT", &bank, &headers, switch(false)).await;
    demo.signal(Signal::SIGTERM);
    let summary = demo.event("summary").await;
    let ended = demo.ended().await;
    assert_eq!(ended.code, Some(1), "{summary:#}\n{}", ended.err);
    assert_eq!(summary["audit"]["ok"], true, "{summary:#}");
    let traffic = &summary["traffic"];
    assert!(
        traffic["errors_unexpected"].as_u64().unwrap() > 0,
        "{traffic:#}"
    );
    let samples = traffic["samples"].to_string();
    assert!(samples.contains("order and pay: 503"), "{samples}");
}
