use proptest::prelude::*;
use sinew_core::Name;

use super::*;

fn route(host: Option<&str>, path: &str) -> Route {
    let mut route = Route::new(path.parse().unwrap(), Name::new("a").unwrap());
    route.host = host.map(str::to_owned);
    route
}

fn found(router: &Router, host: &str, path: &str) -> Option<String> {
    router
        .find(host, path)
        .map(|index| router.routes()[index].label())
}

#[test]
fn the_most_specific_wins() {
    let router = Router::build(vec![
        route(None, "/**"),
        route(None, "/api/**"),
        route(None, "/api/orders/**"),
        route(None, "/api/orders/new"),
        route(Some("Shop.Example."), "/api/**"),
    ])
    .unwrap();
    for (host, path, expected) in [
        ("x", "/", "/**"),
        ("x", "/apix", "/**"),
        ("x", "/api", "/api/**"),
        ("x", "/api/", "/api/**"),
        ("x", "/api/ordersx", "/api/**"),
        ("x", "/api/orders/1", "/api/orders/**"),
        ("x", "/api/orders/new", "/api/orders/new"),
        ("x", "/api/orders/new/", "/api/orders/**"),
        ("shop.example", "/api/orders/new", "Shop.Example./api/**"),
        ("shop.example", "/other", "/**"),
    ] {
        assert_eq!(
            found(&router, host, path).as_deref(),
            Some(expected),
            "{host}{path}"
        );
    }
    let exact_only = Router::build(vec![route(None, "/a")]).unwrap();
    assert_eq!(exact_only.find("x", "/a/"), None);
    assert_eq!(Router::default().find("x", "/"), None);
}

#[test]
fn conflicts_are_all_reported() {
    let mut named = route(None, "/n");
    named.name = Some(Name::new("orders").unwrap());
    let mut again = route(None, "/m");
    again.name = named.name.clone();
    let mut strip = route(None, "/api/**");
    strip.strip_prefix = Some("/ap".into());
    let error = Router::build(vec![
        route(None, "/a/**"),
        route(None, "/%61/**"),
        named,
        again,
        strip,
        route(Some("a:80"), "/"),
    ])
    .unwrap_err();
    assert_eq!(error.code(), "gateway.routes_invalid");
    for part in [
        "routes 1 and 2 take",
        "named orders",
        "strip_prefix",
        "\"a:80\" is not a host",
    ] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
}

/// The same rules, written the slow and obvious way.
fn naive(routes: &[Route], host: &str, path: &str) -> Option<usize> {
    let specificity = |route: &Route| {
        let path_rank = match &route.path {
            PathPattern::Exact(exact) => (exact == path).then_some(usize::MAX),
            PathPattern::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                .map(|_| prefix.len()),
        }?;
        let host_rank = match &route.host {
            Some(own) => (own == host).then_some(1),
            None => Some(0),
        }?;
        Some((host_rank, path_rank))
    };
    let ranked = routes
        .iter()
        .enumerate()
        .filter_map(|(i, r)| Some((specificity(r)?, i)));
    ranked.max().map(|(_, index)| index)
}

proptest! {
    #[test]
    fn agrees_with_the_naive_reading(
        raw in prop::collection::btree_set(
            (prop::option::of("[ab]\\.x"), "(/[ab]{1,2}){0,3}(/\\*\\*|/)"), 0..12),
        host in "[abc]\\.x",
        path in "(/[ab]{1,2}){0,4}/?",
    ) {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let routes: Vec<Route> = raw.iter().map(|(h, p)| route(h.as_deref(), p)).collect();
        let router = Router::build(routes.clone()).unwrap();
        prop_assert_eq!(router.find(&host, &path), naive(&routes, &host, &path));
    }
}
