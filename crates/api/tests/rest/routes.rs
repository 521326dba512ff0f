//! What of a request reaches those who keep the routes, and what of their answers comes back.

use async_trait::async_trait;
use serde_json::{Value, json};
use sinew_api::rest::{By, RoutesControl, model};
use sinew_core::{Error, Kind, Name, Result};

use crate::start;

/// Says in its answers what it was asked.
pub(crate) struct Echo;

fn version(number: u64, by: &By, note: String) -> model::RoutesVersion {
    model::RoutesVersion {
        version: number,
        time_ms: 1,
        author: by.author.clone(),
        note,
        restores: by.expected,
        bytes: 2,
        hash: "00".into(),
    }
}

fn written(what: &str, by: &By) -> model::RoutesWritten {
    model::RoutesWritten {
        version: version(8, by, format!("{what} {}", by.note)),
        is_new: true,
        is_served: true,
        changes: Vec::new(),
    }
}

#[async_trait]
impl RoutesControl for Echo {
    fn served(&self) -> model::Routes {
        model::Routes::default()
    }
    async fn check(&self, document: Value) -> Result<model::RoutesCheck> {
        Ok(model::RoutesCheck {
            version: 7,
            fits: false,
            code: Some("x.y".into()),
            fault: Some(document.to_string()),
            changes: Vec::new(),
        })
    }
    async fn replace(&self, document: Value, by: By) -> Result<model::RoutesWritten> {
        if by.expected == Some(1) {
            let code = "documents.changed_meanwhile";
            return Err(Error::new(Kind::FailedPrecondition, code, "late"));
        }
        Ok(written(&format!("replace {document}"), &by))
    }
    async fn set(&self, name: Name, route: Value, by: By) -> Result<model::RoutesWritten> {
        Ok(written(&format!("set {name} {route}"), &by))
    }
    async fn delete(&self, name: Name, by: By) -> Result<model::RoutesWritten> {
        Ok(written(&format!("delete {name}"), &by))
    }
    async fn roll_back(&self, version: u64, by: By) -> Result<model::RoutesWritten> {
        Ok(written(&format!("back to {version}"), &by))
    }
    async fn versions(&self) -> Result<model::RoutesVersions> {
        let versions = vec![version(2, &By::default(), String::new())];
        Ok(model::RoutesVersions { versions })
    }
    async fn version(&self, number: Option<u64>) -> Result<model::RoutesDocument> {
        Ok(model::RoutesDocument {
            version: version(number.unwrap_or(99), &By::default(), String::new()),
            document: json!({"routes": []}),
        })
    }
}

#[tokio::test]
async fn changes_carry_who_why_and_on_what_condition() {
    let running = start().await;
    let admin = &running.admin;
    let cases = [
        (
            "PUT",
            "/v1/routes?author=ann&note=a%20b",
            Some(json!({"routes": []})),
            "replace {\"routes\":[]} a b",
        ),
        (
            "PUT",
            "/v1/routes/orders?author=ann",
            Some(json!({"path": "/"})),
            "set orders {\"path\":\"/\"} ",
        ),
        (
            "DELETE",
            "/v1/routes/orders?author=ann",
            None,
            "delete orders ",
        ),
        (
            "POST",
            "/v1/routes/rollback?author=ann",
            Some(json!({"version": 3})),
            "back to 3 ",
        ),
    ];
    for (method, path, body, said) in cases {
        let body = body
            .as_ref()
            .map(|body| ("application/json", body.to_string()));
        let answer = admin
            .send_if_match(method, path, body.clone(), "\"7\"")
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.headers["etag"], "\"8\"");
        let json = &answer.json;
        assert_eq!(
            (&json["author"], &json["restores"]),
            (&"ann".into(), &7.into())
        );
        assert_eq!(json["note"], said);
        let refused = running.service.send(method, path, body.clone()).await;
        assert_eq!(refused.json["code"], "api.scope", "{method} {path}");
        let bad = admin.send_if_match(method, path, body, "\"new\"").await;
        assert_eq!(bad.json["code"], "api.if_match_invalid");
    }
    let body = || Some(("application/json", "{}".to_owned()));
    let late = admin.send_if_match("PUT", "/v1/routes", body(), "1").await;
    assert_eq!(
        (late.status.as_u16(), &late.json["code"]),
        (412, &"documents.changed_meanwhile".into())
    );
    let nobody = admin.send("PUT", "/v1/routes", body()).await;
    assert_eq!(
        (&nobody.json["author"], nobody.json.get("restores")),
        (&"admin".into(), None)
    );
    let misspelt = admin.send("PUT", "/v1/routes?auhtor=ann", body()).await;
    assert_eq!(misspelt.json["code"], "api.query_invalid");
}

#[tokio::test]
async fn versions_are_read() {
    let running = start().await;
    let admin = &running.admin;
    let get = async |path: &str| admin.get(path).await;
    assert_eq!(
        get("/v1/routes/versions").await.json["versions"][0]["version"],
        2
    );
    let current = get("/v1/routes/versions/current").await;
    assert_eq!(
        (&current.json["version"], &current.headers["etag"]),
        (&99.into(), &"\"99\"".parse().unwrap())
    );
    let third = get("/v1/routes/versions/3").await.json;
    assert_eq!(
        (&third["version"], &third["document"]),
        (&3.into(), &json!({"routes": []}))
    );
    assert_eq!(
        get("/v1/routes/versions/x").await.json["code"],
        "api.path_invalid"
    );
    let check = admin
        .send(
            "POST",
            "/v1/routes/check",
            Some(("application/json", "[1]".into())),
        )
        .await;
    assert_eq!(
        (&check.json["fits"], &check.json["fault"]),
        (&false.into(), &"[1]".into())
    );
    let served = get("/v1/routes").await.json;
    assert_eq!(
        (&served["version"], &served["routes"]),
        (&0.into(), &json!([]))
    );
}
