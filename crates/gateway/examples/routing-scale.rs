//! What routes and instances cost: time per lookup, memory for each, time per change.
//!
//! `cargo run --release -p sinew-gateway --example routing-scale`

#![expect(clippy::disallowed_methods, reason = "real time is what it measures")]

use std::{
    error::Error,
    hint::black_box,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use sinew_core::Name;
use sinew_gateway::{FixedDiscovery, Gateway, GatewayConfig, Question, Route, Router, Routing};

const MANY: usize = 10_000;
const FEW: usize = 10;
const INSTANCES_PER_SERVICE: u8 = 5;
const THREADS: usize = 2;
const LOOKUPS: usize = 1 << 18;
const BATCH: usize = 16;
const ROUNDS: usize = 5;
const CHANGES: usize = 50;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What kinds of routes there are, and a request that the route of this number takes.
struct Shape {
    name: &'static str,
    route: fn(usize) -> Outcome<Route>,
    request: fn(usize) -> (String, String),
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "exact path",
        route: |n| route(&format!("/v1/service-{n}/list"), n),
        request: |n| ("shop.example".into(), format!("/v1/service-{n}/list")),
    },
    Shape {
        name: "prefix",
        route: |n| route(&format!("/v1/service-{n}/**"), n),
        request: |n| ("shop.example".into(), format!("/v1/service-{n}/items/7")),
    },
    Shape {
        name: "template",
        route: |n| route(&format!("/v1/service-{n}/{{id}}/items/{{item}}"), n),
        request: |n| ("shop.example".into(), format!("/v1/service-{n}/42/items/7")),
    },
    Shape {
        name: "host",
        route: |n| {
            let mut route = route("/**", n)?;
            route.host = Some(format!("tenant-{n}.shop.example"));
            Ok(route)
        },
        request: |n| (format!("tenant-{n}.shop.example"), "/v1/items/7".into()),
    },
    Shape {
        name: "method",
        route: |n| {
            let mut route = route(&format!("/v1/service-{}/**", n / 2), n)?;
            if n % 2 == 1 {
                route.methods = vec!["GET".to_owned()];
            }
            Ok(route)
        },
        request: |n| {
            (
                "shop.example".into(),
                format!("/v1/service-{}/items/7", n / 2),
            )
        },
    },
];

fn route(path: &str, service: usize) -> Outcome<Route> {
    Ok(Route::new(
        path.parse()?,
        Name::new(&format!("service-{service}"))?,
    ))
}

fn main() -> Outcome<()> {
    // First, so that memory that was given back does not count as none.
    gateway()?;
    for (skewed, how) in [
        (false, "spread evenly over all routes"),
        (true, "nine in ten for a hundredth of the routes"),
    ] {
        println!("\nlookup, ns (median of batches of {BATCH}; requests {how})");
        println!("{:<12} {FEW:>8} {MANY:>8}   ratio", "routes");
        for shape in &SHAPES {
            let [few, many] = lookups(shape, skewed)?;
            let ratio = many / few;
            println!("{:<12} {few:>8.1} {many:>8.1} {ratio:>7.2}", shape.name);
        }
    }
    Ok(())
}

/// Nanoseconds per lookup with few and with many routes, in alternating rounds.
fn lookups(shape: &Shape, skewed: bool) -> Outcome<[f64; 2]> {
    let mut subjects = Vec::new();
    for count in [FEW, MANY] {
        let routes: Outcome<Vec<Route>> = (0..count).map(shape.route).collect();
        let requests: Vec<_> = (0..count).map(shape.request).collect();
        // Fixed walks: one visits all in no order that a cache could guess, the other mostly a few.
        let walk: Vec<usize> = (0..LOOKUPS)
            .map(|step| match step.wrapping_mul(7_919) {
                at if skewed && step % 10 > 0 => at % count.min(FEW * 10),
                at => at % count,
            })
            .collect();
        subjects.push((Router::build(routes?)?, requests, walk, Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (router, requests, walk, samples) in &mut subjects {
            for batch in walk.chunks_exact(BATCH) {
                // A request is fresh in memory when it is looked up: copying it brings it there.
                let batch: Vec<_> = batch.iter().map(|at| requests[*at].clone()).collect();
                let begun = Instant::now();
                for (host, path) in &batch {
                    let asked = Question {
                        host,
                        path,
                        query: "",
                        method: "GET",
                        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
                        fields: &(),
                    };
                    if black_box(router.find(&asked)).is_none() {
                        return Err("no route takes its own request".into());
                    }
                }
                samples.push(begun.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
            }
        }
    }
    Ok([median(&mut subjects[0].3), median(&mut subjects[1].3)])
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Memory and changes in a running gateway.
fn gateway() -> Outcome<()> {
    // Nobody listens there: connecting fails at once, which is all that the instances are asked for.
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let discovery = Arc::new(FixedDiscovery::new());
    let config = GatewayConfig {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        threads: Some(THREADS),
        ..GatewayConfig::default()
    };
    let gateway = Gateway::start(config, discovery.clone(), None)?;
    let routes: Outcome<Vec<Route>> = (0..MANY).map(SHAPES[1].route).collect();
    let mut routing = Routing {
        routes: routes?,
        ..Routing::default()
    };

    let before = resident()?;
    let begun = Instant::now();
    gateway.set_routing(routing.clone())?;
    println!(
        "first set_routing with {MANY} routes: {:.1} ms",
        milliseconds(begun)
    );
    report(
        "bytes per route, its service and its metrics",
        resident()? - before,
        MANY,
    );

    let before = resident()?;
    for number in 0..MANY {
        let name = Name::new(&format!("service-{number}"))?;
        let address = |host: u8| SocketAddr::from(([127, 0, 1, host], nobody));
        let addresses: Vec<_> = (1..=INSTANCES_PER_SERVICE).map(address).collect();
        discovery.set(&name, endpoints(&name, &addresses)?);
    }
    let instances = MANY * usize::from(INSTANCES_PER_SERVICE);
    report(
        "bytes per instance, as discovery tells it",
        resident()? - before,
        instances,
    );
    let before = resident()?;
    ask_all(gateway.address())?;
    report(
        "bytes per instance on the thread that was asked",
        resident()? - before,
        instances,
    );

    let (mut none, mut one, mut matcher) = (Vec::new(), Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let same = routing.clone();
        let begun = Instant::now();
        gateway.set_routing(same)?;
        none.push(milliseconds(begun));
        routing.routes[change * 7].timeout = Duration::from_secs(change as u64 + 20);
        let changed = routing.clone();
        let begun = Instant::now();
        gateway.set_routing(changed)?;
        one.push(milliseconds(begun));
        routing.routes[change * 7].methods = vec!["GET".to_owned()];
        let changed = routing.clone();
        let begun = Instant::now();
        gateway.set_routing(changed)?;
        matcher.push(milliseconds(begun));
    }
    println!("set_routing with {MANY} routes, ms (the fastest of {CHANGES}):");
    for (what, samples) in [
        ("nothing changed", &none),
        ("a timeout changed", &one),
        ("a matcher changed", &matcher),
    ] {
        println!(
            "  {what}: {:.2}",
            samples.iter().copied().fold(f64::MAX, f64::min)
        );
    }
    Ok(())
}

fn endpoints(name: &Name, addresses: &[SocketAddr]) -> Outcome<Vec<sinew_gateway::Endpoint>> {
    let endpoint = |address: &SocketAddr| {
        Ok(sinew_gateway::Endpoint {
            id: sinew_core::InstanceId::new(&format!("{name}-{}", address.ip()))?,
            address: *address,
            status: sinew_gateway::EndpointStatus::Up,
            metadata: Arc::default(),
        })
    };
    addresses.iter().map(endpoint).collect()
}

/// One request to every service, on one connection, so that one thread makes what it needs for them.
fn ask_all(address: SocketAddr) -> Outcome<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = [0; 4_096];
    for number in 0..MANY {
        stream.write_all(
            format!("GET /v1/service-{number}/x HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
        )?;
        let mut answer = Vec::new();
        // The gateway's own answer ends with its problem's last brace.
        while !answer.ends_with(b"}") {
            match stream.read(&mut buffer)? {
                0 => return Err("the gateway hung up".into()),
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
        if !answer.starts_with(b"HTTP/1.1 503 ") {
            return Err(String::from_utf8_lossy(&answer).into());
        }
    }
    Ok(())
}

fn report(what: &str, bytes: u64, count: usize) {
    println!("{what}: {}", bytes / count as u64);
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// What the process holds in memory, in bytes.
fn resident() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    Ok(kib.ok_or("no VmRSS")?.trim().parse::<u64>()? * 1_024)
}
