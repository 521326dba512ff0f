use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::Result;

use crate::{Program, answers, find};

/// nginx as a proxy in front of one server, with what it does by default. It waits three seconds for clients.
#[derive(Clone, Copy, Debug)]
pub struct Nginx {
    /// Where everything goes.
    pub to: SocketAddr,
    /// Clients speak HTTP/2 with prior knowledge, and nothing else.
    pub http2: bool,
}

impl Program for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["nginx-light"]
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        let home = folder.display();
        // Its folder is open to its owner alone.
        let user = if nix::unistd::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let http2 = if self.http2 { " http2" } else { "" };
        let to = self.to;
        let text = format!(
            "{user}\nworker_processes 1;\ndaemon off;\npid {home}/pid;\nerror_log {home}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off;\n\
             client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;\n\
             uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n\
             client_header_timeout 3s; client_body_timeout 3s; keepalive_timeout 3s; lingering_timeout 1s;\n\
             upstream up {{ server {to}; keepalive 16; }}\n\
             server {{ listen 127.0.0.1:{port}{http2};\n\
             location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }} }} }}\n"
        );
        Ok(fs::write(folder.join("nginx.conf"), text)?)
    }

    fn command(&self, folder: &Path, _port: u16) -> Result<Command> {
        let mut command = Command::new(find("nginx", &[], "nginx-light")?);
        command.arg("-c").arg(folder.join("nginx.conf"));
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers(port)
    }
}
