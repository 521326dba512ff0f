//! The real software that benches and suites run beside or over Sinew, from the system's packages.

use anyhow::{Result, bail};

use crate::run::{installed, step};

struct Engine {
    name: &'static str,
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const ENGINES: &[Engine] = &[
    Engine {
        name: "nginx",
        program: "nginx",
        package: "nginx-light",
        why: "peer of the gateway",
    },
    Engine {
        name: "haproxy",
        program: "haproxy",
        package: "haproxy",
        why: "peer of the gateway",
    },
    Engine {
        name: "wrk",
        program: "wrk",
        package: "wrk",
        why: "load for the gateway's bench",
    },
];

/// The peers that `bench gateway` needs.
pub(crate) const GATEWAY_PEERS: &[&str] = &["nginx", "haproxy", "wrk"];

pub(crate) fn list() -> Result<()> {
    for Engine {
        name,
        program,
        package,
        why,
    } in ENGINES
    {
        let state = if installed(program) {
            "installed"
        } else {
            "absent"
        };
        println!("{name:<10} {state:<10} package {package:<12} {why}");
    }
    Ok(())
}

/// Installs what is absent; what cannot be installed is an error, never skipped.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let mut packages = Vec::new();
    for name in names {
        let Some(engine) = ENGINES.iter().find(|engine| engine.name == *name) else {
            let known: Vec<_> = ENGINES.iter().map(|engine| engine.name).collect();
            bail!("no engine {name:?}; known are {}", known.join(", "));
        };
        if !installed(engine.program) {
            packages.push(engine.package);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    step("apt-get", &["update", "-qq"], &[])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(packages);
    // Services that a package would start by itself would take ports and cores from the bench.
    step(
        "apt-get",
        &args,
        &[("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")],
    )
}
