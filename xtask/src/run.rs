//! Running other programs, loudly.

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}

/// Says what it runs, runs it in the workspace's root and fails when it fails.
#[expect(
    clippy::disallowed_methods,
    reason = "a build task tells how long its steps took"
)]
pub(crate) fn step(program: &str, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    println!("\n── {program} {}", args.join(" "));
    let start = Instant::now();
    let status = Command::new(program)
        .args(args)
        .envs(env.iter().copied())
        .current_dir(root())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    println!("── {program}: {:.0} s", start.elapsed().as_secs_f64());
    ensure!(
        status.success(),
        "`{program} {}` failed: {status}",
        args.join(" ")
    );
    Ok(())
}

/// Whether `program` can be found.
pub(crate) fn installed(program: &str) -> bool {
    // Debian keeps servers in sbin, which is not on every user's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}
