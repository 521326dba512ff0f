//! The gateway beside nginx and HAProxy: the same upstream, the same load, one core for the proxy
//! and the other for load and upstream, in alternating rounds.

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use crate::{
    Options,
    http::Connection,
    node::Node,
    process::Process,
    report::{self, Figure, ratio},
    wrk,
};

const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;
const CONNECTIONS: u32 = 64;
const UPSTREAM: u16 = 19080;
const SINEW: u16 = 19081;
const NGINX: u16 = 19082;
const HAPROXY: u16 = 19083;
const CONTROL: u16 = 19070;

/// Bytes in the reply's body.
const BODIES: [usize; 2] = [128, 10_240];

pub(crate) fn run(options: &Options) -> Result<()> {
    let (rounds, seconds) = if options.quick { (5, 1) } else { (31, 1) };
    let folder = tempfile::tempdir()?;
    let _upstream = start_upstream(folder.path())?;
    let node = Node::start(PROXY_CORE, SINEW, CONTROL, "/**", "upstream")?;
    node.register(
        &mut Connection::open(node.control_port)?,
        "upstream",
        "upstream-1",
        UPSTREAM,
    )?;
    let nginx = start_nginx(folder.path())?;
    let haproxy = start_haproxy(folder.path())?;
    let subjects = [(&node.process, SINEW), (&nginx, NGINX), (&haproxy, HAPROXY)];

    let mut figures = Vec::new();
    for body in BODIES {
        for (process, port) in subjects {
            check(process.name(), port, body)?;
        }
        let metrics: [(&'static str, &'static str); 4] = if body == BODIES[0] {
            [
                ("cpu 128 B", "µs/req"),
                ("rate 128 B", "req/s"),
                ("p50 128 B", "µs"),
                ("p99 128 B", "µs"),
            ]
        } else {
            [
                ("cpu 10 KB", "µs/req"),
                ("rate 10 KB", "req/s"),
                ("p50 10 KB", "µs"),
                ("p99 10 KB", "µs"),
            ]
        };
        let mut samples: Vec<[Vec<f64>; 4]> = vec![Default::default(); subjects.len()];
        for round in 0..=rounds {
            for turn in 0..subjects.len() {
                // The order rotates, so that nobody always follows the same neighbour.
                let subject = (turn + round) % subjects.len();
                let (process, port) = subjects[subject];
                let before = process.cpu_time()?;
                let url = format!("http://127.0.0.1:{port}/{body}");
                let load = wrk::run(LOAD_CORE, CONNECTIONS, seconds, &url)?;
                let cpu_us = (process.cpu_time()? - before).as_secs_f64() * 1e6 / load.requests;
                // The first round warms up.
                if round > 0 {
                    let values = [cpu_us, load.per_second, load.p50_us, load.p99_us];
                    for (samples, value) in samples[subject].iter_mut().zip(values) {
                        samples.push(value);
                    }
                }
            }
        }
        for (index, (metric, unit)) in metrics.into_iter().enumerate() {
            let figure = |subject: usize| {
                Figure::new(metric, subjects[subject].0.name(), unit)
                    .with(samples[subject][index].clone())
            };
            let (sinew, nginx, haproxy) = (figure(0), figure(1), figure(2));
            let ratios = [ratio(&sinew, &nginx), ratio(&sinew, &haproxy)];
            figures.extend([sinew, nginx, haproxy]);
            figures.extend(ratios);
        }
    }
    let conditions = format!(
        "HTTP/1.1 keep-alive, wrk -t1 -c{CONNECTIONS}, {rounds} rounds of {seconds} s in rotation; proxy on core \
         {PROXY_CORE}, wrk and upstream (nginx) on core {LOAD_CORE}; access logs off, X-Forwarded-For added by all, \
         Sinew's metrics on"
    );
    report::print("gateway", &conditions, &figures, options)
}

/// Every proxy must answer the same body before it is measured.
fn check(name: &str, port: u16, body: usize) -> Result<()> {
    let (status, text) = Connection::open(port)?.send("GET", &format!("/{body}"), None, "")?;
    ensure!(
        status == 200 && text.len() == body,
        "{name} answers {status} with {} bytes",
        text.len()
    );
    Ok(())
}

fn start_upstream(folder: &Path) -> Result<Process> {
    let folder = folder.join("upstream");
    fs::create_dir_all(&folder)?;
    for body in BODIES {
        fs::write(folder.join(body.to_string()), "x".repeat(body))?;
    }
    let path = folder.join("nginx.conf");
    let home = folder.display();
    fs::write(
        &path,
        format!(
            "worker_processes 1;\ndaemon off;\npid {home}/pid;\nerror_log {home}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 100000000; open_file_cache max=16; sendfile on; tcp_nopush on;\n\
             client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;\n\
             uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n\
             server {{ listen 127.0.0.1:{UPSTREAM} reuseport; root {home}; }} }}\n"
        ),
    )?;
    Process::start(
        "upstream",
        LOAD_CORE,
        &["nginx", "-c", &path.to_string_lossy()],
        UPSTREAM,
    )
}

fn start_nginx(folder: &Path) -> Result<Process> {
    let folder = folder.join("nginx");
    fs::create_dir_all(&folder)?;
    let path = folder.join("nginx.conf");
    let home = folder.display();
    fs::write(
        &path,
        format!(
            "worker_processes 1;\ndaemon off;\npid {home}/pid;\nerror_log {home}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 100000000;\n\
             client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;\n\
             uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n\
             upstream up {{ server 127.0.0.1:{UPSTREAM}; keepalive 128; keepalive_requests 100000000; }}\n\
             server {{ listen 127.0.0.1:{NGINX};\n\
             location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n\
             proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n"
        ),
    )?;
    Process::start(
        "nginx",
        PROXY_CORE,
        &["nginx", "-c", &path.to_string_lossy()],
        NGINX,
    )
}

fn start_haproxy(folder: &Path) -> Result<Process> {
    let path = folder.join("haproxy.cfg");
    fs::write(
        &path,
        format!(
            "global\n  nbthread 1\n  maxconn 4096\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  option forwardfor\n  http-reuse always\n\
             frontend in\n  bind 127.0.0.1:{HAPROXY}\n  http-request set-header X-Forwarded-Proto http\n  default_backend up\n\
             backend up\n  server up 127.0.0.1:{UPSTREAM} pool-max-conn 128\n"
        ),
    )?;
    let config = path.to_string_lossy();
    Process::start(
        "haproxy",
        PROXY_CORE,
        &["haproxy", "-db", "-f", &config],
        HAPROXY,
    )
}
