use std::{borrow::Borrow, fmt, sync::Arc};

use sinew_core::{Error, Kind, Result};

/// An object's key: 1 to 1024 bytes of UTF-8 without control characters; its pieces between `/` are
/// neither empty nor `.` nor `..`. Ordered bytewise.
///
/// That is what every engine can take: S3 takes more, but the paths that it makes of keys do not
/// survive proxies which tidy them up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, bytes.
    pub const MOST_BYTES: usize = 1024;

    /// Checks `text` and makes a key of it; `blob.key_invalid` (InvalidArgument) otherwise.
    pub fn new(text: &str) -> Result<Self> {
        let fault = if text.is_empty() || text.len() > Self::MOST_BYTES {
            format!(
                "it must have 1 to {} bytes, not {}",
                Self::MOST_BYTES,
                text.len()
            )
        } else if text.chars().any(char::is_control) {
            "it must have no control characters".to_owned()
        } else if text
            .split('/')
            .any(|piece| matches!(piece, "" | "." | ".."))
        {
            "its pieces between '/' must be neither empty nor '.' nor '..'".to_owned()
        } else {
            return Ok(Self(text.into()));
        };
        let shown: String = text.chars().take(64).collect();
        let message = format!("{shown:?} is not a key: {fault}");
        Err(Error::new(
            Kind::InvalidArgument,
            "blob.key_invalid",
            message,
        ))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_that_nothing_tidies_up() {
        for good in [
            "a",
            "a/b/c.txt",
            "ä/ü",
            ".hidden",
            "a/...",
            "A b",
            "%2e%2e/x",
            &"k".repeat(1024),
        ] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        let long = "k".repeat(1025);
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b", "a\n", &long,
        ] {
            assert_eq!(
                Key::new(bad).unwrap_err().code(),
                "blob.key_invalid",
                "{bad:?}"
            );
        }
    }
}
