//! The framework that services are built with: an axum router becomes a service that registers
//! itself, is found by name, calls others by name, reports its health and metrics, and stops
//! without losing a request.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use axum::{Router, extract::State, routing::{get, post}};
//! use serde::{Deserialize, Serialize};
//! use sinew_core::{Error, Kind};
//! use sinew_sdk::{
//!     Client, Json, Path, Problem, Service, ServiceKey,
//!     auth::{Admin, Auth, User},
//! };
//!
//! #[derive(Deserialize)]
//! #[serde(default)]
//! struct Settings {
//!     currency: String, // SHOP_CURRENCY
//!     max_items: u32,   // SHOP_MAX_ITEMS
//! }
//!
//! impl Default for Settings {
//!     fn default() -> Self {
//!         Self { currency: "EUR".into(), max_items: 100 }
//!     }
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Charge {
//!     order_id: String,
//!     cents: u64,
//! }
//!
//! // `?` turns a `sinew_core::Error` into problem details with the right status.
//! async fn pay(
//!     State(client): State<Client>,
//!     user: User, // 401 without a good bearer token
//!     Path(order_id): Path<String>,
//!     Json(charge): Json<Charge>, // 400 as problem details when it cannot be read
//! ) -> Result<Json<Charge>, Problem> {
//!     if charge.cents == 0 {
//!         let error = Error::new(Kind::InvalidArgument, "shop.invalid_request", "nothing to pay");
//!         return Err(Problem::from(error).with("order_id", order_id));
//!     }
//!     let reply = client
//!         .put("payments", format!("/internal/payments/{order_id}"))
//!         .json(&charge)
//!         .internal()            // adds X-Service-Key
//!         .bearer(user.token())  // passes the user's token on
//!         .send()
//!         .await?                // no instance, timeout: an Error with code sdk.…
//!         .error_for_status()?;  // 4xx and 5xx: the Error that the other service answered
//!     Ok(Json(reply.json()?))
//! }
//!
//! async fn everything(_: Admin) -> &'static str { "for admins" }
//! async fn internal(_: ServiceKey) -> &'static str { "for other services" }
//!
//! fn main() -> ExitCode {
//!     sinew_sdk::main(async {
//!         let service = Service::new("orders")?;
//!         let settings: Settings = service.config("SHOP")?;
//!         let paid = service.metrics().counter("orders_paid_total", "Orders paid.", &[]);
//!         paid.add(1);
//!         tracing::info!(currency = settings.currency, "starting");
//!         let auth = Auth::new(&service.client(), "shop", "shop")
//!             .keys("users", "/.well-known/jwks.json")
//!             .revocations("users", "/.well-known/revoked.json");
//!         let router = Router::new()
//!             .route("/orders/{id}/pay", post(pay))
//!             .route("/everything", get(everything))
//!             .route("/internal/x", get(internal))
//!             .with_state(service.client());
//!         service
//!             .auth(auth)
//!             .ready_check("database", || async { Ok(()) })
//!             .routes(router)
//!             .run()
//!             .await
//!     })
//! }
//! ```
//!
//! # What a service gets
//! - **Its place**: listens on `127.0.0.1:PORT` (0 or absent: any free port), registers at
//!   `SINEW_URL` with a lease, keeps it alive, and registers again by itself when the node forgot it.
//!   Without `SINEW_URL` it serves alone. It starts and serves also while the node is away.
//! - **Endpoints**: `/health/live`, `/health/ready`, `/metrics` (Prometheus text). Do not define them
//!   yourself: axum refuses a route twice with a panic at start.
//! - **Around each handler**: a span with request id and W3C trace context, metrics per matched
//!   route, a limit of body size, of time, and of requests at once, and a 500 instead of a broken
//!   connection when it panics. Unknown routes and methods answer problem details.
//! - **A [`Client`]** that finds instances by watching the registry, balances, retries what is safe
//!   to repeat, and hands on trace, request id and the time that is left.
//! - **[`Settings`]** from the node's config centre: typed, checked, followed as they change, and kept in a
//!   file for starts while the node is away.
//! - **An orderly end** on SIGTERM or Ctrl-C: not ready, draining, a short grace for callers to
//!   notice, deregistered, requests in flight finished, exit.
//!
//! # Environment
//! | variable | meaning | default |
//! |---|---|---|
//! | `PORT` | port to listen on; 0 = any | 0 |
//! | `SINEW_URL`, `SINEW_TOKEN` | the node's control API and the service token | stand-alone |
//! | `SINEW_SERVICE` | name to register as | the one in the code |
//! | `SINEW_INSTANCE` | id of this instance | `<name>-<random>` |
//! | `SINEW_DATA` | folder for the service's own files | `.` |
//! | `SINEW_SERVICE_KEY` | secret shared by services, for [`ServiceKey`] and [`client::Request::internal`] | none: such calls are refused |
//! | `SINEW_PARENT_PID` | stop when this process is gone | none |
//! | `SINEW_LOG` | filter, such as `info,orders=debug` | `info` |
//!
//! Logs go to standard error: JSON lines, or readable ones on a terminal.

#![warn(missing_docs)]

pub mod auth;
pub mod client;
mod config;
mod context;
mod discovery;
mod environment;
mod extract;
mod logs;
pub mod metrics;
mod node;
mod problem;
mod registration;
mod runtime;
mod server;
mod service;
mod service_key;
pub mod settings;
mod signals;
mod status;

pub use client::Client;
pub use config::config;
pub use environment::Environment;
pub use extract::{Json, Path, Query};
pub use metrics::Metrics;
pub use problem::Problem;
pub use runtime::{main, run_blocking};
pub use service::{Running, Service};
pub use service_key::ServiceKey;
pub use settings::Settings;
/// What errors are made of, so that a service needs no other crate of Sinew for its handlers.
pub use sinew_core::{Clock, Drain, Error, Kind, Result, Retry};
