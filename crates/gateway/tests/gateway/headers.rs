//! Which headers pass, which end at the gateway, and which it adds.

use crate::support::*;

fn passed(headers: &str) -> Message {
    let service = Service::saying("");
    let world = World::of(&[&service]);
    let response = world.ask(&format!(
        "GET / HTTP/1.1\r\nHost: shop.example:8080\r\n{headers}\r\n"
    ));
    assert_eq!(response.status(), 200);
    service.requests()[0].clone()
}

#[test]
fn ends_to_ends_pass_and_hops_end() {
    let request = passed(
        "Accept: */*\r\nCookie: a=b\r\nmy_header: 1\r\nX-Multi: 1\r\nX-Multi: 2\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
         Trailer: x\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\n\
         Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\n",
    );
    for (name, value) in [
        ("host", "shop.example:8080"),
        ("accept", "*/*"),
        ("cookie", "a=b"),
        ("my_header", "1"),
        ("x-multi", "1 | 2"),
    ] {
        assert_eq!(request.header(name).as_deref(), Some(value), "{name}");
    }
    for name in [
        "keep-alive",
        "te",
        "trailer",
        "proxy-connection",
        "proxy-authorization",
        "connection",
        "x-hop",
    ] {
        assert_eq!(request.header(name), None, "{name}");
    }
}

#[test]
fn where_a_request_came_from_is_the_gateways_word() {
    let request = passed(
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\n\
         Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Original-URL: /admin\r\nX-Rewrite-Url: /admin\r\n\
         X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nx_real_ip: 6.6.6.6\r\nX_Request_Id: a\r\n",
    );
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "shop.example:8080"),
        ("x-forwarded-proto", "http"),
        (
            "forwarded",
            "for=127.0.0.1;proto=http;host=\"shop.example:8080\"",
        ),
        ("via", "1.1 sinew"),
    ] {
        assert_eq!(request.header(name).as_deref(), Some(value), "{name}");
    }
    for (name, value) in &request.headers {
        assert!(
            !value.contains("6.6.6.6") && !value.contains("admin"),
            "{name}: {value}"
        );
        assert!(!name.contains('_'), "{name}");
    }
}

#[test]
fn identities_are_never_the_clients_word() {
    let request = passed(
        "X-Auth-Subject: root\r\nx-auth-role: admin\r\nX_Auth_Subject: root\r\nX-AUTH-Anything: x\r\nX-Authority: kept\r\n",
    );
    for (name, _) in &request.headers {
        assert!(
            !name
                .to_ascii_lowercase()
                .replace('_', "-")
                .starts_with("x-auth-"),
            "{name}"
        );
    }
    assert_eq!(request.header("x-authority").as_deref(), Some("kept"));
}

#[test]
fn connection_cannot_take_protected_headers_away() {
    let request = passed(
        "Connection: close, X-Forwarded-For, X-Forwarded-Host, Host, Authorization, Cookie, X-Request-Id, Content-Type\r\n\
         Authorization: Bearer x\r\nCookie: a\r\nContent-Type: t\r\nX-Request-Id: mine\r\n",
    );
    for name in [
        "x-forwarded-for",
        "x-forwarded-host",
        "host",
        "authorization",
        "cookie",
        "x-request-id",
        "content-type",
    ] {
        assert!(request.header(name).is_some(), "{name}");
    }
}

#[test]
fn request_ids_are_kept_or_made() {
    let service = Service::answering(|_| {
        "HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n".into()
    });
    let world = World::of(&[&service]);
    let ask = |id: &str| world.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{id}\r\n"));
    assert_eq!(
        ask("X-Request-Id: abc-1.2_3\r\n")
            .header("x-request-id")
            .as_deref(),
        Some("abc-1.2_3")
    );
    for bad in [
        "",
        "X-Request-Id: a b\r\n",
        "X-Request-Id: a\r\nX-Request-Id: b\r\n",
        "X-Request-Id: <script>\r\n",
    ] {
        let id = ask(bad).header("x-request-id").unwrap();
        assert!(
            id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "{bad}: {id}"
        );
        assert_eq!(
            service.requests().last().unwrap().header("x-request-id"),
            Some(id)
        );
    }
    let fault = world.ask("GET /a//b HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n");
    assert_eq!(fault.header("x-request-id").as_deref(), Some("mine"));
}

#[test]
fn trace_contexts_pass_or_begin() {
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = passed(&format!("traceparent: {context}\r\ntracestate: a=b\r\n"));
    assert_eq!(request.header("traceparent").as_deref(), Some(context));
    assert_eq!(request.header("tracestate").as_deref(), Some("a=b"));
    for bad in [
        "traceparent: 00-0-0-01\r\ntracestate: a=b\r\n",
        "tracestate: a=b\r\n",
    ] {
        let request = passed(bad);
        assert_eq!(request.header("traceparent").unwrap().len(), 55);
        assert_eq!(request.header("tracestate"), None);
    }
}

#[test]
fn responses_lose_what_ends_here() {
    let service = Service::answering(|_| {
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nServer: app\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
            .into()
    });
    let response = World::of(&[&service]).get("/");
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "upgrade",
        "proxy-authenticate",
    ] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!(response.header("server").as_deref(), Some("app"));
    assert_eq!(response.header("set-cookie").as_deref(), Some("a | b"));
    let date = response.header("date").unwrap();
    assert!(httpdate::parse_http_date(&date).is_ok(), "{date}");
}

#[test]
fn a_route_that_leads_back_to_the_gateway_ends() {
    let world = World::of(&[]);
    world
        .discovery
        .set_addresses(&name("app"), &[world.gateway.address()]);
    let response = world.get("/");
    assert_eq!(
        (response.status(), response.code().as_str()),
        (508, "gateway.loop_detected")
    );
}
