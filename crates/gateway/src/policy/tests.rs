use super::*;

fn read(text: &str) -> std::result::Result<Upstream, toml::de::Error> {
    toml::from_str(&format!("service = \"orders\"\n{text}"))
}

#[test]
fn a_service_alone_has_the_defaults_and_everything_is_written_back() {
    let plain = read("").unwrap();
    assert_eq!(plain, Upstream::new(Name::new("orders").unwrap()));
    let text =
        "slow_start = \"30s\"\n[ejection]\non = [\"5xx\", \"reset\", \"429\"]\nconsecutive = 3";
    let upstream = read(text).unwrap();
    assert_eq!(upstream.ejection.consecutive, 3);
    assert_eq!(upstream.ejection.time, Duration::from_secs(10));
    let json = serde_json::to_string(&upstream).unwrap();
    assert!(json.contains("[\"reset\",\"5xx\",\"429\"]"), "{json}");
    assert_eq!(serde_json::from_str::<Upstream>(&json).unwrap(), upstream);
}

#[test]
fn conditions_are_those_listed() {
    let on = read("ejection.on = [\"timeout\", \"503\", \"425\"]")
        .unwrap()
        .ejection
        .on;
    for (cause, has) in [
        (Cause::Timeout, true),
        (Cause::Connect, false),
        (Cause::Reset, false),
        (Cause::Status(503), true),
        (Cause::Status(425), true),
        (Cause::Status(500), false),
        (Cause::Status(200), false),
        (Cause::Status(999), false),
    ] {
        assert_eq!(on.has(cause), has, "{cause:?}");
    }
    for bad in ["600", "399", "4xx", "", "resets", "-1", "+503 "] {
        let error = read(&format!("ejection.on = [\"{bad}\"]")).unwrap_err();
        assert!(error.to_string().contains("is no condition"), "{error}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_whole() {
    let bad = |text: &str| check(&[read(text).unwrap()]).unwrap_err();
    for (text, why) in [
        (
            "ejection.window = \"1ms\"",
            "ejection.window is 1ms; use 100ms",
        ),
        ("ejection.longest = \"1s\"", "ejection.longest is less"),
        ("ejection.failure_percent = 101", "use 0 to 100"),
        (
            "balance = { hash = { header = \"x user\" } }",
            "no name of a header",
        ),
        ("slow_start = \"25h\"", "slow_start is 90000000ms"),
        ("breaker.failure_percent = 0", "use 1 to 100"),
        ("breaker.window_requests = 10", "it would never open"),
        (
            "bulkhead.queue = 1",
            "needs `requests`, `per_instance` or both",
        ),
        ("shedding.least = 30", "1 <= least <= initial <= most"),
        ("shedding.tolerance_percent = 100", "use 110 to 1000"),
    ] {
        let error = bad(text);
        assert_eq!(error.code(), "gateway.upstreams_invalid");
        let message = error.message();
        assert!(message.contains("upstream 1 (orders): "), "{message}");
        assert!(message.contains(why), "{message}");
    }
    let twice = check(&[read("").unwrap(), read("").unwrap()]).unwrap_err();
    assert!(twice.message().contains("upstreams 1 and 2 are both"));
    assert!(read("slowstart = \"1s\"").is_err());
}

#[test]
fn a_fallback_is_a_response() {
    let read = |text: &str| toml::from_str::<Fallback>(text);
    let fallback = read("body = \"later\"").unwrap();
    assert_eq!((fallback.status(), fallback.body()), (200, "later"));
    assert_eq!(fallback.content_type(), "text/plain; charset=utf-8");
    let json = serde_json::to_string(&fallback).unwrap();
    assert_eq!(serde_json::from_str::<Fallback>(&json).unwrap(), fallback);
    for bad in [
        "body = \"\"\nstatus = 199",
        "body = \"\"\nstatus = 204",
        "body = \"\"\ncontent_type = \"a\\r\\nb: c\"",
        "body = \"\"\nheader = 1",
        "status = 200",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn balancing_is_a_word_or_a_hash_of_something() {
    for (text, expected) in [
        ("\"two_choices\"", Balance::TwoChoices),
        ("\"round_robin\"", Balance::RoundRobin),
        ("\"least_requests\"", Balance::LeastRequests),
        ("\"peak_ewma\"", Balance::PeakEwma),
        ("{ hash = \"source\" }", Balance::Hash(HashBy::Source)),
        ("{ hash = \"path\" }", Balance::Hash(HashBy::Path)),
        (
            "{ hash = { header = \"x-user\" } }",
            Balance::Hash(HashBy::Header("x-user".into())),
        ),
        (
            "{ hash = { cookie = \"sid\" } }",
            Balance::Hash(HashBy::Cookie("sid".into())),
        ),
    ] {
        let upstream = read(&format!("balance = {text}")).unwrap();
        assert_eq!(upstream.balance, expected);
        let json = serde_json::to_string(&upstream).unwrap();
        assert_eq!(serde_json::from_str::<Upstream>(&json).unwrap(), upstream);
    }
    assert!(read("balance = \"random\"").is_err());
}

/// Every example of the guide is taken as it stands.
#[test]
fn the_examples_of_the_guide_are_true() {
    let pages = [
        include_str!("../../../../docs/guide/balancing.md"),
        include_str!("../../../../docs/guide/resilience.md"),
    ];
    let blocks = pages
        .iter()
        .flat_map(|page| page.split("```toml\n").skip(1));
    let mut examples = 0;
    for block in blocks {
        let example = block.split("```").next().unwrap();
        let routing: crate::Routing = toml::from_str(example).unwrap();
        routing.check().unwrap();
        examples += 1;
    }
    assert_eq!(examples, 4);
}
