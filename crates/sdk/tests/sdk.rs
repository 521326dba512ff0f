//! The framework against a node that the test plays, over real sockets.

#![expect(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "sdk/auth.rs"]
mod auth;
#[path = "sdk/client.rs"]
mod client;
#[path = "sdk/fake_node.rs"]
mod fake_node;
#[path = "sdk/process.rs"]
mod process;
#[path = "sdk/registration.rs"]
mod registration;
#[path = "sdk/server.rs"]
mod server;
#[path = "sdk/settings.rs"]
mod settings;

use std::{net::SocketAddr, time::Duration};

use sinew_sdk::{Client, Environment, Running, Service};

/// Waits until `condition` holds; gives up, loudly, after a time that no healthy run needs.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        for _ in 0..1500 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: not within 15 s, at {place}");
    }
}

/// A service without a node.
fn alone(name: &str) -> Service {
    Service::with_environment(name, Environment::default()).unwrap()
}

/// A client that finds `service` at this address.
fn to(service: &str, address: SocketAddr) -> Client {
    Client::fixed([(service, address)], None).unwrap()
}

/// A client to this service, as `it`.
fn to_running(running: &Running) -> Client {
    to("it", running.address())
}

/// An address that refuses connections.
async fn refusing_address() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
