use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sinew_core::{Clock, Error, Kind, Result};
use sinew_engine::blob::{Blob, Body, Expect, Key, Put, body};
use tempfile::NamedTempFile;

use crate::engines;

/// The list of what a place holds.
const LIST: &str = "backups.json";
/// The pieces in which a file goes into an object store.
const PIECE: usize = 1 << 20;

/// A backup in the list of its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its file.
    pub file: String,
    /// The revision that it begins after; 0 for a full one.
    pub since: u64,
    /// The revision that it reaches.
    pub revision: u64,
    /// Its length.
    pub bytes: u64,
}

/// Where backups are kept: a folder, or a part of an object store. Its list names them in the order in which they were
/// taken; a file that is not in it is none.
///
/// `backup.place` when it cannot be read or written: InvalidArgument when it is no place or holds no list of backups,
/// FailedPrecondition with a reason of the file system, or what the object store answered.
pub struct Place {
    name: String,
    at: At,
}

enum At {
    Folder(PathBuf),
    Store(Arc<dyn Blob>),
}

impl Place {
    /// A folder, which need not be there yet, or the URL of an object store (`s3://…`). Wants a tokio runtime.
    pub fn open(name: &str) -> Result<Self> {
        if name.contains("://") {
            let store = engines::open_blob(name, Clock::system())?;
            // What comes after the path is not needed to know the place again.
            let shown = name.split('?').next().unwrap_or(name);
            return Ok(Self::over(shown, store));
        }
        let at = At::Folder(name.into());
        let name = name.trim_end_matches('/').to_owned();
        Ok(Self { name, at })
    }

    /// A place in an object store.
    pub(crate) fn over(name: &str, store: Arc<dyn Blob>) -> Self {
        Self {
            name: name.trim_end_matches('/').to_owned(),
            at: At::Store(store),
        }
    }

    /// How a file of it is called.
    pub fn shown(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    /// The backups, in the order in which they were taken; none when it has no list yet.
    pub async fn list(&self) -> Result<Vec<Backup>> {
        let text = match &self.at {
            At::Folder(folder) => match fs::read(folder.join(LIST)) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                text => Some(text.map_err(|error| self.broken(LIST, error))?),
            },
            At::Store(blob) => match blob.get(&key(LIST)?, None).await {
                Err(error) if error.kind() == Kind::NotFound => None,
                download => {
                    let body = download?.body;
                    Some(sinew_engine::blob::collect(body, 64 << 20).await?.into())
                }
            },
        };
        let list = text.map(|text| serde_json::from_slice(&text)).transpose();
        list.map(Option::unwrap_or_default).map_err(|error| {
            let list = self.shown(LIST);
            invalid(format!("{list} is not a list of backups: {error}"))
        })
    }

    /// A new file, that only its owner reads, to write a backup into.
    pub fn partial(&self) -> Result<NamedTempFile> {
        match &self.at {
            At::Folder(folder) => fs::create_dir_all(folder)
                .and_then(|()| partial_in(folder))
                .map_err(|error| self.broken("", error)),
            At::Store(_) => NamedTempFile::new().map_err(|error| self.broken("", error)),
        }
    }

    /// Gives the file that was written its place and name, durably, and then adds it to the list.
    pub async fn keep(&self, partial: NamedTempFile, backup: Backup) -> Result<()> {
        let failed = |error| self.broken(&backup.file, error);
        partial.as_file().sync_all().map_err(failed)?;
        let mut list = self.list().await?;
        list.push(backup.clone());
        let list = serde_json::to_vec_pretty(&list).expect("numbers and names are JSON");
        match &self.at {
            At::Folder(folder) => {
                let named = partial.persist(folder.join(&backup.file));
                named.map_err(|error| failed(error.error))?;
                write_list(folder, &list).map_err(|error| self.broken(LIST, error))
            }
            At::Store(blob) => {
                let file = partial.reopen().map_err(failed)?;
                let put = Put {
                    expect: Expect {
                        size: Some(backup.bytes),
                        checksum: None,
                    },
                    ..Put::default()
                };
                blob.put(&key(&backup.file)?, pieces(file), put).await?;
                blob.put(&key(LIST)?, body(list), Put::default()).await?;
                Ok(())
            }
        }
    }

    /// A backup, to be read from its beginning.
    pub async fn fetch(&self, file: &str) -> Result<File> {
        match &self.at {
            At::Folder(folder) => {
                File::open(folder.join(file)).map_err(|error| self.broken(file, error))
            }
            At::Store(blob) => {
                let failed = |error| self.broken(file, error);
                let mut body = blob.get(&key(file)?, None).await?.body;
                let mut copy = tempfile::tempfile().map_err(failed)?;
                while let Some(piece) = body.try_next().await? {
                    copy.write_all(&piece).map_err(failed)?;
                }
                io::Seek::rewind(&mut copy).map_err(failed)?;
                Ok(copy)
            }
        }
    }

    fn broken(&self, file: &str, error: io::Error) -> Error {
        let shown = self.shown(file);
        let shown = shown.trim_end_matches('/');
        Error::new(
            Kind::FailedPrecondition,
            "backup.place",
            format!("{shown} cannot be used"),
        )
        .with_source(error)
    }
}

fn partial_in(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix("partial-")
        .tempfile_in(folder)
}

/// Replaces the list of a folder as a whole, durably.
fn write_list(folder: &Path, list: &[u8]) -> io::Result<()> {
    let mut partial = partial_in(folder)?;
    partial.write_all(list)?;
    partial.as_file().sync_all()?;
    partial.persist(folder.join(LIST))?;
    File::open(folder)?.sync_all()
}

fn pieces(file: File) -> Body {
    stream::try_unfold(file, async |mut file| {
        let mut piece = Vec::with_capacity(PIECE);
        let mut next = io::Read::take(&mut file, PIECE as u64);
        io::Read::read_to_end(&mut next, &mut piece).map_err(|error| {
            let what = "the file of the backup cannot be read again";
            Error::new(Kind::FailedPrecondition, "backup.place", what).with_source(error)
        })?;
        Ok((!piece.is_empty()).then_some((piece.into(), file)))
    })
    .boxed()
}

fn key(file: &str) -> Result<Key> {
    Key::new(file).map_err(|error| invalid(format!("{file:?} in the list: {error}")))
}

fn invalid(why: String) -> Error {
    Error::new(Kind::InvalidArgument, "backup.place", why)
}
