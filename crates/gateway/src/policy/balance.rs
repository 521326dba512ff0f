use serde::{Deserialize, Serialize};

/// Which instance gets the next request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two random ones that with fewer requests.
    #[default]
    TwoChoices,
    /// One after the other, the heavier more often, evenly spread.
    RoundRobin,
    /// Of all that with the fewest requests.
    LeastRequests,
    /// Of two random ones the one whose answers are likely to come sooner.
    PeakEwma,
    /// The same one for the same of something.
    Hash(HashBy),
}

/// What decides, under [`Balance::Hash`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// The value of this header.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The client's address.
    Source,
    /// The canonical path.
    Path,
}

impl Balance {
    pub(super) fn fault(&self) -> Option<String> {
        let Self::Hash(HashBy::Header(name) | HashBy::Cookie(name)) = self else {
            return None;
        };
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let good = !name.is_empty() && name.bytes().all(token);
        (!good).then(|| format!("balance.hash: {name:?} is no name of a header or cookie"))
    }
}
