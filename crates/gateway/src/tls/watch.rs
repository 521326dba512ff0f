//! Notices that files have changed, however that came about: written again, renamed over, or
//! reached by a link that now leads elsewhere.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

use ring::digest;

/// What tells two states of a file apart without reading it.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);
type Hash = [u8; 32];

struct File {
    path: PathBuf,
    stamp: Option<Stamp>,
    /// Of what is in it; `None` when it cannot be read.
    hash: Option<Hash>,
    /// Looks since it was read.
    age: u32,
}

/// Files that belong together: they are only of use in one state.
pub(super) struct Watch {
    files: Vec<File>,
    seen: Vec<Option<Hash>>,
    used: Vec<Option<Hash>>,
}

/// A file is read anew after so many looks, whatever its stamp says: clocks can be set, and some
/// file systems are careless.
const MOST_AGE: u32 = 30;

impl Watch {
    pub(super) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let file = |path| File {
            path,
            stamp: None,
            hash: None,
            age: MOST_AGE,
        };
        let mut watch = Self {
            files: paths.into_iter().map(file).collect(),
            seen: Vec::new(),
            used: Vec::new(),
        };
        watch.used = watch.look();
        watch.seen = watch.used.clone();
        watch
    }

    /// Whether the files are others than those in use, and were so at the last look: whoever writes
    /// a certificate and then its key is not disturbed in between.
    pub(super) fn has_settled_anew(&mut self) -> bool {
        let now = self.look();
        if now != self.seen {
            self.seen = now;
            return false;
        }
        let news = now != self.used;
        self.used = now;
        news
    }

    fn look(&mut self) -> Vec<Option<Hash>> {
        self.files.iter_mut().map(File::look).collect()
    }
}

impl File {
    fn look(&mut self) -> Option<Hash> {
        let stamp = fs::metadata(&self.path).ok().map(|meta| {
            (
                meta.dev(),
                meta.ino(),
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            )
        });
        self.age += 1;
        if stamp.is_none() || stamp != self.stamp || self.age >= MOST_AGE {
            let hash = |bytes: Vec<u8>| {
                let digest = digest::digest(&digest::SHA256, &bytes);
                digest.as_ref().try_into().ok()
            };
            self.hash = fs::read(&self.path).ok().and_then(hash);
            (self.stamp, self.age) = (stamp, 0);
        }
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [("1", "one"), ("2", "two")] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("cert"), text).unwrap();
        }
        std::os::unix::fs::symlink("1", path("current")).unwrap();
        let mut watch = Watch::new([path("current").join("cert")]);
        assert!(!watch.has_settled_anew());

        // As Kubernetes does: the link is replaced, the files are others.
        std::os::unix::fs::symlink("2", path("next")).unwrap();
        fs::rename(path("next"), path("current")).unwrap();
        assert!(!watch.has_settled_anew(), "it may go on changing");
        assert!(watch.has_settled_anew());
        assert!(!watch.has_settled_anew());

        fs::write(path("2").join("cert"), "two").unwrap();
        for _ in 0..3 {
            assert!(!watch.has_settled_anew(), "the content is the same");
        }
        fs::write(path("2").join("cert"), "owt").unwrap();
        assert!(!watch.has_settled_anew());
        assert!(watch.has_settled_anew());
        fs::remove_file(path("2").join("cert")).unwrap();
        assert!(!watch.has_settled_anew());
        assert!(watch.has_settled_anew());
    }
}
