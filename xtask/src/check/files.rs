//! Files tell one story. Long ones are listed; very long ones, and `mod.rs`, are refused.

use std::fs;

use anyhow::Result;

use super::{files_with, shown};

/// Beyond this a file is listed.
const LONG: usize = 500;
/// Beyond this it is refused.
const TOO_LONG: usize = 800;

pub(crate) fn check() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for folder in ["crates", "examples", "bench", "xtask"] {
        for path in files_with(folder, "rs")? {
            let shown = shown(&path);
            if path.ends_with("mod.rs") {
                faults.push(format!(
                    "{shown}: name the file after its module, not mod.rs"
                ));
            }
            if shown.contains("/tests") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let code = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            let lines = code.lines().count();
            if lines > TOO_LONG {
                faults.push(format!(
                    "{shown}: {lines} lines without tests, at most {TOO_LONG}"
                ));
            } else if lines > LONG {
                println!("check: {shown} has {lines} lines without tests (aim: {LONG})");
            }
        }
    }
    Ok(faults)
}
