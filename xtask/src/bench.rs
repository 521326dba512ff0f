//! Benches beside peers. The measuring itself lives in the `sinew-bench` crate.

use anyhow::Result;

use crate::{
    engines,
    run::{root, step},
};

pub(crate) fn run(name: &str, options: &[&str]) -> Result<()> {
    engines::install(peers(name))?;
    step(
        "cargo",
        &["build", "--release", "-p", "sinew", "-p", "sinew-bench"],
        &[],
    )?;
    let target = std::env::var("CARGO_TARGET_DIR")
        .map_or_else(|_| root().join("target"), std::path::PathBuf::from);
    let program = target.join("release/sinew-bench");
    let mut args = vec![name];
    args.extend(options);
    step(&program.to_string_lossy(), &args, &[])
}

/// The servers that a bench runs beside.
fn peers(name: &str) -> &'static [&'static str] {
    match name {
        "gateway" => engines::GATEWAY_PEERS,
        "blob" => &["s3"],
        "bus" => &["nats", "nats-synced", "rabbitmq", "redis"],
        "cache" => &["memcached", "redis"],
        "kv" => &["etcd", "postgres"],
        "sql" => &["postgres"],
        _ => &[],
    }
}
