//! How many connections one address may have.

use sinew_gateway::{GatewayConfig, TlsConfig};

use crate::{
    authority::{Authority, ask_over_tls},
    support::*,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn limited(most: usize) -> GatewayConfig {
    let mut config = config(vec![route("/**", "app")]);
    // The limit is one for all threads.
    config.threads = Some(3);
    config.limits.connections_per_address = Some(most);
    config
}

/// A connection that was answered and stays.
fn kept(world: &World, header: &str) -> Client {
    let mut client = world.client();
    client.send(&format!("{header}{GET}"));
    assert_eq!(client.response().status(), 200);
    client
}

fn refused(world: &World, header: &str) {
    let mut client = world.client();
    client.send(header);
    let response = client.response();
    assert_eq!(
        (response.status(), response.code().as_str()),
        (429, "gateway.too_many_connections_of_address")
    );
    assert!(response.header("retry-after").is_some());
    assert!(client.0.closed());
}

#[test]
fn an_address_with_too_many_connections_is_told_so() {
    let service = Service::saying("hello");
    let world = World::with(limited(2), &[&service], None);
    let both = [kept(&world, ""), kept(&world, "")];
    refused(&world, "");
    assert_eq!(world.metric("sinew_gateway_client_addresses"), 1.0);
    let counted = "sinew_gateway_connections_refused_by_address_total";
    assert_eq!(world.metric(counted), 1.0);
    drop(both);
    world.eventually("room again", |world| {
        world.metric("sinew_gateway_client_addresses") == 0.0
    });
    kept(&world, "");
}

#[test]
fn behind_a_proxy_those_are_counted_for_whom_it_connects() {
    let service = Service::saying("hello");
    let mut config = limited(1);
    config.proxy_protocol_from = vec!["127.0.0.1".parse().unwrap()];
    let world = World::with(config, &[&service], None);
    let of =
        |family: &str, address: &str, to: &str| format!("PROXY {family} {address} {to} 1 2\r\n");
    let first = kept(&world, &of("TCP4", "192.0.2.1", "192.0.2.7"));
    let _other = kept(&world, &of("TCP4", "192.0.2.2", "192.0.2.7"));
    let _sixth = kept(&world, &of("TCP6", "2001:db8::1", "::1"));
    refused(&world, &of("TCP4", "192.0.2.1", "192.0.2.7"));
    refused(&world, &of("TCP6", "2001:db8::2", "::1"));
    // The proxy itself looks whether the gateway is well.
    let _checks = [
        kept(&world, "PROXY UNKNOWN\r\n"),
        kept(&world, "PROXY UNKNOWN\r\n"),
    ];
    drop(first);
    world.eventually("room again", |world| {
        world.metric("sinew_gateway_client_addresses") == 2.0
    });
    kept(&world, &of("TCP4", "192.0.2.1", "192.0.2.7"));
}

#[test]
fn addresses_can_be_left_out() {
    let service = Service::saying("hello");
    let mut config = limited(1);
    config.limits.uncounted_addresses = vec!["127.0.0.0/8".parse().unwrap()];
    let world = World::with(config, &[&service], None);
    let _many: Vec<_> = (0..4).map(|_| kept(&world, "")).collect();
}

#[test]
fn over_tls_nobody_shakes_hands_with_one_too_many() {
    let (service, authority) = (Service::saying("hello"), Authority::new());
    let mut config = limited(1);
    config.tls = Some(TlsConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        certificates: vec![authority.files("own", &["localhost"])],
        ..TlsConfig::default()
    });
    let world = World::with(config, &[&service], None);
    let tls = world.gateway.tls_address().unwrap();
    let one = kept(&world, "");
    let mut refused = Client::connect(tls);
    assert!(refused.0.closed());
    drop(one);
    world.eventually("room again", |world| {
        world.metric("sinew_gateway_client_addresses") == 0.0
    });
    let socket = std::net::TcpStream::connect(tls).unwrap();
    assert!(ask_over_tls(socket, &authority, "localhost", LAST).ends_with("hello"));
}

#[test]
fn a_limit_of_none_is_refused() {
    let start = |change: &dyn Fn(&mut GatewayConfig)| {
        let mut config = limited(1);
        change(&mut config);
        let discovery = std::sync::Arc::new(sinew_gateway::FixedDiscovery::new());
        let started = sinew_gateway::Gateway::start(config, discovery, None);
        started.err().map(|error| error.code().to_owned())
    };
    let invalid = Some("gateway.config_invalid".to_owned());
    assert_eq!(
        start(&|config| config.limits.connections_per_address = Some(0)),
        invalid
    );
    assert_eq!(
        start(&|config| {
            config.limits.connections_per_address = None;
            config.limits.uncounted_addresses = vec!["10.0.0.0/8".parse().unwrap()];
        }),
        invalid
    );
}
