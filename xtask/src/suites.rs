//! Public suites that ask the gateway, over real sockets, for what the specifications of its protocols say.

mod h2spec;
mod node;
mod websocket;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{
    engines,
    run::{root, step},
};

const SUITES: &[&str] = &["h2spec", "websocket"];

/// Runs the suites that are named, or all of them.
pub(crate) fn run(names: &[&str]) -> Result<()> {
    let names = if names.is_empty() { SUITES } else { names };
    if let Some(name) = names.iter().find(|name| !SUITES.contains(name)) {
        bail!("no suite {name:?}; known are {}", SUITES.join(", "));
    }
    // As the tests build it: what must never be is asserted, too.
    step("cargo", &["build", "-p", "sinew"], &[])?;
    for name in names {
        match *name {
            "h2spec" => h2spec::run()?,
            _ => websocket::run()?,
        }
    }
    Ok(())
}

/// The executable that is asked.
fn sinew() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("debug/sinew")
}

/// Where a suite leaves what it found, new and empty.
fn reports(name: &str) -> Result<PathBuf> {
    let folder = root().join("target/suites").join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Installs what a suite runs with.
fn install(names: &[&str]) -> Result<()> {
    engines::install(names)
}
