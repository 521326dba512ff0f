//! What CI runs after the tests, cheapest first.

use anyhow::Result;

use crate::{check, run::step};

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
    step(
        "cargo",
        &["doc", "--workspace", "--no-deps", "--quiet"],
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
        ],
        &[],
    )?;
    println!("\nci: all green");
    Ok(())
}
