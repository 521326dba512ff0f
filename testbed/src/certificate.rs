use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{find, run};

/// Makes a certificate for 127.0.0.1 that signs itself: `server.crt`, with `server.key`, in this folder.
pub fn certificate(folder: &Path) -> Result<()> {
    run(Command::new(find("openssl", &[], "openssl")?)
        .current_dir(folder)
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", "server.key", "-out", "server.crt"])
        .args(["-subj", "/CN=sinew-test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"]))
}
