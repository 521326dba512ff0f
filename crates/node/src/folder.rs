//! The data folder: one process at a time, a format version, the tokens and the endpoints file.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sinew_core::{Error, Kind, Result};

/// The layout of the folder that this version writes. A newer binary upgrades an older folder; an
/// older binary refuses a newer one.
const FORMAT: u32 = 1;

/// An open data folder. Dropping it lets another process in.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Held for its advisory lock, which the operating system drops with the process, however it ends.
    _lock: File,
}

/// Where a running node listens: `endpoints.json` in its data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The node's process id.
    pub pid: u32,
    /// The control API's URL.
    pub control: String,
    /// The gateway's URL.
    pub gateway: String,
    /// The URLs of the registry's dialects that have a listener of their own, by name (`eureka`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dialects: BTreeMap<String, String>,
}

impl DataFolder {
    /// The file with the token that may do everything.
    pub const ADMIN_TOKEN: &str = "admin-token";
    /// The file with the token for services.
    pub const SERVICE_TOKEN: &str = "service-token";

    /// The file with the key that wraps the keys of encrypted values.
    pub const CONFIG_MASTER_KEY: &str = "config-master-key";

    /// Opens the folder, making it if needed (mode 0700), and locks it.
    ///
    /// `node.data_locked` (FailedPrecondition) when another process has it, `node.data_format` when
    /// a newer Sinew wrote it, `node.data_unusable` when the file system refuses.
    pub fn open(path: &Path) -> Result<Self> {
        create_private_folder(path).map_err(|error| unusable(path, &error))?;
        // Absolute, so that whoever reads it from `endpoints.json` or the status understands it.
        let path = path
            .canonicalize()
            .map_err(|error| unusable(path, &error))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            .map_err(|error| unusable(&lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(&path, &lock_path)),
            Err(TryLockError::Error(error)) => return Err(unusable(&lock_path, &error)),
        }
        lock.set_len(0)
            .and_then(|()| write!(lock, "{}", std::process::id()))
            .map_err(|error| unusable(&lock_path, &error))?;
        check_format(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token in this file, 32 random bytes in base64url; made (mode 0600) when it is not there.
    /// Answers whether it was made.
    pub fn token(&self, file: &str) -> Result<(String, bool)> {
        let path = self.path.join(file);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= 32 => return Ok((text.trim().to_owned(), false)),
            Ok(_) => {
                return Err(Error::new(
                    Kind::FailedPrecondition,
                    "node.token_invalid",
                    format!(
                        "{} holds less than 32 characters; delete it to have a new token made",
                        path.display()
                    ),
                ));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(&path, &error)),
        }
        let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        write_private(&path, &token).map_err(|error| unusable(&path, &error))?;
        Ok((token, true))
    }

    /// Tells others where this node listens.
    pub fn write_endpoints(&self, endpoints: &Endpoints) -> Result<()> {
        let path = self.path.join(Endpoints::FILE);
        let text = serde_json::to_string_pretty(endpoints).expect("plain strings serialise");
        write_private(&path, &text).map_err(|error| unusable(&path, &error))
    }

    /// Takes the endpoints back at a clean exit.
    pub fn remove_endpoints(&self) {
        let _ = fs::remove_file(self.path.join(Endpoints::FILE));
    }
}

impl Endpoints {
    /// The file's name.
    pub const FILE: &str = "endpoints.json";

    /// Reads them from a node's data folder; `node.unreachable` (Unavailable) when no node runs there.
    pub fn read(data: &Path) -> Result<Self> {
        let path = data.join(Self::FILE);
        let text = fs::read(&path).map_err(|error| {
            Error::new(
                Kind::Unavailable,
                "node.unreachable",
                format!(
                    "no node runs on {} ({}: {error}); start one with `sinew serve`, or name it \
                     with --data or --url",
                    data.display(),
                    path.display(),
                ),
            )
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::new(
                Kind::DataLoss,
                "node.data_unusable",
                format!("{} cannot be read: {error}", path.display()),
            )
        })
    }
}

fn check_format(folder: &Path) -> Result<()> {
    let path = folder.join("format");
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            write_private(&path, &FORMAT.to_string()).map_err(|error| unusable(&path, &error))
        }
        Err(error) => Err(unusable(&path, &error)),
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT => Ok(()),
            Ok(found) => Err(Error::new(
                Kind::FailedPrecondition,
                "node.data_format",
                format!(
                    "{} has format {found}, which a newer Sinew wrote; this one reads up to \
                     {FORMAT}: use the newer binary, or another folder",
                    folder.display()
                ),
            )),
            Err(_) => Err(Error::new(
                Kind::FailedPrecondition,
                "node.data_format",
                format!(
                    "{} is not a Sinew data folder: its file `format` holds no number",
                    folder.display()
                ),
            )),
        },
    }
}

fn locked(folder: &Path, lock: &Path) -> Error {
    let holder = fs::read_to_string(lock).unwrap_or_default();
    let holder = match holder.trim() {
        "" => String::new(),
        pid => format!(" (process {pid})"),
    };
    Error::new(
        Kind::FailedPrecondition,
        "node.data_locked",
        format!(
            "the data folder {} is in use by another node{holder}; stop it, or choose another \
             folder with --data",
            folder.display()
        ),
    )
}

fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "node.data_unusable",
        format!("{} cannot be used: {error}", path.display()),
    )
}

#[cfg(unix)]
fn create_private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

#[cfg(not(unix))]
fn create_private_folder(path: &Path) -> std::io::Result<()> {
    fs::create_dir_all(path)
}

/// Writes a file that only its owner may read, whole or not at all: a reader, or a crash, never
/// meets half of it.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    // Left over from a crash; with its old mode it must not be written into.
    let _ = fs::remove_file(&temporary);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
