//! Files that hold a secret and are made once, however many replicas start at the same time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::Path,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use sinew_core::{Kind, new_id};

use crate::fault::{Fault, Result};

/// The content of the file at `path`, which is made with `content` when it is not there. Only its
/// owner can read it. It appears whole or not at all: it is written under another name and linked,
/// and the first link wins. Errors: `shop.secret_unusable`.
pub(crate) fn once(path: &Path, content: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let unusable = |error: io::Error| {
        let text = format!("the file {} cannot be read or made", path.display());
        Fault::new(Kind::Internal, "shop.secret_unusable", text).with_source(error)
    };
    match fs::read(path) {
        Ok(content) => return Ok(content),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(error)),
    }
    let content = content()?;
    make(path, &content).map_err(unusable)?;
    fs::read(path).map_err(unusable)
}

/// Random text of `bytes` bytes' worth, fit for a password. Errors: `shop.secret_unusable`.
pub(crate) fn random_text(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).map_err(|_| {
        Fault::new(
            Kind::Internal,
            "shop.secret_unusable",
            "the system gives no randomness",
        )
    })?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

fn make(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let draft = path.with_extension(format!("{}.tmp", new_id().simple()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => File::open(folder)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_see_the_first_ones_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let seen: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let make = || once(&path, || Ok(random_text(16)?.into_bytes())).unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(
            seen.iter()
                .all(|secret| *secret == seen[0] && secret.len() == 22)
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no draft is left"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
