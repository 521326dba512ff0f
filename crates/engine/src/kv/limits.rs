use std::time::Duration;

use sinew_core::{Error, Kind, Result};

use super::{Condition, Key, Write};

/// What bounds an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest key, bytes.
    pub key_bytes: usize,
    /// The longest value, bytes.
    pub value_bytes: usize,
    /// Conditions plus writes of one transaction.
    pub transaction_operations: usize,
    /// Keys plus values that one transaction writes, bytes.
    pub transaction_bytes: usize,
    /// Entries in one page of a range.
    pub page_entries: usize,
    /// The shortest lease.
    pub lease_minimum: Duration,
}

impl Limits {
    /// Checks what can be told without the store; `kv.transaction_invalid` (InvalidArgument).
    pub fn check_transaction(&self, conditions: &[Condition], writes: &[Write]) -> Result<()> {
        let operations = conditions.len() + writes.len();
        if operations > self.transaction_operations {
            let most = self.transaction_operations;
            return Err(invalid(format!(
                "a transaction may have {most} conditions and writes, not {operations}; split it"
            )));
        }
        for condition in conditions {
            match condition {
                Condition::KeyAt(key, _) | Condition::Absent(key) | Condition::Present(key) => {
                    self.check_key(key)?;
                }
                Condition::Unchanged(..) => {}
            }
        }
        let mut bytes = 0;
        for write in writes {
            self.check_key(write.key())?;
            bytes += write.key().len();
            if let Write::Put { value, .. } = write {
                bytes += value.len();
                if value.len() > self.value_bytes {
                    return Err(invalid(format!(
                        "a value may have {} bytes, not {}",
                        self.value_bytes,
                        value.len()
                    )));
                }
            }
        }
        if bytes > self.transaction_bytes {
            return Err(invalid(format!(
                "a transaction may write {} bytes, not {bytes}; split it",
                self.transaction_bytes
            )));
        }
        let mut keys: Vec<&Key> = writes.iter().map(Write::key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(invalid(
                "a transaction may write a key only once".to_owned(),
            ));
        }
        Ok(())
    }

    /// `kv.lease_ttl` (InvalidArgument) when a lease may not be that short.
    pub fn check_ttl(&self, ttl: Duration) -> Result<()> {
        if ttl >= self.lease_minimum {
            return Ok(());
        }
        let least = self.lease_minimum;
        Err(Error::new(
            Kind::InvalidArgument,
            "kv.lease_ttl",
            format!("a lease must live for at least {least:?}, not {ttl:?}"),
        ))
    }

    /// The size of a page that was asked to hold `limit` entries.
    pub fn page_size(&self, limit: usize) -> usize {
        limit.clamp(1, self.page_entries)
    }

    fn check_key(&self, key: &Key) -> Result<()> {
        if (1..=self.key_bytes).contains(&key.len()) {
            return Ok(());
        }
        Err(invalid(format!(
            "a key must have 1 to {} bytes, not {}",
            self.key_bytes,
            key.len()
        )))
    }
}

fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, "kv.transaction_invalid", message)
}
