//! Which route takes a request, and what it makes of it.

use sinew_gateway::Route;

use crate::support::*;

pub(crate) fn routes(toml: &str) -> Vec<Route> {
    #[derive(serde::Deserialize)]
    struct Document {
        routes: Vec<Route>,
    }
    toml::from_str::<Document>(toml).unwrap().routes
}

fn world(toml: &str, service: &Service) -> World {
    World::with(config(routes(toml)), &[service], None)
}

/// The first line of what the service last saw.
fn seen(service: &Service) -> String {
    service.requests().pop().unwrap().first
}

#[test]
fn every_matcher_decides() {
    let app = Service::saying("app");
    let other = Service::saying("other");
    let toml = r#"
        [[routes]]
        path = "/**"
        service = "app"
        [[routes]]
        path = "/m"
        methods = ["PUT", "DELETE"]
        service = "other"
        [[routes]]
        path = "/**"
        headers = [{ name = "x-canary", exact = "yes" }]
        service = "other"
        [[routes]]
        path = "/q"
        query = [{ name = "beta", exact = "a b" }]
        service = "other"
        [[routes]]
        path = "/c"
        cookies = [{ name = "group", regex = "b\\d" }]
        service = "other"
        [[routes]]
        path = "/here"
        sources = ["127.0.0.0/8"]
        service = "other"
        [[routes]]
        path = "/there"
        sources = ["10.0.0.0/8"]
        service = "other"
        [[routes]]
        host = "*.example.com"
        path = "/**"
        service = "other"
        [[routes]]
        path = "~/img/\\d+\\.png"
        priority = 1
        service = "other"
    "#;
    let world = world(toml, &app);
    world
        .discovery
        .set_addresses(&name("other"), &[other.address]);
    for (line, headers, expected) in [
        ("GET /m", "", "app"),
        ("PUT /m", "Content-Length: 0\r\n", "other"),
        ("GET /x", "X-Canary: yes\r\n", "other"),
        ("GET /x", "X-Canary: no\r\n", "app"),
        ("GET /x", "X-Canary: yes\r\nX-Canary: no\r\n", "app"),
        ("GET /q?%62eta=a+b", "", "other"),
        ("GET /q?beta=a", "", "app"),
        ("GET /c", "Cookie: a=1; group=b7\r\n", "other"),
        ("GET /c", "Cookie: a=1; group=a7\r\n", "app"),
        ("GET /here", "", "other"),
        ("GET /there", "", "app"),
        ("GET /x", "Host: a.b.EXAMPLE.com:80\r\n", "other"),
        ("GET /x", "Host: example.com\r\n", "app"),
        ("GET /img/12.png", "", "other"),
        ("GET /img/12.png/", "", "app"),
    ] {
        let host = if headers.starts_with("Host") {
            ""
        } else {
            "Host: a\r\n"
        };
        let answer = world.ask(&format!("{line} HTTP/1.1\r\n{host}{headers}\r\n"));
        assert_eq!(answer.text(), expected, "{line} {headers}");
    }
}

#[test]
fn paths_are_rewritten() {
    let app = Service::saying("app");
    let toml = r#"
        [[routes]]
        path = "/users/{id}/orders/{order}/**"
        service = "app"
        rewrite = "/v2/{order}/of/{id}{rest}"
        [[routes]]
        path = "/old/**"
        service = "app"
        strip_prefix = "/old"
        [[routes]]
        path = "~/img/(?P<n>[^/]*)/(?P<kind>[a-z.]+)"
        service = "app"
        rewrite = "/{kind}/{n}"
    "#;
    let world = world(toml, &app);
    for (path, expected) in [
        (
            "/users/7/orders/x%20y/items/?a=1",
            "/v2/x%20y/of/7/items/?a=1",
        ),
        ("/users/7/orders/9", "/v2/9/of/7"),
        ("/old", "/"),
        ("/old/x?y", "/x?y"),
        ("/img/7/png", "/png/7"),
    ] {
        assert_eq!(world.get(path).text(), "app", "{path}");
        assert_eq!(seen(&app), format!("GET {expected} HTTP/1.1"));
    }
    // What expressions bring together may be no path.
    let before = app.requests().len();
    let answer = world.get("/img/a/b.c").status();
    assert_eq!((answer, app.requests().len()), (200, before + 1));
    let toml = r#"
        [[routes]]
        path = "~/x(?P<dots>[.]+)y(?P<more>.*)"
        service = "app"
        rewrite = "/a/{dots}/{more}"
    "#;
    let world = self::world(toml, &app);
    for path in ["/x..yz", "/x.y"] {
        let answer = world.get(path);
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (400, "gateway.path_refused")
        );
    }
    assert_eq!(world.get("/x...yz").status(), 200);
}

#[test]
fn redirects_and_replies_need_no_service() {
    let app = Service::saying("app");
    let toml = r#"
        [[routes]]
        path = "/old/**"
        redirect = { to = "https://{host}/new{rest}" }
        [[routes]]
        path = "/moved/{id}"
        redirect = { to = "/to/{id}?from=moved", status = 302 }
        [[routes]]
        path = "~/x(?P<where>.*)"
        redirect = { to = "/{where}" }
        [[routes]]
        path = "/ping"
        reply = { status = 200, body = "pong", headers = { x-a = "1" } }
        [[routes]]
        path = "/none"
        reply = { status = 204 }
        [[routes]]
        path = "/secret"
        auth = ["jwt"]
        reply = { status = 200, body = "secret" }
    "#;
    let world = world(toml, &app);
    let mut client = world.client();
    let mut get = |path: &str| {
        client.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: Shop.example:80\r\n\r\n"
        ));
        client.response()
    };
    let to = |answer: &Response| (answer.status(), answer.header("location").unwrap());
    let answer = get("/old/a%20b/?x=1");
    assert_eq!(
        to(&answer),
        (308, "https://shop.example/new/a%20b/?x=1".to_owned())
    );
    assert_eq!(answer.header("content-length").as_deref(), Some("0"));
    assert_eq!(
        to(&get("/moved/7?x=1")),
        (302, "/to/7?from=moved".to_owned())
    );
    // `//evil.example` would be another host.
    let answer = get("/x/evil.example");
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (400, "gateway.path_refused")
    );
    let answer = world.ask("GET /old/evil.example HTTP/1.0\r\n\r\n");
    assert_eq!(answer.code(), "gateway.path_refused");
    let answer = get("/ping");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "pong"));
    assert_eq!(
        answer.header("content-type").as_deref(),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(answer.header("x-a").as_deref(), Some("1"));
    assert!(answer.header("x-request-id").is_some());
    let answer = get("/none");
    assert_eq!(
        (answer.status(), answer.header("content-length")),
        (204, None)
    );
    // Policies go first, whatever the action.
    assert_eq!(get("/secret").status(), 503);
    assert_eq!(app.requests().len(), 0);
    client = world.client();
    client.send("HEAD /ping HTTP/1.1\r\nHost: a\r\n\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.0.message(true).unwrap();
    assert_eq!(head.header("content-length").as_deref(), Some("4"));
    assert_eq!(client.response().text(), "pong");
    let series = "sinew_gateway_requests_total{route=\"/ping\",service=\"\",status=\"2xx\"}";
    world.eventually("three pings are counted", |world| {
        world.metric(series) == 3.0
    });
}

#[test]
fn the_examples_of_the_guide_are_good_routes() {
    let guide = include_str!("../../../../docs/guide/routing.md");
    let examples: Vec<&str> = guide
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 4, "{}", examples.len());
    for example in examples {
        assert_eq!(
            sinew_gateway::Router::faults(&routes(example)),
            [],
            "{example}"
        );
    }
    // What stands in the tables, each beside the path of its row or a plain one.
    let keys = guide.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut tried = 0;
    for key in keys.filter_map(|line| line.split('`').next()) {
        let action = ["service =", "redirect =", "reply ="];
        let (path, service) = (
            key.starts_with("path ="),
            action.iter().any(|a| key.starts_with(a)),
        );
        if !key.contains(" = ") || key.contains('\u{2026}') {
            continue;
        }
        let path = if path { "" } else { "path = \"/x/{id}/**\"\n" };
        let service = if service { "" } else { "service = \"a\"\n" };
        let toml = format!("[[routes]]\n{path}{service}{key}");
        assert_eq!(sinew_gateway::Router::faults(&routes(&toml)), [], "{toml}");
        tried += 1;
    }
    assert!(tried >= 14, "{tried}");
}
