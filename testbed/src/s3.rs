use std::{fs, path::Path, process::Command};

use anyhow::Result;

use crate::{Program, answers, programs::go_program};

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

    /// Builds the server from its Go module into [`programs`](crate::programs), unless it is there.
    pub fn install() -> Result<()> {
        go_program("versitygw", MODULE).map(drop)
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
        let mut command = Command::new(go_program("versitygw", MODULE)?);
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
