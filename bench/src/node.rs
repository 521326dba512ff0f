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

impl Node {
    /// Starts a node on `core` with one gateway thread and one route, `path` to `service`.
    pub(crate) fn start(
        core: usize,
        gateway_port: u16,
        control_port: u16,
        path: &str,
        service: &str,
    ) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let folder = data.path().join("data");
        let config = data.path().join("sinew.toml");
        fs::write(
            &config,
            format!(
                "[node]\ndata = {folder:?}\n\n\
                 [gateway]\naddress = \"127.0.0.1:{gateway_port}\"\nthreads = 1\naccess_log = \"off\"\n\n\
                 [control]\naddress = \"127.0.0.1:{control_port}\"\n\n\
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
        let mut process = Process::start("sinew", core, &command, control_port)?;
        process.wait_for(gateway_port)?;
        let token = fs::read_to_string(folder.join("admin-token"))?
            .trim()
            .to_owned();
        Ok(Self {
            process,
            control_port,
            token,
            _data: data,
        })
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
