//! Real clients of the dialects, as their users install them, against a real `sinew serve`. Each is a
//! folder of `tests/clients`, whose `README.md` says what is in it.

use std::{
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sinew_testbed::{Program, Server, find};

use crate::{
    engines,
    run::{root, step},
};

/// How long a client's life may take.
const LIFE: Duration = Duration::from_secs(600);

/// Runs these clients, or all of them.
pub(crate) fn run(names: &[&str]) -> Result<()> {
    let clients = Client::all()?;
    let known = |name: &&&str| !clients.iter().any(|client| client.name == **name);
    if let Some(unknown) = names.iter().find(known) {
        let names: Vec<_> = clients.iter().map(|client| &*client.name).collect();
        bail!("no client {unknown:?}; known are {}", names.join(", "));
    }
    step("cargo", &["build", "-p", "sinew"], &[])?;
    let chosen = |client: &&Client| names.is_empty() || names.contains(&&*client.name);
    for client in clients.iter().filter(chosen) {
        println!("\n── {}", client.name);
        let life = client.install().and_then(|()| client.live());
        life.with_context(|| format!("{} does not work with Sinew", client.name))?;
    }
    Ok(())
}

/// What a client is written for.
#[derive(Clone, Copy)]
enum Runtime {
    Python,
    Node,
}

struct Client {
    name: String,
    /// Its folder in the repository.
    source: PathBuf,
    /// Its copy, with its packages.
    place: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// All there are, by name.
    fn all() -> Result<Vec<Self>> {
        let mut clients = Vec::new();
        for entry in fs::read_dir(root().join("tests/clients"))? {
            let source = entry?.path();
            let runtime = if source.join("requirements.txt").is_file() {
                Runtime::Python
            } else if source.join("package-lock.json").is_file() {
                Runtime::Node
            } else {
                ensure!(
                    !source.is_dir(),
                    "{} has neither requirements.txt nor package-lock.json",
                    source.display()
                );
                continue;
            };
            let name = source
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let place = programs()?.join("clients").join(&name);
            clients.push(Self {
                name,
                source,
                place,
                runtime,
            });
        }
        clients.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(clients)
    }

    /// Brings its packages, unless those that it asks for are there.
    fn install(&self) -> Result<()> {
        fs::create_dir_all(&self.place)?;
        for entry in fs::read_dir(&self.source)? {
            let file = entry?;
            if file.file_type()?.is_file() {
                fs::copy(file.path(), self.place.join(file.file_name()))?;
            }
        }
        let wanted = match self.runtime {
            Runtime::Python => fs::read_to_string(self.source.join("requirements.txt"))?,
            Runtime::Node => fs::read_to_string(self.source.join("package-lock.json"))?,
        };
        let stamp = self.place.join("installed");
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        let place = self.place.to_string_lossy();
        match self.runtime {
            Runtime::Python => {
                engines::install_packages(absent(&[("python3", "python3-venv")]))?;
                let venv = format!("{place}/venv");
                step("python3", &["-m", "venv", "--clear", &venv], &[])?;
                let requirements = format!("{place}/requirements.txt");
                let install = [
                    "install",
                    "--quiet",
                    "--no-deps",
                    "--requirement",
                    &requirements,
                ];
                step(&format!("{venv}/bin/pip"), &install, &[])?;
            }
            Runtime::Node => {
                engines::install_packages(absent(&[("node", "nodejs"), ("npm", "npm")]))?;
                let install = [
                    "ci",
                    "--prefix",
                    &place,
                    "--no-audit",
                    "--no-fund",
                    "--ignore-scripts",
                ];
                step("npm", &install, &[])?;
            }
        }
        fs::write(stamp, wanted)?;
        Ok(())
    }

    /// Lets it live beside a node of its own.
    fn live(&self) -> Result<()> {
        let node = Server::start(Node {
            config: self.place.join("sinew.toml"),
            program: programs()?.join("sinew"),
        })?;
        let folder = node.folder().to_owned();
        let read = |file: &str| fs::read_to_string(folder.join("data").join(file));
        let endpoints: Value = serde_json::from_str(&read("endpoints.json")?)?;
        let mut script = match self.runtime {
            Runtime::Python => Command::new(self.place.join("venv/bin/python")),
            Runtime::Node => Command::new("node"),
        };
        script.arg(match self.runtime {
            Runtime::Python => "life.py",
            Runtime::Node => "life.mjs",
        });
        script
            .current_dir(&self.place)
            .env("SINEW_TOKEN", read("service-token")?.trim())
            .env("SINEW_ADMIN_TOKEN", read("admin-token")?.trim())
            .env(
                "SINEW_CONTROL",
                endpoints["control"].as_str().unwrap_or_default(),
            );
        for (name, url) in endpoints["dialects"].as_object().into_iter().flatten() {
            let name = format!("SINEW_{}", name.to_uppercase().replace('-', "_"));
            script.env(name, url.as_str().unwrap_or_default());
        }
        // A proxy of the machine's has no business between programs on it.
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            script.env_remove(proxy);
        }
        let life = script.spawn().context("its script does not start")?;
        if let Err(error) = end_of(life) {
            let said = fs::read_to_string(folder.join("output.log")).unwrap_or_default();
            let from = said.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            return Err(error.context(format!("the node said:\n{}", &said[from..])));
        }
        Ok(())
    }
}

/// Waits until it ends well.
#[expect(
    clippy::disallowed_methods,
    reason = "a build task waits for other programs"
)]
fn end_of(mut life: Child) -> Result<()> {
    let since = Instant::now();
    loop {
        if let Some(status) = life.try_wait()? {
            ensure!(status.success(), "its script failed: {status}");
            return Ok(());
        }
        if since.elapsed() > LIFE {
            let _ = life.kill();
            let _ = life.wait();
            bail!("its script did not end within {} s", LIFE.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The packages of those programs that are not there.
fn absent(programs: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    let absent = |(program, package): &&(&str, &str)| find(program, &[], package).is_err();
    programs
        .iter()
        .filter(absent)
        .map(|(_, package)| *package)
        .collect()
}

/// Where cargo puts programs: this one is one of them.
fn programs() -> Result<PathBuf> {
    let this = env::current_exe()?;
    Ok(this
        .parent()
        .context("a program is in a folder")?
        .to_owned())
}

/// `sinew serve` with one client's configuration.
struct Node {
    config: PathBuf,
    program: PathBuf,
}

impl Program for Node {
    fn name(&self) -> &'static str {
        "sinew"
    }

    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn prepare(&self, _folder: &Path, _port: u16) -> Result<()> {
        Ok(())
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .arg("--data")
            .arg(folder.join("data"))
            .args(["--gateway", "127.0.0.1:0", "--control"])
            .arg(format!("127.0.0.1:{port}"));
        Ok(command)
    }

    fn is_ready(&self, folder: &Path, port: u16) -> bool {
        folder.join("data/endpoints.json").is_file()
            && TcpStream::connect(("127.0.0.1", port)).is_ok()
    }
}
