//! Arrows point down only (the table in ARCHITECTURE.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run::root;

/// What each crate of ours may use of ours. Development dependencies do not count.
const MAY_USE: &[(&str, &[&str])] = &[
    ("sinew-core", &[]),
    ("sinew-token", &["sinew-core"]),
    ("sinew-engine", &["sinew-core"]),
    ("sinew-engine-embedded", &["sinew-core", "sinew-engine"]),
    ("sinew-engine-external", &["sinew-core", "sinew-engine"]),
    ("sinew-coordination", &["sinew-core", "sinew-engine"]),
    ("sinew-launcher", &["sinew-core"]),
    ("sinew-gateway", &["sinew-core", "sinew-token"]),
    ("sinew-api", &["sinew-core", "sinew-coordination"]),
    ("sinew-sdk", &["sinew-core", "sinew-token"]),
    ("shop", &["sinew-core", "sinew-sdk", "sinew-token"]),
    (
        "sinew-node",
        &[
            "sinew-core",
            "sinew-token",
            "sinew-engine",
            "sinew-engine-embedded",
            "sinew-engine-external",
            "sinew-coordination",
            "sinew-launcher",
            "sinew-gateway",
            "sinew-api",
        ],
    ),
    (
        "sinew",
        &["sinew-core", "sinew-node", "sinew-launcher", "shop"],
    ),
    ("sinew-testbed", &[]),
    (
        "sinew-bench",
        &[
            "sinew-core",
            "sinew-engine",
            "sinew-engine-embedded",
            "sinew-engine-external",
            "sinew-testbed",
        ],
    ),
    ("xtask", &["sinew-testbed"]),
];

/// Blocks and the waist speak no wire protocol.
const NO_WIRE: &[&str] = &["sinew-core", "sinew-engine", "sinew-coordination"];
const WIRE: &[&str] = &[
    "http",
    "hyper",
    "hyper-util",
    "axum",
    "tonic",
    "prost",
    "tower-http",
];

/// Where errors may be untyped.
const MAY_USE_ANYHOW: &[&str] = &[
    "sinew-node",
    "sinew",
    "xtask",
    "sinew-bench",
    "sinew-testbed",
];

/// What nobody may pull in, however deep: a second TLS stack, a vulnerable crate, dead crates.
const BANNED: &[&str] = &[
    "openssl-sys",
    "native-tls",
    "aws-lc-sys",
    "rsa",
    "serde_yaml",
    "serde_yml",
    "openssl",
];

pub(crate) fn check() -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
        ])
        .current_dir(root())
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"]
        .as_array()
        .context("no packages in cargo metadata")?;
    let ours: BTreeSet<&str> = packages
        .iter()
        .filter(|package| package["source"].is_null())
        .filter_map(|package| package["name"].as_str())
        .collect();

    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if BANNED.contains(&name) {
            faults.push(format!(
                "crate {name} is banned, yet something depends on it (cargo tree -i {name})"
            ));
        }
        if !ours.contains(name) {
            continue;
        }
        let Some((_, may_use)) = MAY_USE.iter().find(|(crate_name, _)| *crate_name == name) else {
            faults.push(format!(
                "crate {name} is not in the dependency table of `xtask check`"
            ));
            continue;
        };
        for dependency in direct(package) {
            if ours.contains(dependency) && !may_use.contains(&dependency) {
                faults.push(format!(
                    "{name} may not use {dependency}: arrows point down only"
                ));
            }
            if NO_WIRE.contains(&name) && WIRE.contains(&dependency) {
                faults.push(format!(
                    "{name} may not name a wire protocol, but uses {dependency}"
                ));
            }
            if dependency == "anyhow" && !MAY_USE_ANYHOW.contains(&name) {
                faults.push(format!("{name} may not use anyhow: its errors are typed"));
            }
        }
    }
    faults.extend(server_in_services(&metadata));
    Ok(faults)
}

/// The direct, non-development dependencies of a package.
fn direct(package: &Value) -> impl Iterator<Item = &str> {
    package["dependencies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|dependency| dependency["kind"] != "dev")
        .filter_map(|dependency| dependency["name"].as_str())
}

/// A service never compiles the server, however deep.
fn server_in_services(metadata: &Value) -> Vec<String> {
    const SERVER: &[&str] = &[
        "sinew-engine",
        "sinew-engine-embedded",
        "sinew-coordination",
        "sinew-gateway",
        "sinew-api",
        "sinew-node",
        "sinew-launcher",
    ];
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| Some((package["name"].as_str()?, package)))
        .collect();
    let mut faults = Vec::new();
    for service in ["sinew-sdk", "shop"] {
        let mut seen = BTreeSet::new();
        let mut open = vec![service];
        while let Some(name) = open.pop() {
            if seen.insert(name)
                && let Some(package) = packages.get(name)
            {
                open.extend(direct(package));
            }
        }
        for server in SERVER.iter().filter(|server| seen.contains(*server)) {
            faults.push(format!(
                "{service} compiles {server}, but services never compile the server"
            ));
        }
    }
    faults
}
