//! The three proxies over one upstream, configured alike.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::{
    BODIES, CONTROL, HAPROXY, LOAD_CORE, NGINX, PROXY_CORE, Ports, SINEW, UPSTREAM, h2load,
};
use crate::{
    http::Connection,
    node::{Node, Settings},
    process::Process,
};

/// The one cipher of TLS 1.3 that all of them are let speak.
pub(super) const CIPHER: &str = "TLS_AES_256_GCM_SHA384";

/// Where things run.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Threads of Sinew and HAProxy, workers of nginx, and threads of the load.
    pub(super) threads: usize,
    pub(super) proxy: &'static str,
    pub(super) load: &'static str,
    /// Connections that nginx and HAProxy make room for.
    pub(super) room: usize,
}

impl Layout {
    /// The proxy alone on a core.
    pub(super) const ONE: Self = Self {
        threads: 1,
        proxy: PROXY_CORE,
        load: LOAD_CORE,
        room: 4_096,
    };
    /// Everything on both cores.
    pub(super) const TWO: Self = Self {
        threads: 2,
        proxy: "0,1",
        load: "0,1",
        room: 4_096,
    };
    /// For many connections.
    pub(super) const ROOMY: Self = Self {
        room: 11_000,
        ..Self::ONE
    };
}

pub(super) struct Rig {
    _upstream: Process,
    pub(super) node: Node,
    nginx: Process,
    haproxy: Process,
    _folder: TempDir,
}

/// A proxy under measurement.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) process: &'a Process,
    pub(super) ports: Ports,
}

impl Subject<'_> {
    pub(super) fn name(&self) -> &str {
        self.process.name()
    }
}

impl Rig {
    pub(super) fn start(layout: Layout) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let home = folder.path();
        write_certificate(home)?;
        let upstream = start_upstream(home, layout)?;
        let (cert, key) = (home.join("cert.pem"), home.join("key.pem"));
        let node = Node::start(&Settings {
            cores: layout.proxy,
            threads: layout.threads,
            gateway_port: SINEW.http,
            control_port: CONTROL,
            more: format!(
                "[gateway.tls]\naddress = \"127.0.0.1:{}\"\nminimum_version = \"1.3\"\n\
                 certificates = [{{ cert = {cert:?}, key = {key:?} }}]\n",
                SINEW.https
            ),
            path: "/**",
            service: "upstream",
        })?;
        let mut api = Connection::open(node.control_port)?;
        node.register(&mut api, "upstream", "upstream-1", UPSTREAM)?;
        let rig = Self {
            _upstream: upstream,
            node,
            nginx: start_nginx(home, layout)?,
            haproxy: start_haproxy(home, layout)?,
            _folder: folder,
        };
        for subject in rig.subjects() {
            check(&subject)?;
        }
        Ok(rig)
    }

    /// Sinew first.
    pub(super) fn subjects(&self) -> [Subject<'_>; 3] {
        let subject = |process, ports| Subject { process, ports };
        [
            subject(&self.node.process, SINEW),
            subject(&self.nginx, NGINX),
            subject(&self.haproxy, HAPROXY),
        ]
    }
}

/// Every proxy must answer the same over the same TLS before it is measured.
fn check(subject: &Subject<'_>) -> Result<()> {
    let name = subject.name();
    for body in BODIES {
        let mut connection = Connection::open(subject.ports.http)?;
        let (status, text) = connection.send("GET", &format!("/{body}"), None, "")?;
        ensure!(
            status == 200 && text.len() == body,
            "{name} answers {status} with {} bytes",
            text.len()
        );
    }
    let spoken = h2load::spoken(subject.ports.https)?;
    ensure!(
        spoken.contains("TLSv1.3") && spoken.contains(CIPHER),
        "{name} speaks {spoken:?}"
    );
    Ok(())
}

fn write_certificate(home: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(home.join("cert.pem"), &cert)?;
    fs::write(home.join("key.pem"), &key)?;
    // HAProxy wants both in one file.
    fs::write(home.join("both.pem"), cert + &key)?;
    Ok(())
}

/// The files that every nginx would make in the system's folders otherwise.
fn places(home: &Path) -> String {
    let home = home.display();
    format!(
        "client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;\n\
         uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;"
    )
}

fn start_upstream(home: &Path, layout: Layout) -> Result<Process> {
    let folder = home.join("upstream");
    fs::create_dir_all(&folder)?;
    for body in BODIES {
        fs::write(folder.join(body.to_string()), "x".repeat(body))?;
    }
    let path = folder.join("nginx.conf");
    let (home, places, threads) = (folder.display(), places(&folder), layout.threads);
    fs::write(
        &path,
        format!(
            "worker_processes {threads};\ndaemon off;\npid {home}/pid;\nerror_log {home}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 100000000; open_file_cache max=16; sendfile on; tcp_nopush on;\n\
             {places}\nserver {{ listen 127.0.0.1:{UPSTREAM} reuseport; root {home}; }} }}\n"
        ),
    )?;
    let command = ["nginx", "-c", &path.to_string_lossy()];
    Process::start("upstream", layout.load, &command, UPSTREAM)
}

fn start_nginx(home: &Path, layout: Layout) -> Result<Process> {
    let folder = home.join("nginx");
    fs::create_dir_all(&folder)?;
    let path = folder.join("nginx.conf");
    let (own, certs, places) = (folder.display(), home.display(), places(&folder));
    let Layout { threads, room, .. } = layout;
    let Ports { http, https, h2c } = NGINX;
    fs::write(
        &path,
        format!(
            "worker_processes {threads};\ndaemon off;\npid {own}/pid;\nerror_log {own}/error.log;\n\
             events {{ worker_connections {room}; }}\n\
             http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;\n{places}\n\
             upstream up {{ server 127.0.0.1:{UPSTREAM}; keepalive 128; keepalive_requests 100000000; }}\n\
             server {{ listen 127.0.0.1:{http} reuseport; listen 127.0.0.1:{https} ssl http2 reuseport;\n\
             listen 127.0.0.1:{h2c} http2 reuseport;\n\
             ssl_certificate {certs}/cert.pem; ssl_certificate_key {certs}/key.pem;\n\
             ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {CIPHER};\n\
             location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n\
             proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n"
        ),
    )?;
    let command = ["nginx", "-c", &path.to_string_lossy()];
    Process::start("nginx", layout.proxy, &command, http)
}

fn start_haproxy(home: &Path, layout: Layout) -> Result<Process> {
    let path = home.join("haproxy.cfg");
    let certs = home.display();
    let Layout { threads, room, .. } = layout;
    let Ports { http, https, h2c } = HAPROXY;
    fs::write(
        &path,
        format!(
            "global\n  no strict-limits\n  nbthread {threads}\n  maxconn {room}\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
             ssl-default-bind-ciphersuites {CIPHER}\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  option forwardfor\n  \
             http-reuse always\n\
             frontend in\n  bind 127.0.0.1:{http}\n  bind 127.0.0.1:{h2c} proto h2\n  \
             bind 127.0.0.1:{https} ssl crt {certs}/both.pem alpn h2,http/1.1\n  \
             http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}\n  \
             http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n  default_backend up\n\
             backend up\n  server up 127.0.0.1:{UPSTREAM} pool-max-conn 128\n"
        ),
    )?;
    let command = ["haproxy", "-db", "-f", &path.to_string_lossy()];
    Process::start("haproxy", layout.proxy, &command, http)
}
