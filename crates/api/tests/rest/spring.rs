//! Spring Cloud Config's dialect, as its clients speak it.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{Running, client::Client, start, start_where};

async fn put(client: &Client, item: &str, content: &str, format: &str) {
    let change = json!({"content": content, "format": format});
    let answer = client
        .put(&format!("/v1/config/items/{item}"), change)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn filled() -> Running {
    let node = start().await;
    let admin = &node.admin;
    put(
        admin,
        "default/orders/default/main",
        "server:\n  port: 80\nlist: [a, b]\n",
        "yaml",
    )
    .await;
    put(
        admin,
        "default/orders/prod/main",
        "server.port=81\ntext=a\\nb\n",
        "properties",
    )
    .await;
    put(
        admin,
        "default/application/default/main",
        r#"{"shared": true}"#,
        "json",
    )
    .await;
    put(admin, "default/orders/default/feature%2Fx", "x: 1", "yaml").await;
    put(admin, "team/orders/default/main", "of: team", "yaml").await;
    node
}

#[tokio::test]
async fn an_environment_names_its_sources_the_strongest_first() {
    let node = filled().await;
    let found = node.service.get("/config/orders/prod").await.json;
    assert_eq!(
        (&found["name"], &found["profiles"], &found["label"]),
        (&json!("orders"), &json!(["prod"]), &Value::Null)
    );
    let expected = json!([
        {"name": "sinew:default/orders/prod/main", "source": {"server.port": "81", "text": "a\nb"}},
        {"name": "sinew:default/orders/default/main", "source": {"server.port": 80, "list[0]": "a", "list[1]": "b"}},
        {"name": "sinew:default/application/default/main", "source": {"shared": true}},
    ]);
    assert_eq!(found["propertySources"], expected);
    let nobody = node.service.get("/config/nobody/default").await;
    assert_eq!(
        (
            nobody.status.as_u16(),
            nobody.json["propertySources"].as_array().unwrap().len()
        ),
        (200, 1)
    );
    let labelled = node
        .service
        .get("/config/orders/default/feature(_)x")
        .await
        .json;
    assert_eq!(
        (
            &labelled["label"],
            &labelled["propertySources"][0]["source"]
        ),
        (&json!("feature(_)x"), &json!({"x": 1}))
    );
    let unknown = node.service.get("/config/orders/default/nolabel").await;
    unknown.is_problem(404, "configs.label_unknown");
    let team = node
        .service
        .get("/namespaces/team/config/orders/default")
        .await
        .json;
    assert_eq!(team["propertySources"][0]["source"], json!({"of": "team"}));
    let with_origin = [(
        "accept",
        "application/vnd.spring-cloud.config-server.v2+json",
    )];
    let origin = node
        .service
        .get_with("/config/orders/prod", &with_origin)
        .await;
    assert_eq!(origin.headers["content-type"], with_origin[0].1);
    let port = &origin.json["propertySources"][0]["source"]["server.port"];
    assert_eq!(
        port,
        &json!({"value": "81", "origin": "sinew:default/orders/prod/main, version 1"})
    );
}

#[tokio::test]
async fn files_hold_the_merged_settings() {
    let node = filled().await;
    let get = async |path: &str| node.service.get(path).await;
    let expected = "list[0]=a\nlist[1]=b\nserver.port=81\nshared=true\ntext=a\\nb\n";
    assert_eq!(get("/config/orders-prod.properties").await.text, expected);
    assert_eq!(
        get("/config/orders-prod.json").await.json,
        json!({"server": {"port": "81"}, "list": ["a", "b"], "shared": true, "text": "a\nb"})
    );
    let yaml = get("/config/orders.yml").await;
    assert!(yaml.text.contains("server:\n  port: 80\n"), "{}", yaml.text);
    assert!(
        yaml.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    assert_eq!(
        get("/config/feature(_)x/orders-default.json").await.json,
        json!({"x": 1})
    );
    get("/config/orders-prod.txt")
        .await
        .is_problem(404, "configs.label_unknown");
    get("/config/nolabel/orders-default.yml")
        .await
        .is_problem(404, "configs.label_unknown");
    get("/config/or%20ders/default")
        .await
        .is_problem(400, "configs.item_invalid");
}

#[tokio::test]
async fn tokens_come_as_springs_clients_send_them() {
    for services_decrypt in [true, false] {
        let node = start_where(services_decrypt).await;
        let secret = Some(("application/json", json!({"value": "sekret"}).to_string()));
        let encrypted = node
            .admin
            .send("POST", "/v1/config/encrypt", secret)
            .await
            .json;
        let token = encrypted["value"].as_str().unwrap();
        put(
            &node.admin,
            "default/orders/default/main",
            &format!("password: '{token}'"),
            "yaml",
        )
        .await;
        let basic = |client: &Client| {
            let token = client.token.clone().unwrap();
            format!("Basic {}", STANDARD.encode(format!("user:{token}")))
        };
        for (client, is_open) in [(&node.admin, true), (&node.service, services_decrypt)] {
            let authorization = [("authorization", &*basic(client))];
            let by_password = node
                .anonymous
                .get_with("/config/orders/default", &authorization)
                .await
                .json;
            let by_token = client.get("/config/orders/default").await.json;
            let expected = match is_open {
                true => json!({"password": "sekret"}),
                false => json!({"invalid.password": "<n/a>"}),
            };
            for found in [by_password, by_token] {
                assert_eq!(found["propertySources"][0]["source"], expected);
            }
            let file = client.get("/config/orders-default.properties").await.text;
            assert_eq!(file.contains("sekret"), is_open, "{file}");
        }
        for bad in ["Basic ", "Basic !!", "Basic dXNlcjpub25l", "Digest x"] {
            let refused = node
                .anonymous
                .get_with("/config/orders/default", &[("authorization", bad)])
                .await;
            refused.is_problem(401, "api.unauthenticated");
        }
        // A password is no token elsewhere.
        let authorization = [("authorization", &*basic(&node.admin))];
        let elsewhere = node
            .anonymous
            .get_with("/v1/config/items", &authorization)
            .await;
        elsewhere.is_problem(401, "api.unauthenticated");
    }
}
