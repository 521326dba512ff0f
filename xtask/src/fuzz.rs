//! The fuzz targets of the gateway, which are tests that take their time and seed from the environment.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::run::step;

/// Runs the targets whose names hold the one given, all of them otherwise. Another seed each time unless one is given;
/// what fails names it.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let (mut target, mut seconds, mut seed) = ("", "10", clock().to_string());
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().with_context(|| format!("{option} what?"));
        match *option {
            "--seconds" => seconds = value()?,
            "--seed" => seed = (*value()?).to_owned(),
            option if option.starts_with("--") => bail!("no such option: {option}"),
            name => target = name,
        }
    }
    for number in [seconds, &seed] {
        let read = number.parse::<u64>();
        read.with_context(|| format!("{number:?} is no number"))?;
    }
    println!("seed {seed}, {seconds} s each");
    let name = if target.is_empty() { "fuzz::" } else { target };
    let test = ["test", "-p", "sinew-gateway", "--lib", name];
    let environment = [("SINEW_FUZZ_SECONDS", seconds), ("SINEW_FUZZ_SEED", &seed)];
    step(
        "cargo",
        &[&test[..], &["--", "--nocapture"]].concat(),
        &environment,
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "any number will do that is another each time"
)]
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
