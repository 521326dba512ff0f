//! A service in one file: greets, counts, and calls itself by name. The guide walks through it.
//!
//! ```text
//! cargo run -p sinew-sdk --example hello
//! ```

use std::process::ExitCode;

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use sinew_sdk::{
    Client, Error, Json, Kind, Path, Problem, Service, client::segment, metrics::Counter,
};

/// From the environment: `HELLO_GREETING`.
#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    greeting: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            greeting: "hello".into(),
        }
    }
}

#[derive(Clone)]
struct App {
    greeting: String,
    greeted: Counter,
    client: Client,
}

#[derive(Serialize, Deserialize)]
struct Greeting {
    text: String,
}

#[derive(Deserialize)]
struct Order {
    name: String,
}

/// `GET /hello/{name}`
async fn hello(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Greeting>, Problem> {
    if name.len() > 50 {
        let message = "a name has at most 50 characters";
        return Err(Error::new(Kind::InvalidArgument, "hello.name_too_long", message).into());
    }
    app.greeted.add(1);
    Ok(Json(Greeting {
        text: format!("{}, {name}", app.greeting),
    }))
}

/// `POST /via` `{"name":"Ada"}`: the same through the registry, as any other service would call.
async fn via(State(app): State<App>, Json(order): Json<Order>) -> Result<Json<Greeting>, Problem> {
    let path = format!("/hello/{}", segment(&order.name));
    let reply = app.client.get("hello", path).send().await?;
    Ok(Json(reply.error_for_status()?.json()?))
}

fn main() -> ExitCode {
    sinew_sdk::main(async {
        let service = Service::new("hello")?;
        let settings: Settings = service.config("HELLO")?;
        let app = App {
            greeting: settings.greeting,
            greeted: service
                .metrics()
                .counter("hello_greeted_total", "Greetings.", &[]),
            client: service.client(),
        };
        let router = Router::new()
            .route("/hello/{name}", get(hello))
            .route("/via", post(via))
            .with_state(app);
        service
            .routes(router)
            .ready_check("always", || async { Ok(()) })
            .run()
            .await
    })
}
