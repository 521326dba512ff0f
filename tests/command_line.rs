//! The commands that talk to a running node.

use serde_json::{Value, json};

use crate::harness::{Program, http, read, sinew};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_routes_and_status_are_shown_to_people_and_programs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let config = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/shop/sinew.toml"
    );
    let mut node = Program::start(&[
        "serve",
        "--config",
        config,
        "--data",
        data,
        "--gateway",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
    ]);
    let file = folder.path().join("endpoints.json");
    let endpoints = node
        .wait_for("endpoints.json", || std::fs::read_to_string(&file).ok())
        .await;
    let endpoints: Value = serde_json::from_str(&endpoints).unwrap();
    assert_eq!(endpoints["pid"], node.pid());
    let control = endpoints["control"].as_str().unwrap().to_owned();

    let token = read(folder.path().join("service-token"));
    let bearer = format!("Bearer {token}");
    let url = format!("{control}/v1/services/orders/instances/orders-1");
    let body = json!({ "address": "127.0.0.1", "port": 41234, "metadata": { "zone": "a" } });
    let registered = http("PUT", &url, &[("authorization", &bearer)], Some(body)).await;
    assert_eq!(registered.unwrap().0, 201);

    let json = async |command: &str| -> Value {
        let ended = sinew(&[command, "--json", "--data", data]).await;
        assert_eq!(ended.code, Some(0), "{command}: {}", ended.err);
        serde_json::from_str(&ended.out).unwrap()
    };
    let services = json("services").await;
    let instance = &services["services"][0]["instances"][0];
    assert_eq!(services["services"][0]["name"], "orders", "{services:#}");
    assert_eq!(
        (&instance["id"], &instance["port"]),
        (&"orders-1".into(), &41234.into())
    );
    assert_eq!(
        (&instance["status"], &instance["metadata"]["zone"]),
        (&"up".into(), &"a".into())
    );
    let routes = json("routes").await;
    assert_eq!(routes["routes"].as_array().unwrap().len(), 5, "{routes:#}");
    let status = json("status").await;
    assert_eq!(
        (&status["pid"], &status["instances"]),
        (&node.pid().into(), &1.into()),
        "{status:#}"
    );

    for (command, shown) in [
        ("services", "orders-1"),
        ("routes", "/api/orders/**"),
        ("status", "127.0.0.1:"),
    ] {
        let ended = sinew(&[command, "--data", data]).await;
        assert_eq!(ended.code, Some(0), "{command}: {}", ended.err);
        assert!(ended.out.contains(shown), "{command}: {}", ended.out);
    }

    // By URL and token instead of the data folder; the service's token may not ask for everything.
    let admin = folder.path().join("admin-token");
    let admin = admin.to_str().unwrap();
    let ended = sinew(&["status", "--json", "--url", &control, "--token-file", admin]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    std::fs::write(folder.path().join("wrong"), "not-a-token").unwrap();
    let wrong = folder.path().join("wrong");
    let wrong = wrong.to_str().unwrap();
    let ended = sinew(&["status", "--url", &control, "--token-file", wrong]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);

    node.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(node.ended().await.code, Some(0));
    assert!(!file.exists(), "a clean exit takes its endpoints back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_registered_kept_out_and_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut node = Program::start(&[
        "serve",
        "--data",
        data,
        "--gateway",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
    ]);
    let file = folder.path().join("endpoints.json");
    node.wait_for("endpoints.json", || std::fs::read_to_string(&file).ok())
        .await;
    let run = async |command: &str| -> String {
        let args: Vec<&str> = command.split(' ').chain(["--data", data]).collect();
        let ended = sinew(&args).await;
        assert_eq!(ended.code, Some(0), "{command}: {}", ended.err);
        ended.out
    };
    let registered = run("instances register orders orders-1 [::1]:80 --zone a --weight 0.5 --of-version 2 --metadata team=shop --check http:/health")
    .await;
    assert!(
        registered.contains("team=shop version=2 zone=a"),
        "{registered}"
    );
    assert!(registered.contains("check http:/health"), "{registered}");
    run("instances register orders orders-2 10.0.0.1:80 --ttl 60s --namespace team-a").await;

    let list = run("instances list --json --zone a --namespace *").await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let instance = &list["services"][0]["instances"][0];
    assert_eq!(list["services"].as_array().unwrap().len(), 1, "{list:#}");
    assert_eq!(
        (
            &instance["weight"],
            &instance["persistent"],
            &instance["ttl_ms"]
        ),
        (&0.5.into(), &true.into(), &Value::Null)
    );
    let shown = run("services show orders --namespace team-a").await;
    assert!(shown.contains("team-a/orders  orders-2"), "{shown}");

    run("instances maintenance orders orders-1 on").await;
    let status = run("instances status orders orders-1").await;
    assert!(status.contains("out of service"), "{status}");
    run("instances maintenance orders orders-1 off").await;
    let status = run("instances status orders orders-1 draining").await;
    assert!(status.contains("draining"), "{status}");
    run("instances deregister orders orders-1").await;
    let gone = sinew(&["instances", "status", "orders", "orders-1", "--data", data]).await;
    assert_eq!(gone.code, Some(1));
    assert!(
        gone.err.contains("registry.instance_unknown"),
        "{}",
        gone.err
    );

    node.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(node.ended().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_shows_what_the_gateway_does() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut node = Program::start(&[
        "serve",
        "--data",
        data,
        "--gateway",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
    ]);
    let file = folder.path().join("endpoints.json");
    let endpoints = node
        .wait_for("endpoints.json", || std::fs::read_to_string(&file).ok())
        .await;
    let endpoints: Value = serde_json::from_str(&endpoints).unwrap();
    let url = format!("{}/nothing", endpoints["gateway"].as_str().unwrap());

    let mut top = Program::start(&["top", "--json", "--interval", "200ms", "--data", data]);
    let asking = tokio::spawn(async move {
        loop {
            http("GET", &url, &[], None).await;
        }
    });
    let views = top.lines(|line| line.starts_with('{'));
    let busy = || {
        let views = views();
        let mut views = views.iter().map(|line| serde_json::from_str(line).unwrap());
        views.find(|view: &Value| view["gateway"]["rate"].as_f64().unwrap() > 0.0)
    };
    let view = top.wait_for("requests", busy).await;
    let route = &view["routes"][0];
    assert_eq!(route["route"], "(none)", "{view:#}");
    assert_eq!(route["rate"], route["rate_4xx"], "{view:#}");
    assert!(route["p99_ms"].as_f64().unwrap() > 0.0, "{view:#}");
    asking.abort();

    let ended = sinew(&["top", "--once", "--interval", "100ms", "--data", data]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.starts_with("requests  "), "{}", ended.out);
    assert!(!ended.out.contains('\u{1b}'), "{:?}", ended.out);

    node.kill_9().await;
    let ended = sinew(&["top", "--once", "--data", data]).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_node_there_is_code_5() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let nobody = format!("http://{}", crate::harness::free_address());
    std::fs::write(folder.path().join("admin-token"), "x").unwrap();
    for args in [
        &["status", "--data", data][..],
        &["services", "--data", data, "--url", &nobody],
    ] {
        let ended = sinew(args).await;
        assert_eq!(ended.code, Some(5), "{args:?}: {}", ended.err);
        assert!(ended.err.contains("error: "), "{}", ended.err);
    }
}
