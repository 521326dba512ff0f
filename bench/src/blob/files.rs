//! Plain files: written beside their place, synced, renamed, the folder synced.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;

use super::sides::{Kept, SYNCED};

pub(crate) struct Files {
    folder: PathBuf,
    next: AtomicU64,
}

impl Files {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            next: AtomicU64::new(0),
        })
    }
}

fn write(staged: &Path, place: &Path, content: &[u8]) -> Result<()> {
    let folder = place.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder)?;
    let mut file = File::create(staged)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(staged, place)?;
    Ok(File::open(folder)?.sync_all()?)
}

fn read(place: &Path, range: Option<Range<u64>>) -> Result<u64> {
    let mut file = File::open(place)?;
    let mut left = match range {
        Some(range) => {
            file.seek(SeekFrom::Start(range.start))?;
            range.end - range.start
        }
        None => file.metadata()?.len(),
    };
    let (mut piece, mut total) = (vec![0; 64 << 10], 0);
    while left > 0 {
        let most = piece.len().min(usize::try_from(left)?);
        let count = file.read(&mut piece[..most])? as u64;
        if count == 0 {
            break;
        }
        (left, total) = (left - count, total + count);
    }
    Ok(total)
}

#[async_trait]
impl Kept for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn durability(&self) -> &'static str {
        SYNCED
    }

    async fn put(&self, name: String, content: Bytes) -> Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let staged = self.folder.join(format!("staged-{number}"));
        let place = self.folder.join(name);
        tokio::task::spawn_blocking(move || write(&staged, &place, &content)).await?
    }

    async fn get(&self, name: String, range: Option<Range<u64>>) -> Result<u64> {
        let place = self.folder.join(name);
        tokio::task::spawn_blocking(move || read(&place, range)).await?
    }
}
