//! A Sinew node under measurement: the released binary, as a user runs it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{http::Connection, process::Process};

/// A running `sinew serve` with its data in a temporary folder.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) control_port: u16,
    token: String,
    _data: TempDir,
}

/// How a node runs.
pub(crate) struct Settings<'a> {
    /// As `taskset` names them: `0`, `0,1`.
    pub(crate) cores: &'a str,
    pub(crate) threads: usize,
    pub(crate) gateway_port: u16,
    pub(crate) control_port: u16,
    /// More lines of `sinew.toml`, tables of the gateway's.
    pub(crate) more: String,
    /// Its one route: from where, to what.
    pub(crate) path: &'a str,
    pub(crate) service: &'a str,
}

impl Node {
    /// Starts a node without an access log.
    pub(crate) fn start(settings: &Settings<'_>) -> Result<Self> {
        let Settings {
            cores,
            threads,
            gateway_port,
            control_port,
            more,
            path,
            service,
        } = settings;
        let data = tempfile::tempdir()?;
        let folder = data.path().join("data");
        let config = data.path().join("sinew.toml");
        fs::write(
            &config,
            format!(
                "[node]\ndata = {folder:?}\n\n\
                 [gateway]\naddress = \"127.0.0.1:{gateway_port}\"\nthreads = {threads}\naccess_log = \"off\"\n\n\
                 {more}\n[control]\naddress = \"127.0.0.1:{control_port}\"\n\n\
                 [[routes]]\npath = \"{path}\"\nservice = \"{service}\"\n"
            ),
        )?;
        let program = binary()?;
        let command = [
            program.to_string_lossy(),
            "serve".into(),
            "--config".into(),
            config.to_string_lossy(),
        ];
        let command: Vec<&str> = command.iter().map(AsRef::as_ref).collect();
        let mut process = Process::start("sinew", cores, &command, *control_port)?;
        process.wait_for(*gateway_port)?;
        let token = fs::read_to_string(folder.join("admin-token"))?
            .trim()
            .to_owned();
        Ok(Self {
            process,
            control_port: *control_port,
            token,
            _data: data,
        })
    }

    /// Stores a route, or another version of it; answers when this node serves it.
    pub(crate) fn set_route(&self, api: &mut Connection, name: &str, route: &str) -> Result<()> {
        let path = format!("/v1/routes/{name}");
        let (status, reply) = api.send("PUT", &path, Some(&self.token), route)?;
        ensure!(status == 200, "storing route {name}: {status} {reply}");
        Ok(())
    }

    /// Registers an instance on this machine; answers when the node has acknowledged it.
    pub(crate) fn register(
        &self,
        api: &mut Connection,
        service: &str,
        id: &str,
        port: u16,
    ) -> Result<()> {
        let path = format!("/v1/services/{service}/instances/{id}");
        let body = format!("{{\"address\":\"127.0.0.1\",\"port\":{port},\"ttl_ms\":600000}}");
        let (status, reply) = api.send("PUT", &path, Some(&self.token), &body)?;
        ensure!(
            status == 200 || status == 201,
            "registering {id}: {status} {reply}"
        );
        Ok(())
    }

    /// Takes an instance out.
    pub(crate) fn deregister(&self, api: &mut Connection, service: &str, id: &str) -> Result<()> {
        let path = format!("/v1/services/{service}/instances/{id}");
        let (status, reply) = api.send("DELETE", &path, Some(&self.token), "")?;
        ensure!(status == 204, "deregistering {id}: {status} {reply}");
        Ok(())
    }
}

/// The `sinew` binary that was built together with this one.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("sinew");
    ensure!(
        program.is_file(),
        "{} is not built: cargo build --release -p sinew",
        program.display()
    );
    program
        .canonicalize()
        .context("cannot find the sinew binary")
}
