use std::{collections::HashMap, fmt};

use serde_json::Value;
use sinew_core::{Error, Kind, Result};

use crate::{Claims, strict_json};

const MAX_DOCUMENT_BYTES: usize = 4 * 1024 * 1024;

/// Which tokens are void before they expire: for a subject, every token whose credential version
/// (`ver`) is below the subject's entry. The document is
/// `{"min_version":{"<subject>":3}}`; an issuer needs to list only subjects whose credentials
/// changed within the lifetime of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    min_version: HashMap<String, u64>,
}

impl Revocations {
    /// Reads a revocation document of at most 4 MiB. Members it does not know are passed over.
    ///
    /// Errors: `token.revocations_invalid`.
    pub fn parse(json: &[u8]) -> Result<Self> {
        if json.len() > MAX_DOCUMENT_BYTES {
            return Err(invalid(format!(
                "it is larger than {MAX_DOCUMENT_BYTES} bytes"
            )));
        }
        let mut document = strict_json::object(json).map_err(invalid)?;
        let Some(Value::Object(entries)) = document.remove("min_version") else {
            return Err(invalid("it has no object `min_version`"));
        };
        let min_version = entries
            .into_iter()
            .map(|(subject, version)| match version.as_u64() {
                Some(version) => Ok((subject, version)),
                None => Err(invalid("a version is not a whole number")),
            })
            .collect::<Result<_>>()?;
        Ok(Self { min_version })
    }

    /// Whether a token with these claims is void. A token without `ver` of a listed subject is.
    pub fn void(&self, claims: &Claims) -> bool {
        self.min_version
            .get(&claims.sub)
            .is_some_and(|least| claims.ver.unwrap_or(0) < *least)
    }
}

impl FromIterator<(String, u64)> for Revocations {
    /// From pairs of subject and least valid version.
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(entries: I) -> Self {
        Self {
            min_version: entries.into_iter().collect(),
        }
    }
}

fn invalid(reason: impl fmt::Display) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "token.revocations_invalid",
        format!("the revocation list cannot be used: {reason}"),
    )
}
