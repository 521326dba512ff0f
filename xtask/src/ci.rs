//! What CI runs after the tests, cheapest first.

use anyhow::Result;

use crate::{
    check,
    run::{installed, step},
};

pub(crate) fn run() -> Result<()> {
    step("cargo", &["fmt", "--all", "--check"], &[])?;
    check::all()?;
    step(
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    )?;
    licences()?;
    step(
        "cargo",
        &[
            "doc",
            "--workspace",
            "--no-deps",
            "--all-features",
            "--quiet",
        ],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    step(
        "cargo",
        &[
            "run",
            "--release",
            "--",
            "demo",
            "--orders",
            "200",
            "--gateway",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
        ],
        &[],
    )?;
    println!("\nci: all green");
    Ok(())
}

/// Licences, bans and sources, by cargo-deny. Advisories need a database from the network, so they
/// are left to a run of `cargo deny check advisories` where there is one.
fn licences() -> Result<()> {
    if !installed("cargo-deny") {
        step(
            "cargo",
            &["install", "cargo-deny", "--locked", "--version", "0.20.2"],
            &[],
        )?;
    }
    step(
        "cargo",
        &[
            "deny",
            "--all-features",
            "check",
            "licenses",
            "bans",
            "sources",
        ],
        &[],
    )
}
