//! The node is killed with -9 and started again on its data folder while the shop is busy.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use shop::shoppers::{Acknowledged, Options, Outages, Shoppers};
use sinew_core::Clock;

use crate::harness::{LONG, Program, address_of, free_address, http, http_until, read, until};

const SERVICES: [&str; 5] = ["users", "products", "carts", "payments", "orders"];

struct Node {
    program: Program,
    gateway: SocketAddr,
    control: String,
    token: String,
}

impl Node {
    async fn start(data: &Path, gateway: SocketAddr, control: SocketAddr) -> Self {
        let config = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../examples/shop/sinew.toml"
        );
        let data_text = data.to_str().unwrap();
        let program = Program::start(&[
            "serve",
            "--config",
            config,
            "--data",
            data_text,
            "--gateway",
            &gateway.to_string(),
            "--control",
            &control.to_string(),
        ]);
        let control = format!("http://{control}");
        http_until(200, "GET", &format!("{control}/v1/health"), &[], None).await;
        let token = read(data.join("admin-token"));
        Self {
            program,
            gateway,
            control,
            token,
        }
    }

    /// The instances that the registry shows as up, as `id -> port`.
    async fn up(&self) -> Vec<(String, u64)> {
        let bearer = format!("Bearer {}", self.token);
        let url = format!("{}/v1/services", self.control);
        let Some((200, listing)) = http("GET", &url, &[("authorization", &bearer)], None).await
        else {
            return Vec::new();
        };
        let services = listing["services"].as_array().unwrap();
        let instances = services
            .iter()
            .flat_map(|service| service["instances"].as_array().unwrap());
        let up = instances.filter(|instance| instance["status"] == "up");
        let pair = |instance: &Value| {
            let id = instance["id"].as_str().unwrap().to_owned();
            (id, instance["port"].as_u64().unwrap())
        };
        let mut up: Vec<_> = up.map(pair).collect();
        up.sort();
        up
    }

    async fn up_are(&self, expected: usize) -> Vec<(String, u64)> {
        let wait = async {
            loop {
                let up = self.up().await;
                if up.len() == expected {
                    return up;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LONG, wait)
            .await
            .expect("all services are up")
    }
}

fn start_service(name: &str, node: &Node, service_token: &str, data: &Path) -> Program {
    Program::start_with(
        &["shop", name],
        &[
            ("PORT", "0"),
            ("SINEW_URL", &node.control),
            ("SINEW_TOKEN", service_token),
            ("SINEW_SERVICE", name),
            ("SINEW_INSTANCE", &format!("{name}-1")),
            ("SINEW_DATA", data.to_str().unwrap()),
            ("SINEW_SERVICE_KEY", "a key that only the test knows"),
            ("SINEW_PARENT_PID", &std::process::id().to_string()),
            ("SHOP_ARGON2_MEMORY_KIB", "1024"),
            ("SHOP_ARGON2_PASSES", "1"),
        ],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_go_on_without_the_node_and_find_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let (data, shop_data) = (folder.path().join("node"), folder.path().join("shop"));
    std::fs::create_dir_all(&shop_data).unwrap();
    let (gateway, control) = (free_address(), free_address());
    let mut node = Node::start(&data, gateway, control).await;
    let service_token = read(data.join("service-token"));
    let mut services: Vec<Program> = SERVICES
        .iter()
        .map(|name| start_service(name, &node, &service_token, &shop_data))
        .collect();
    let before = node.up_are(SERVICES.len()).await;

    // A customer of the test's own, with a token and the addresses of two services.
    let port = |name: &str| {
        before
            .iter()
            .find(|(id, _)| id.starts_with(name))
            .unwrap()
            .1
    };
    let orders = format!("http://127.0.0.1:{}", port("orders"));
    let through_gateway = format!("http://{gateway}/api");
    let (email, password) = ("ada@example.com", "correct horse");
    let ada = json!({ "name": "Ada", "email": email, "password": password });
    http_until(
        201,
        "POST",
        &format!("{through_gateway}/users"),
        &[],
        Some(ada),
    )
    .await;
    let url = format!("{through_gateway}/users/login");
    let ada = json!({ "email": email, "password": password });
    let login = http_until(200, "POST", &url, &[], Some(ada)).await;
    let bearer = format!("Bearer {}", login["access_token"].as_str().unwrap());
    let url = format!("{through_gateway}/products?limit=1");
    let products = http_until(200, "GET", &url, &[], None).await;
    let product = products["items"][0]["id"].as_str().unwrap().to_owned();
    let order = json!({ "lines": [{ "product_id": product, "quantity": 1 }] });

    // Traffic.
    let clock = Clock::system();
    let outages = Arc::new(Outages::new(clock.clone(), Duration::from_secs(3)));
    let options = Options {
        gateway,
        shoppers: 3,
        orders: None,
        seed: 3,
        think: Duration::from_millis(5),
        admin_password: read(shop_data.join("users-admin-password")),
    };
    let mut shoppers = Shoppers::start(options, clock, outages.clone());
    until("orders flow", || shoppers.figures().orders() >= 20).await;

    outages.begin("node");
    node.program.kill_9().await;
    // Without the node: orders still calls products and payments by what it last knew. The service
    // is called directly, for the gateway is gone with the node.
    let mut direct = Vec::new();
    for n in 0..5 {
        let key = format!("without-node-{n}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("idempotency-key", &key),
        ];
        let answer = http(
            "POST",
            &format!("{orders}/orders"),
            &headers,
            Some(order.clone()),
        )
        .await;
        let (status, answer) = answer.expect("orders answers without the node");
        assert_eq!(status, 201, "{answer:#}");
        let (id, state) = (
            answer["id"].as_str().unwrap(),
            answer["state"].as_str().unwrap(),
        );
        assert!(matches!(state, "paid" | "payment_failed"), "{answer:#}");
        assert_ne!(answer["failure"], "payment_unavailable", "{answer:#}");
        direct.push(Acknowledged::Order {
            id: id.to_owned(),
            state: state.to_owned(),
        });
    }

    let node = Node::start(&data, gateway, control).await;
    assert_eq!(
        read(data.join("service-token")),
        service_token,
        "tokens outlive the node"
    );
    let after = node.up_are(SERVICES.len()).await;
    assert_eq!(before, after, "the same instances at the same places");
    let at_restart = shoppers.figures().orders();
    until("orders flow again", || {
        shoppers.figures().orders() >= at_restart + 20
    })
    .await;
    outages.end("node");
    until("and on", || shoppers.figures().orders() >= at_restart + 60).await;
    shoppers.stop(LONG).await;

    let figures = shoppers.figures();
    assert_eq!(figures.failures_unexpected, 0, "{:?}", figures.samples);
    assert!(
        figures.failures_in_outages > 0,
        "nobody noticed that the gateway was gone"
    );
    let shop = shop_data.clone();
    until("all orders at rest", || {
        shop::audit::unsettled(&shop).unwrap() == 0
    })
    .await;
    for service in services.iter_mut().rev() {
        service.signal(nix::sys::signal::Signal::SIGTERM);
    }
    for service in services {
        let ended = service.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
    assert!(
        node.up().await.is_empty(),
        "who stops in order takes itself out of the registry"
    );
    let mut promises = shoppers.acknowledged();
    promises.extend(direct);
    let audit = shop::audit::audit(&shop_data, &promises).unwrap();
    assert!(audit.ok(), "{}", audit.table());
    assert_eq!(node.gateway, address_of(&format!("http://{gateway}")));
}
