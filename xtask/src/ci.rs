//! What CI runs after the tests, cheapest first.

use anyhow::Result;

use crate::{
    check, clients, corpus, engines, fuzz,
    run::{installed, step},
    suites,
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
    engines::conformance::run(true)?;
    corpus::run()?;
    // Always the same inputs: whether a change is sound shall not hang on chance.
    fuzz::run(&["--seconds", "8", "--seed", "1"])?;
    suites::run(&[])?;
    // Nodes that share a real engine.
    let nodes = ["-p", "sinew-node", "--features", "etcd,postgres"];
    step("cargo", &[&["test"][..], &nodes].concat(), &[])?;
    clients::run(&[])?;
    demo(&[], "embedded:")?;
    for (name, server) in [
        ("postgres", engines::start("postgres")?),
        ("etcd", engines::start("etcd")?),
    ] {
        demo(&["--features", "engines"], &engines::url(name, &server))?;
    }
    println!("\nci: all green");
    Ok(())
}

/// The main job, with its audit, over one engine.
fn demo(build: &[&str], kv: &str) -> Result<()> {
    let run = ["run", "--release"];
    let demo = ["--", "demo", "--orders", "200", "--kv", kv];
    let places = ["--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    step("cargo", &[&run, build, &demo, &places].concat(), &[])
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
