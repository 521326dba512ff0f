use std::{fmt, str::FromStr};

use sinew_core::{Error, Result, Timestamp};

use super::fault;

/// Names a branch: the transaction over several databases, and which part of it this is. Both consist of `A-Z a-z 0-9 . _ -`; the
/// transaction has 1 to 64 characters, the part 1 to 32. Written `transaction/part`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId {
    transaction: String,
    part: String,
}

impl BranchId {
    /// The longest name of a transaction. XA knows 64 bytes.
    pub const TRANSACTION: usize = 64;
    /// The longest name of a part. XA knows 64 bytes, which the engine's namespace shares.
    pub const PART: usize = 32;

    /// Checks both; `sql.branch_invalid` (InvalidArgument).
    pub fn new(transaction: impl Into<String>, part: impl Into<String>) -> Result<Self> {
        let (transaction, part) = (transaction.into(), part.into());
        let fits = |text: &str, most: usize| {
            (1..=most).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        if fits(&transaction, Self::TRANSACTION) && fits(&part, Self::PART) {
            Ok(Self { transaction, part })
        } else {
            Err(fault::branch_invalid())
        }
    }

    /// The transaction over several databases.
    pub fn transaction(&self) -> &str {
        &self.transaction
    }

    /// Which part of it.
    pub fn part(&self) -> &str {
        &self.part
    }
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.transaction, self.part)
    }
}

impl FromStr for BranchId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (transaction, part) = text.split_once('/').ok_or_else(fault::branch_invalid)?;
        Self::new(transaction, part)
    }
}

/// A branch that waits for its decision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prepared {
    /// Its name.
    pub id: BranchId,
    /// When it was prepared, on the database's clock, where the database keeps that.
    pub since: Option<Timestamp>,
}

/// What became of the settling of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It was in doubt and is settled now, durably.
    Done,
    /// There is no such branch: it was settled before, was never prepared, or wrote nothing.
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_every_database_can_keep_are_taken() {
        let id = BranchId::new("order-17.a_b", "bank").unwrap();
        assert_eq!(id.to_string().parse::<BranchId>().unwrap(), id);
        for (transaction, part) in [
            ("", "a"),
            ("a", ""),
            ("a/b", "c"),
            ("it's", "a"),
            ("a", "b:c"),
            ("ä", "a"),
        ] {
            let error = BranchId::new(transaction, part).unwrap_err();
            assert_eq!(error.code(), "sql.branch_invalid");
        }
        assert!(BranchId::new("x".repeat(64), "y".repeat(32)).is_ok());
        assert!(BranchId::new("x".repeat(65), "y").is_err());
        assert!(BranchId::new("x", "y".repeat(33)).is_err());
    }
}
