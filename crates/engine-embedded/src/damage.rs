//! What is wrong with a file.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use sinew_core::Error;

/// What every error about a damaged file ends with.
pub(crate) const HINT: &str = "`sinew repair` saves what is whole and says what is not";

/// A place in a file that is not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file; the folder when a file is missing whose name nobody knows.
    pub file: PathBuf,
    /// The first byte that is wrong, or the beginning of what contains it.
    pub offset: u64,
    /// What is wrong, in words.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, what } = self;
        write!(f, "{} at byte {offset}: {what}", file.display())
    }
}

impl Damage {
    pub(crate) fn new(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            offset,
            what: what.into(),
        }
    }

    /// As it stands in a message that has no room for the folder.
    pub(crate) fn brief(&self) -> String {
        let Self { file, offset, what } = self;
        let name = file.file_name().unwrap_or(file.as_os_str());
        format!(
            "{} at byte {offset}: {what}; {HINT}",
            name.to_string_lossy()
        )
    }

    /// The damage that an error is about.
    pub(crate) fn of(error: &Error) -> Self {
        let source = std::error::Error::source(error);
        let place = source.and_then(|source| source.downcast_ref::<Place>());
        match place {
            Some(Place(damage)) => damage.clone(),
            None => Self::new(Path::new(""), 0, error.message()),
        }
    }
}

/// The damage as the cause of an error.
#[derive(Debug)]
pub(crate) struct Place(pub(crate) Damage);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.0.file.display())
    }
}

impl std::error::Error for Place {}
