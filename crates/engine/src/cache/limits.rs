use std::time::Duration;

use bytes::Bytes;
use sinew_core::{Error, Kind, Result};

use super::{Key, Lifetime};

/// What bounds an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest key, bytes.
    pub key_bytes: usize,
    /// The longest value, bytes.
    pub value_bytes: usize,
    /// Keys in one call.
    pub many: usize,
    /// What an item weighs beyond its key and value, bytes.
    pub item_overhead: usize,
    /// Lifetimes are rounded up to a multiple of this, and an item may go one such step earlier than that.
    pub lifetime_step: Duration,
    /// The longest lifetime that is not unlimited.
    pub lifetime_maximum: Duration,
}

impl Limits {
    /// What an item weighs.
    pub fn weight(&self, key: &[u8], value: &[u8]) -> u64 {
        (key.len() + value.len() + self.item_overhead) as u64
    }

    /// Checks a key; `cache.item_invalid` (InvalidArgument).
    pub fn check_key(&self, key: &[u8]) -> Result<()> {
        if (1..=self.key_bytes).contains(&key.len()) {
            return Ok(());
        }
        let (most, length) = (self.key_bytes, key.len());
        Err(invalid(format!(
            "a key must have 1 to {most} bytes, not {length}"
        )))
    }

    /// Checks an item that shall be set.
    pub fn check_item(&self, key: &[u8], value: &[u8], lifetime: Lifetime) -> Result<()> {
        self.check_key(key)?;
        self.check_lifetime(lifetime)?;
        if value.len() <= self.value_bytes {
            return Ok(());
        }
        let (most, length) = (self.value_bytes, value.len());
        Err(invalid(format!(
            "a value may have {most} bytes, not {length}"
        )))
    }

    /// Checks the keys of one call.
    pub fn check_keys(&self, keys: &[Key]) -> Result<()> {
        self.check_many(keys.len())?;
        keys.iter().try_for_each(|key| self.check_key(key))
    }

    /// Checks the items of one call.
    pub fn check_items(&self, items: &[(Key, Bytes)], lifetime: Lifetime) -> Result<()> {
        self.check_many(items.len())?;
        self.check_lifetime(lifetime)?;
        items
            .iter()
            .try_for_each(|(key, value)| self.check_item(key, value, lifetime))
    }

    /// Checks a lifetime; `cache.lifetime_invalid` (InvalidArgument).
    pub fn check_lifetime(&self, lifetime: Lifetime) -> Result<()> {
        match lifetime {
            Lifetime::For(time) if time.is_zero() || time > self.lifetime_maximum => {
                Err(Error::new(
                    Kind::InvalidArgument,
                    "cache.lifetime_invalid",
                    format!(
                        "a lifetime must be above zero and at most {:?}, not {time:?}",
                        self.lifetime_maximum
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_many(&self, keys: usize) -> Result<()> {
        if keys <= self.many {
            return Ok(());
        }
        let most = self.many;
        Err(invalid(format!(
            "one call may name {most} keys, not {keys}; split it"
        )))
    }
}

fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, "cache.item_invalid", message)
}
