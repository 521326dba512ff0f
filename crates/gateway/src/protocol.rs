use serde::{Deserialize, Serialize};

/// What the instances of a service speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "http1")]
    Http1,
    /// HTTP/2, without a word of HTTP/1.1 before it ("prior knowledge").
    #[serde(rename = "h2", alias = "grpc")]
    H2,
}

impl Protocol {
    /// What an instance says of itself with `protocol` in its metadata; what is not known is taken
    /// for HTTP/1.1, which every instance speaks that says nothing.
    pub(crate) fn of_metadata(text: Option<&String>) -> Self {
        match text.map(String::as_str) {
            Some("h2" | "grpc") => Self::H2,
            _ => Self::Http1,
        }
    }
}
