//! What is decided about routes, without a gateway.

use serde_json::{Value, json};
use sinew_api::rest::model::Difference;
use sinew_core::Name;
use sinew_gateway::Routing;

use super::{
    Own,
    difference::{differences, summary},
    edit,
};

fn routing(document: Value) -> Routing {
    serde_json::from_value(document).unwrap()
}

fn own(document: Value) -> Own {
    Own {
        routing: routing(document),
        has_jwt: false,
        has_client_ca: false,
    }
}

fn one(name: &str, path: &str) -> Value {
    json!({"name": name, "path": path, "service": "a"})
}

#[test]
fn the_files_routes_come_first_and_the_whole_must_fit() {
    let own = own(json!({"routes": [one("a", "/a")]}));
    let whole = own
        .with(json!({"routes": [one("b", "/b")]}).to_string().as_bytes())
        .unwrap();
    let paths: Vec<_> = whole
        .routes
        .iter()
        .map(|route| route.path.to_string())
        .collect();
    assert_eq!(paths, ["/a", "/b"]);
    assert_eq!(own.with(b"{}").unwrap(), own.routing);

    let code = |document: Value| {
        let error = own.check(&document).unwrap_err();
        (error.code().to_owned(), error.message().to_owned())
    };
    let (conflict, message) =
        code(json!({"routes": [one("b", "/b"), one("c", "/a"), one("a", "/d")]}));
    assert_eq!(conflict, "routes.conflict_with_file");
    assert!(message.starts_with("c, a: the sinew.toml"), "{message}");
    let (twice, _) = code(json!({"routes": [one("b", "/b"), one("c", "/b")]}));
    assert_eq!(twice, "gateway.routes_invalid");
    let (unknown, message) = code(json!({"routes": [], "planets": []}));
    assert_eq!(unknown, "routes.document_invalid");
    assert!(message.contains("planets"), "{message}");
    let (unknown, _) = code(json!({"routes": [{"path": "/b", "service": "b", "colour": 1}]}));
    assert_eq!(unknown, "routes.document_invalid");
    let (no_jwt, message) =
        code(json!({"routes": [{"path": "/b", "service": "b", "auth": ["jwt"]}]}));
    assert_eq!(no_jwt, "routes.jwt_unconfigured");
    assert!(message.contains("/b"), "{message}");
    let (no_ca, message) =
        code(json!({"routes": [{"path": "/b", "service": "b", "auth": ["client_certificate"]}]}));
    assert_eq!(no_ca, "routes.client_ca_unconfigured");
    assert!(message.contains("/b"), "{message}");
}

#[test]
fn many_conflicts_are_not_all_named() {
    let routes: Vec<_> = (0..9)
        .map(|n| one(&format!("r{n}"), &format!("/{n}")))
        .collect();
    let document = json!({ "routes": routes });
    let error = own(document.clone()).check(&document).unwrap_err();
    assert!(
        error
            .message()
            .starts_with("r0, r1, r2, r3, r4 and 4 more: "),
        "{error}"
    );
}

#[test]
fn one_route_is_set_and_deleted_and_the_rest_stays() {
    let name = |text| Name::new(text).unwrap();
    let mut document = json!({"routes": [one("a", "/a"), {"path": "/x", "service": "x", "of-tomorrow": 1}], "more": [1]});
    edit::set(&mut document, &name("b"), json!({"path": "/b"})).unwrap();
    edit::set(&mut document, &name("a"), one("a", "/a2")).unwrap();
    let expected = json!({
        "routes": [one("a", "/a2"), {"path": "/x", "service": "x", "of-tomorrow": 1}, {"name": "b", "path": "/b"}],
        "more": [1],
    });
    assert_eq!(document, expected);
    let mismatch = edit::set(&mut document, &name("b"), one("c", "/b")).unwrap_err();
    assert_eq!(mismatch.code(), "routes.name_mismatch");
    let no_route = edit::set(&mut document, &name("b"), json!([])).unwrap_err();
    assert_eq!(no_route.code(), "routes.document_invalid");
    edit::delete(&mut document, &name("a")).unwrap();
    edit::delete(&mut document, &name("b")).unwrap();
    assert_eq!(document["routes"].as_array().unwrap().len(), 1);
    let gone = edit::delete(&mut document, &name("b")).unwrap_err();
    assert_eq!(gone.code(), "routes.name_unknown");

    let mut empty = json!({});
    edit::set(&mut empty, &name("b"), json!({})).unwrap();
    assert_eq!(empty, json!({"routes": [{"name": "b"}]}));
    for bad in [json!([]), json!({"routes": {}})] {
        let mut bad = bad;
        let error = edit::set(&mut bad, &name("b"), json!({})).unwrap_err();
        assert_eq!(error.code(), "routes.document_invalid");
    }
}

#[test]
fn differences_are_told_entry_by_entry() {
    let old = json!({"routes": [one("a", "/a"), one("b", "/b"), {"path": "/c", "service": "c"}], "upstreams": [{"service": "s", "x": 1}]});
    assert_eq!(differences(&old, &old), []);
    // The order means nothing.
    let turned = json!({"routes": [one("b", "/b"), {"path": "/c", "service": "c"}, one("a", "/a")], "upstreams": [{"service": "s", "x": 1}]});
    assert_eq!(differences(&old, &turned), []);
    assert_eq!(summary(&[]), "none");

    let new = json!({"routes": [one("b", "/b2"), {"path": "/c", "service": "c"}, {"host": "h", "path": "/d", "service": "d"}], "upstreams": [{"service": "s"}]});
    let changes = differences(&old, &new);
    let told: Vec<_> = changes
        .iter()
        .map(|change| {
            (
                change.difference,
                change.table.as_str(),
                change.name.as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (Difference::Removed, "routes", "a"),
            (Difference::Changed, "routes", "b"),
            (Difference::Added, "routes", "h/d"),
            (Difference::Changed, "upstreams", "s"),
        ]
    );
    let field = &changes[1].fields[0];
    assert_eq!(
        (&field.from, &field.to),
        (&Some("/b".into()), &Some("/b2".into()))
    );
    assert_eq!(changes[3].fields[0].to, None);
    assert_eq!(
        summary(&changes),
        "1 added (h/d), 1 removed (a), 2 changed (b, s)"
    );

    let twice = json!({"routes": [one("a", "/a"), one("a", "/b")]});
    let names: Vec<_> = differences(&json!({}), &twice)
        .into_iter()
        .map(|c| c.name)
        .collect();
    assert_eq!(names, ["a", "a #2"]);
}
