use std::cmp::Reverse;

use proptest::prelude::*;
use sinew_core::Name;

use super::*;
use crate::{PathPattern, matcher::HeaderLines};

fn route(host: Option<&str>, path: &str) -> Route {
    let mut route = Route::new(path.parse().unwrap(), Name::new("a").unwrap());
    route.host = host.map(str::to_owned);
    route
}

fn asked<'a>(host: &'a str, path: &'a str) -> Question<'a> {
    Question {
        host,
        path,
        query: "",
        method: "GET",
        source: [127, 0, 0, 1].into(),
        fields: &(),
    }
}

fn found(router: &Router, host: &str, path: &str) -> Option<String> {
    let index = router.find(&asked(host, path))?;
    Some(router.routes().nth(index)?.label())
}

#[test]
fn the_most_specific_wins() {
    let router = Router::build(vec![
        route(None, "/**"),
        route(None, "/api/**"),
        route(None, "/api/orders/**"),
        route(None, "/api/orders/new"),
        route(None, "/api/orders/{id}"),
        route(None, "/api/{kind}/{id}/items/**"),
        route(None, r"~/img/\d+"),
        route(Some("Shop.Example."), "/api/**"),
        route(Some("*.Example"), "/**"),
        route(Some("*.shop.example"), "/x"),
    ])
    .unwrap();
    for (host, path, expected) in [
        ("x", "/", "/**"),
        ("x", "/apix", "/**"),
        ("x", "/api", "/api/**"),
        ("x", "/api/", "/api/**"),
        ("x", "/api/ordersx", "/api/**"),
        ("x", "/api/orders/", "/api/orders/**"),
        ("x", "/api/orders/1", "/api/orders/{id}"),
        ("x", "/api/orders/1/2", "/api/orders/**"),
        ("x", "/api/orders/1/items", "/api/orders/**"),
        ("x", "/api/users/1/items/2", "/api/{kind}/{id}/items/**"),
        ("x", "/api/orders/new", "/api/orders/new"),
        ("x", "/api/orders/new/", "/api/orders/**"),
        ("x", "/img/7", "/**"),
        ("shop.example", "/api/orders/new", "Shop.Example./api/**"),
        ("shop.example", "/other", "*.Example/**"),
        ("a.b.shop.example", "/x", "*.shop.example/x"),
        ("a.shop.example", "/y", "*.Example/**"),
        ("example", "/other", "/**"),
        (".example", "/other", "/**"),
    ] {
        assert_eq!(
            found(&router, host, path).as_deref(),
            Some(expected),
            "{host}{path}"
        );
    }
    let exact_only = Router::build(vec![route(None, "/a")]).unwrap();
    assert_eq!(exact_only.find(&asked("x", "/a/")), None);
    assert_eq!(Router::default().find(&asked("x", "/")), None);
    let expressions =
        Router::build(vec![route(None, r"~/img/\d+"), route(None, "~/img/7.*")]).unwrap();
    assert_eq!(
        found(&expressions, "x", "/img/72").as_deref(),
        Some("~/img/7.*")
    );
    assert_eq!(
        found(&expressions, "x", "/img/62").as_deref(),
        Some(r"~/img/\d+")
    );
    assert_eq!(found(&expressions, "x", "/img/62/"), None);
}

#[test]
fn priority_goes_before_specificity_and_conditions_decide_among_equals() {
    let mut first = route(None, "/**");
    first.priority = 1;
    first.methods = vec!["PUT".to_owned()];
    let mut get = route(None, "/a");
    get.methods = vec!["GET".to_owned()];
    let mut last = route(Some("x"), "/b");
    last.priority = -1;
    let router = Router::build(vec![
        first,
        get,
        route(None, "/a"),
        route(None, "/**"),
        last,
    ]);
    let router = router.unwrap();
    let find = |method, path| {
        let asked = Question {
            method,
            ..asked("x", path)
        };
        router.find(&asked)
    };
    assert_eq!(find("PUT", "/a"), Some(0));
    assert_eq!(find("GET", "/a"), Some(1));
    assert_eq!(find("POST", "/a"), Some(2));
    assert_eq!(find("GET", "/b"), Some(3));
}

#[test]
fn conflicts_are_all_reported() {
    let mut named = route(None, "/n");
    named.name = Some(Name::new("orders").unwrap());
    let mut again = route(None, "/m");
    again.name = named.name.clone();
    let mut strip = route(None, "/api/**");
    strip.strip_prefix = Some("/ap".into());
    let mut both = route(None, "/both");
    both.reply = Some(crate::Reply::default());
    let error = Router::build(vec![
        route(None, "/a/**"),
        route(None, "/%61/**"),
        named,
        again,
        strip,
        route(Some("a:80"), "/"),
        route(None, "/t/{a}"),
        route(None, "/t/{b}"),
        route(None, "~/x.*"),
        route(None, "~/x+"),
        both,
    ])
    .unwrap_err();
    assert_eq!(error.code(), "gateway.routes_invalid");
    for part in [
        "routes 1 (/a/**) and 2 (/a/**) could take the same request",
        "named orders",
        "strip_prefix",
        "\"a:80\" is not a host",
        "routes 7 (/t/{a}) and 8 (/t/{b}) could",
        "routes 9 (~/x.*) and 10 (~/x+) could",
        "higher `priority`",
        "one of `service`",
    ] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    let mut preferred = route(None, "~/x.*");
    preferred.priority = 1;
    assert!(Router::build(vec![preferred, route(None, "~/x+")]).is_ok());
    let many = (0..1_001).map(|index| {
        let mut route = route(None, "/");
        route.priority = index;
        route
    });
    let error = Router::build(many.collect()).unwrap_err();
    assert!(error.message().contains("more than 1000"), "{error}");
}

#[test]
fn what_did_not_change_is_taken_over() {
    let routes = ["/a", "/b", r"~/c/\d"].map(|path| route(None, path));
    let old = Router::build(routes.to_vec()).unwrap();
    let mut new = routes.to_vec();
    new[1].retries = 5;
    new.insert(0, route(None, "/new"));
    let router = Router::rebuild(new, &old).unwrap();
    let kept = |new: usize, old_index: usize| {
        Arc::ptr_eq(&router.compiled()[new], &old.compiled()[old_index])
    };
    assert!(kept(1, 0) && !kept(2, 1) && kept(3, 2));
    assert_eq!(found(&router, "x", "/new").as_deref(), Some("/new"));

    // A change that is none to which requests a route takes needs no other table.
    let mut new = routes.to_vec();
    new[1].retries = 5;
    let changed = Router::rebuild(new.clone(), &old).unwrap();
    assert!(Arc::ptr_eq(&changed.table, &old.table));
    assert_eq!(changed.routes().nth(1).unwrap().retries, 5);
    new[1].methods = vec!["PUT".to_owned()];
    let changed = Router::rebuild(new, &changed).unwrap();
    assert!(!Arc::ptr_eq(&changed.table, &old.table));
    assert_eq!(found(&changed, "x", "/b"), None);
}

#[derive(Debug)]
struct OneHeader(Option<u8>);

impl HeaderLines for OneHeader {
    fn every(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        name != "h" || self.0.is_none_or(|value| see(&[value]))
    }
}

/// Whether the route takes the request and how specific it is, written the slow and obvious way.
fn naive(route: &Route, asked: &Question<'_>) -> Option<(i32, usize, Vec<Reverse<u8>>, usize)> {
    let host = match route.host.as_deref() {
        None => 0,
        Some(own) if own == asked.host => 1_000,
        Some(own) => {
            let suffix = own.strip_prefix('*')?;
            let below = asked.host.len() > suffix.len() && asked.host.ends_with(suffix);
            below.then(|| suffix.split('.').count())?
        }
    };
    let pattern = route.path.to_string();
    let mut specificity = Vec::new();
    if matches!(route.path, PathPattern::Regex(_)) {
        // The only form that the strategy below makes: `~/ab?.*`.
        let beginning = pattern[1..].strip_suffix(".*")?;
        if !asked.path.starts_with(beginning) {
            return None;
        }
        specificity.extend([Reverse(4), Reverse(255 - beginning.len() as u8)]);
    } else {
        let mut path: Vec<&str> = asked.path[1..].split('/').collect();
        path.reverse();
        let mut rest = false;
        for segment in pattern[1..].split('/') {
            if segment == "**" {
                rest = true;
                break;
            }
            let asked = path.pop()?;
            if segment.starts_with('{') {
                if asked.is_empty() {
                    return None;
                }
                specificity.push(Reverse(1));
            } else if asked == segment {
                specificity.push(Reverse(0));
            } else {
                return None;
            }
        }
        if !rest && !path.is_empty() {
            return None;
        }
        specificity.push(Reverse(if rest { 3 } else { 2 }));
    }
    if !route.methods.is_empty() && !route.methods.iter().any(|m| m == asked.method) {
        return None;
    }
    for header in &route.headers {
        let mut fits = header.present == Some(false);
        asked.fields.every("h", &mut |value| {
            fits = header.present != Some(false)
                && header
                    .exact
                    .as_ref()
                    .is_none_or(|exact| exact.as_bytes() == value);
            true
        });
        if !fits {
            return None;
        }
    }
    let conditions = usize::from(!route.methods.is_empty()) + route.headers.len();
    Some((route.priority, host, specificity, conditions))
}

fn any_route() -> impl Strategy<Value = Route> {
    let host = prop::option::of(prop_oneof![
        "(\\*\\.)?[ab]\\.x",
        Just("*.x".to_owned()),
        Just("*.b.x".to_owned())
    ]);
    let path = prop_oneof![
        3 => "(/([ab]{1,2}|\\{P\\})){0,3}(/\\*\\*|/)",
        2 => "(/([ab]{1,2}|\\{P\\})){1,3}",
        1 => "~/[ab]{0,2}\\.\\*",
    ];
    let methods = prop::sample::subsequence(vec!["GET", "PUT", "PURGE", "QUERY"], 0..3);
    let header = prop_oneof![
        4 => Just(None),
        1 => prop::option::of("[12]").prop_map(|exact| Some((exact, None))),
        1 => Just(Some((None, Some(false)))),
    ];
    (host, path, methods, header, -1..=1_i32).prop_map(|(host, path, methods, header, priority)| {
        // Every capture needs a name of its own.
        let mut path = path;
        for name in ["c", "d", "e"] {
            path = path.replacen("{P}", &format!("{{{name}}}"), 1);
        }
        let mut route = route(host.as_deref(), &path);
        route.priority = priority;
        route.methods = methods.into_iter().map(str::to_owned).collect();
        route.headers = header
            .into_iter()
            .map(|(exact, present)| crate::FieldMatch {
                name: "h".to_owned(),
                exact,
                present,
                regex: None,
            })
            .collect();
        route
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_naive_reading(
        mut routes in prop::collection::vec(any_route(), 0..24),
        asks in prop::collection::vec((
            "([ab]\\.){0,2}[ab]\\.[xy]", "(/[ab]{1,2}){0,4}/?",
            prop_oneof![Just("GET"), Just("PUT"), Just("POST"), Just("PURGE")],
            prop::option::of(b'1'..=b'3')), 1..24),
    ) {
        // Routes in conflict are left out: there is nothing to agree on.
        loop {
            let faults = Router::faults(&routes);
            let Some(fault) = faults.first() else { break };
            routes.remove(fault.index);
        }
        let router = Router::build(routes.clone()).unwrap();
        for (host, path, method, header) in asks {
            let path = if path.is_empty() { "/".to_owned() } else { path };
            let header = OneHeader(header);
            let asked = Question { method, fields: &header, ..asked(&host, &path) };
            let taken = routes.iter().enumerate().filter_map(|(i, r)| Some((naive(r, &asked)?, i)));
            let best = taken.clone().max();
            let equals = taken.filter(|(key, _)| Some(key) == best.as_ref().map(|(key, _)| key));
            prop_assert!(equals.count() <= 1, "an unreported conflict: {:?}", asked.path);
            prop_assert_eq!(router.find(&asked), best.map(|(_, index)| index), "{}{}", host, path);
        }
    }
}
