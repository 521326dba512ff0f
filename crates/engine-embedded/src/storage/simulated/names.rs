use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use super::{Survival, seeded::Seeded};

/// Which names lead to which files: as programs see it, as the disk has it, and what lies between.
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: Tree,
    durable: Tree,
    /// In the order they were made.
    pending: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
struct Tree {
    files: BTreeMap<PathBuf, u64>,
    folders: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug)]
enum Change {
    CreateDir(PathBuf),
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf),
}

impl Change {
    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::CreateDir(folder) => {
                tree.folders.insert(folder.clone());
            }
            Self::Create(path, file) => {
                tree.files.insert(path.clone(), *file);
            }
            Self::Rename(from, to, file) => {
                tree.files.remove(from);
                tree.files.insert(to.clone(), *file);
            }
            Self::Remove(path) => {
                tree.files.remove(path);
            }
        }
    }

    /// The folder whose sync makes the change durable. (A rename between folders counts as a change
    /// of the target's; the log makes none.)
    fn folder(&self) -> &Path {
        let path = match self {
            Self::CreateDir(path) | Self::Create(path, _) | Self::Remove(path) => path,
            Self::Rename(_, to, _) => to,
        };
        path.parent().unwrap_or(path)
    }
}

impl Names {
    fn make(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    pub(super) fn create_dir(&mut self, folder: &Path) {
        let missing: Vec<PathBuf> = folder
            .ancestors()
            .filter(|path| path.parent().is_some() && !self.seen.folders.contains(*path))
            .map(Path::to_path_buf)
            .collect();
        for path in missing.into_iter().rev() {
            self.make(Change::CreateDir(path));
        }
    }

    pub(super) fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.folder_exists(folder)?;
        let inside = self
            .seen
            .files
            .keys()
            .filter(|path| path.parent() == Some(folder));
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    pub(super) fn create(&mut self, path: &Path, file: u64) -> io::Result<()> {
        self.folder_exists(path.parent().unwrap_or(path))?;
        if self.seen.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.make(Change::Create(path.into(), file));
        Ok(())
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        self.seen
            .files
            .get(path)
            .copied()
            .ok_or_else(|| missing(path))
    }

    /// Answers the file that lost its name to this.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<Option<u64>> {
        let file = self.file(from)?;
        let replaced = self.seen.files.get(to).copied();
        self.make(Change::Rename(from.into(), to.into(), file));
        Ok(replaced)
    }

    /// Answers the file that had the name.
    pub(super) fn remove(&mut self, path: &Path) -> io::Result<u64> {
        let file = self.file(path)?;
        self.make(Change::Remove(path.into()));
        Ok(file)
    }

    pub(super) fn sync(&mut self, folder: &Path) -> io::Result<()> {
        self.folder_exists(folder)?;
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let is_synced = change.folder() == folder;
            if is_synced {
                change.apply(durable);
            }
            !is_synced
        });
        Ok(())
    }

    pub(super) fn lose_power(&mut self, random: &mut Seeded) {
        let survival = Survival::pick(random);
        let prefix = random.index(self.pending.len() + 1);
        for (index, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let survives = match survival {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Prefix => index < prefix,
                Survival::Mixed => random.below(2) == 0,
            };
            if survives {
                change.apply(&mut self.durable);
            }
        }
        // What lies in a folder that is gone is gone with it.
        let folders = self.durable.folders.clone();
        let is_reachable = |path: &Path| {
            let mut above = path.ancestors().skip(1);
            above.all(|folder| folder.parent().is_none() || folders.contains(folder))
        };
        self.durable.files.retain(|path, _| is_reachable(path));
        self.durable.folders.retain(|path| is_reachable(path));
        self.seen.clone_from(&self.durable);
    }

    /// The files that some name leads to, or may lead to again after a loss of power.
    pub(super) fn all_files(&self) -> BTreeSet<u64> {
        let pending = self.pending.iter().filter_map(|change| match change {
            Change::Create(_, file) | Change::Rename(_, _, file) => Some(*file),
            Change::CreateDir(_) | Change::Remove(_) => None,
        });
        let named = self
            .seen
            .files
            .values()
            .chain(self.durable.files.values())
            .copied();
        named.chain(pending).collect()
    }

    /// The files that programs see.
    pub(super) fn seen_files(&self) -> impl Iterator<Item = u64> {
        self.seen.files.values().copied()
    }

    fn folder_exists(&self, folder: &Path) -> io::Result<()> {
        if folder.parent().is_none() || self.seen.folders.contains(folder) {
            Ok(())
        } else {
            Err(missing(folder))
        }
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} does not exist", path.display()),
    )
}
