use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{Program, answers, programs, run};

const VERSION: &str = "25.10.1";
/// Names a Python 2.7 where none is found.
const PYTHON: &str = "SINEW_PYTHON2";

/// Autobahn|Testsuite, which sends a WebSocket server some 500 cases of what clients do and should not do.
/// It needs Python 2.7, and comes with all that it needs besides into a folder of its own in [`programs`].
#[derive(Clone, Debug)]
pub struct Autobahn {
    base: PathBuf,
}

impl Autobahn {
    /// The folder in [`programs`].
    pub const FOLDER: &str = "autobahn-25.10.1";

    /// Sees to it that it is there.
    pub fn install() -> Result<()> {
        Self::open().map(drop)
    }

    /// Finds it, and fetches it from Python's package index first when it is absent.
    pub fn open() -> Result<Self> {
        let base = programs().join(Self::FOLDER);
        if !base.is_dir() {
            let fetched = base.with_extension(format!("new-{}", std::process::id()));
            fs::create_dir_all(&fetched)?;
            // A user's own packages, in a folder of our choice: those of the interpreter stay as they are.
            let fetch = run(Command::new(python()?)
                .args(["-m", "pip", "install", "--user", "--ignore-installed"])
                .args(["--disable-pip-version-check", "--no-warn-script-location"])
                .arg(format!("autobahntestsuite=={VERSION}"))
                .env("PYTHONUSERBASE", &fetched));
            if let Err(error) = fetch {
                let _ = fs::remove_dir_all(&fetched);
                return Err(error).context("Autobahn|Testsuite cannot be installed");
            }
            fs::rename(&fetched, &base)?;
        }
        Ok(Self { base })
    }

    /// `wstest`, its program.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.base.join("bin/wstest"));
        command.env("PYTHONUSERBASE", &self.base);
        command
    }
}

/// A Python 2.7 that runs: the one that is named, the one on the path, or one of pyenv's.
fn python() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map_or_else(|| PathBuf::from(home).join(".pyenv"), PathBuf::from);
    let versions = fs::read_dir(pyenv.join("versions")).into_iter().flatten();
    let named = std::env::var_os(PYTHON).map(PathBuf::from);
    let candidates = versions
        .flatten()
        .map(|version| version.path().join("bin/python2.7"));
    let runs = |program: &PathBuf| run(Command::new(program).args(["-c", "import pip"])).is_ok();
    named
        .into_iter()
        .chain(["python2.7".into()])
        .chain(candidates)
        .find(runs)
        .with_context(|| {
            format!("Autobahn|Testsuite needs Python 2.7 with pip: `pyenv install 2.7.18` brings it, {PYTHON} names it")
        })
}

/// The suite's own WebSocket server, which sends back what it gets. As it comes, it refuses requests whose `Host` names
/// another port than its own, as those that come through a proxy do.
const ECHO: &str = "
import sys
from twisted.internet import reactor
from autobahn.twisted.websocket import listenWS
from autobahntestsuite.testee import TesteeServerFactory
factory = TesteeServerFactory(u'ws://127.0.0.1:' + sys.argv[1])
factory.externalPort = None
listenWS(factory, interface='127.0.0.1')
reactor.run()
";

/// That server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Program for Echo {
    fn name(&self) -> &'static str {
        "autobahn-echo"
    }

    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn prepare(&self, _folder: &Path, _port: u16) -> Result<()> {
        Autobahn::install()
    }

    fn command(&self, _folder: &Path, port: u16) -> Result<Command> {
        let mut command = Command::new(python()?);
        command
            .args(["-c", ECHO, &port.to_string()])
            .env("PYTHONUSERBASE", Autobahn::open()?.base);
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers(port)
    }
}
