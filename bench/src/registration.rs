//! From the call that registers an instance to the first request that the gateway brings it.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    Options,
    http::Connection,
    node::{Node, Settings},
    report::{self, Figure, quantile},
};

const GATEWAY: u16 = 19181;
const CONTROL: u16 = 19170;

pub(crate) fn run(options: &Options) -> Result<()> {
    let (rounds, each) = if options.quick { (3, 50) } else { (7, 300) };
    let port = start_instance()?;
    let node = Node::start(&Settings {
        cores: "0",
        threads: 1,
        gateway_port: GATEWAY,
        control_port: CONTROL,
        more: String::new(),
        path: "/probe",
        service: "probe",
    })?;
    let mut api = Connection::open(node.control_port)?;
    let mut gateway = Connection::open(GATEWAY)?;

    let (mut p50, mut p99, mut acknowledged) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (mut routed_us, mut answered_us) = (Vec::new(), Vec::new());
        for n in 0..each {
            let id = format!("probe-{round}-{n}");
            let start = Instant::now();
            node.register(&mut api, "probe", &id, port)?;
            answered_us.push(start.elapsed().as_secs_f64() * 1e6);
            until(&mut gateway, 200)?;
            routed_us.push(start.elapsed().as_secs_f64() * 1e6);
            node.deregister(&mut api, "probe", &id)?;
            until(&mut gateway, 503)?;
        }
        // The first round warms up.
        if round > 0 {
            p50.push(quantile(&routed_us, 0.5));
            p99.push(quantile(&routed_us, 0.99));
            acknowledged.push(quantile(&answered_us, 0.5));
        }
    }
    let figure = |metric: &str, samples| Figure::new(metric, "sinew", "µs").with(samples);
    let figures = [
        figure("registered p50", acknowledged),
        figure("first request p50", p50),
        figure("first request p99", p99),
    ];
    let conditions = format!(
        "{rounds} rounds of {each} registrations one after the other, durable (one fsync each), a request tried \
         as soon as the registration is acknowledged; node on core 0, gateway with one thread"
    );
    report::print("registration", &conditions, &figures, options)
}

/// Asks until the gateway answers `wanted`.
fn until(gateway: &mut Connection, wanted: u16) -> Result<()> {
    let start = Instant::now();
    loop {
        let (status, body) = gateway.send("GET", "/probe", None, "")?;
        if status == wanted {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(5),
            "still {status} after 5 s: {body}"
        );
    }
}

/// A service that answers 200 to everything; a thread per connection.
fn start_instance() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                // A request without a body fits one read.
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    if stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                        .is_err()
                    {
                        break;
                    }
                }
            });
        }
    });
    Ok(port)
}
