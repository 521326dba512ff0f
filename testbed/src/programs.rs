use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{find, run};

/// Where programs are put that no package of the system has: `SINEW_PROGRAMS`, or `sinew-programs` in the folder for
/// temporary files.
pub fn programs() -> PathBuf {
    match std::env::var_os("SINEW_PROGRAMS") {
        Some(folder) => folder.into(),
        None => std::env::temp_dir().join("sinew-programs"),
    }
}

/// A program of a Go module in [`programs`]; it is built when it is not there, which takes a minute or two.
pub(crate) fn go_program(name: &str, module: &str) -> Result<PathBuf> {
    let folder = programs();
    let program = folder.join(name);
    if !program.is_file() {
        fs::create_dir_all(&folder)?;
        let go = find("go", &["/usr/local/go/bin"], "golang-go")?;
        run(Command::new(go)
            .args(["install", module])
            .env("GOBIN", &folder))
        .with_context(|| format!("{name} cannot be built"))?;
    }
    Ok(program)
}
