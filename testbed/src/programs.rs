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

/// h2spec, which asks a server for what the specifications of HTTP/2 and HPACK say; built when it is absent.
pub fn h2spec() -> Result<PathBuf> {
    // Later versions have a path that Go refuses for their number.
    go_program(
        "h2spec",
        "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
    )
}
