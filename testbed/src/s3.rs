use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{Program, answers, find, run};

/// What is installed, and by which version of the module that holds it.
const MODULE: &str = "github.com/versity/versitygw/cmd/versitygw@v1.8.0";

/// An S3 server: versitygw over a folder of its own. It has one bucket, and one account.
#[derive(Clone, Debug, Default)]
pub struct S3;

impl S3 {
    /// The bucket.
    pub const BUCKET: &str = "testbed";
    /// The account's access key.
    pub const ACCESS_KEY: &str = "testbed";
    /// Its secret.
    pub const SECRET: &str = "testbed-secret";

    /// Where [`S3::install`] puts programs.
    pub fn programs() -> PathBuf {
        match std::env::var_os("SINEW_PROGRAMS") {
            Some(folder) => folder.into(),
            None => std::env::temp_dir().join("sinew-programs"),
        }
    }

    /// Builds the server from its Go module into [`S3::programs`], unless it is there. It takes a minute or two.
    pub fn install() -> Result<()> {
        let folder = Self::programs();
        if folder.join("versitygw").is_file() {
            return Ok(());
        }
        fs::create_dir_all(&folder)?;
        let go = find("go", &["/usr/local/go/bin"], "golang-go")?;
        run(Command::new(go)
            .args(["install", MODULE])
            .env("GOBIN", &folder))
        .context("versitygw cannot be built")
    }
}

impl Program for S3 {
    fn name(&self) -> &'static str {
        "versitygw"
    }

    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn prepare(&self, folder: &Path, _port: u16) -> Result<()> {
        Self::install()?;
        Ok(fs::create_dir_all(folder.join("data").join(Self::BUCKET))?)
    }

    fn command(&self, folder: &Path, port: u16) -> Result<Command> {
        let programs = Self::programs();
        let programs = programs.to_str().context("a path that is not UTF-8")?;
        let mut command = Command::new(find("versitygw", &[programs], "versitygw")?);
        command
            .args(["--access", Self::ACCESS_KEY, "--secret", Self::SECRET])
            .args(["--port", &format!("127.0.0.1:{port}"), "--quiet", "posix"])
            .arg(folder.join("data"));
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers(port)
    }
}
