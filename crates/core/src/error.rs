//! One error type for all of Sinew: what kind it is, a stable code, a message that anyone may read,
//! a context that only the logs see, and whether trying again can help.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// `Result` with [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the terms of the canonical gRPC codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request is wrong whatever the state of the system.
    InvalidArgument,
    /// What was asked for does not exist.
    NotFound,
    /// What was to be made exists.
    AlreadyExists,
    /// The system is not in the state that the request needs.
    FailedPrecondition,
    /// A concurrent change won; read again and try again.
    Aborted,
    /// Past the end of what exists, such as a compacted revision.
    OutOfRange,
    /// No valid credentials.
    Unauthenticated,
    /// Valid credentials that do not allow this.
    PermissionDenied,
    /// A quota, queue or disk is full.
    ResourceExhausted,
    /// What is needed cannot be reached now.
    Unavailable,
    /// It did not finish in time; it may have happened.
    DeadlineExceeded,
    /// Stored data is lost or corrupt.
    DataLoss,
    /// A defect in Sinew.
    Internal,
}

impl Kind {
    /// The one table: (HTTP status, gRPC status code, title).
    const fn row(self) -> (u16, u8, &'static str) {
        match self {
            Self::InvalidArgument => (400, 3, "Invalid argument"),
            Self::NotFound => (404, 5, "Not found"),
            Self::AlreadyExists => (409, 6, "Already exists"),
            Self::FailedPrecondition => (412, 9, "Failed precondition"),
            Self::Aborted => (409, 10, "Aborted"),
            Self::OutOfRange => (416, 11, "Out of range"),
            Self::Unauthenticated => (401, 16, "Unauthenticated"),
            Self::PermissionDenied => (403, 7, "Permission denied"),
            Self::ResourceExhausted => (429, 8, "Resource exhausted"),
            Self::Unavailable => (503, 14, "Unavailable"),
            Self::DeadlineExceeded => (504, 4, "Deadline exceeded"),
            Self::DataLoss => (500, 15, "Data loss"),
            Self::Internal => (500, 13, "Internal error"),
        }
    }

    /// The HTTP status code.
    pub const fn http_status(self) -> u16 {
        self.row().0
    }

    /// The gRPC status code.
    pub const fn grpc_code(self) -> u8 {
        self.row().1
    }

    /// A short human title.
    pub const fn title(self) -> &'static str {
        self.row().2
    }
}

/// Whether trying the same again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It will fail again.
    No,
    /// It may succeed; back off.
    Yes,
    /// It may succeed after this time.
    After(Duration),
}

/// An error. See the module's text; build one with [`Error::new`] and the `with_…` methods.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    code: Cow<'static, str>,
    message: String,
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    retry: Retry,
}

impl Error {
    /// An error with a stable dotted `code` (`registry.instance_unknown`) and a message for the one
    /// who asked: lower case, no full stop, says what to do where it can. Retry is `Yes` for
    /// Aborted and Unavailable, otherwise `No`.
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        let retry = match kind {
            Kind::Aborted | Kind::Unavailable => Retry::Yes,
            _ => Retry::No,
        };
        Self(Box::new(Inner {
            kind,
            code: Cow::Borrowed(code),
            message: message.into(),
            context: Vec::new(),
            source: None,
            retry,
        }))
    }

    /// Adds a line that only logs show, such as a path or an address.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<String>) -> Self {
        self.0.context.push(context.into());
        self
    }

    /// Adds the cause. Only logs show it.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says whether trying again can help, where the kind's default is wrong.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The stable code; it has a page under `docs/errors/`.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The public message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Everything, for the log: message, context and the chain of causes.
    pub fn detail(&self) -> String {
        use fmt::Write;
        let mut text = format!("{} ({})", self.0.message, self.0.code);
        for context in &self.0.context {
            let _ = write!(text, "; {context}");
        }
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }

    /// What a client may see of this error.
    pub fn problem(&self) -> Problem {
        Problem {
            type_: format!("urn:sinew:error:{}", self.0.code),
            title: self.0.kind.title().to_owned(),
            status: self.0.kind.http_status(),
            detail: self.0.message.clone(),
            code: self.0.code.clone().into_owned(),
            kind: self.0.kind,
            retry_after_ms: match self.0.retry {
                Retry::After(wait) => Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.detail())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Problem details (RFC 9457), the body of every HTTP error; media type `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:sinew:error:<code>`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The public message.
    pub detail: String,
    /// The stable code.
    pub code: String,
    /// The canonical kind.
    pub kind: Kind,
    /// When to try again, if the server can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// The media type of a serialised problem.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";
}

/// An error as a client received it.
impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let mut error = Error::new(problem.kind, "", problem.detail);
        error.0.code = Cow::Owned(problem.code);
        if let Some(wait) = problem.retry_after_ms {
            error.0.retry = Retry::After(Duration::from_millis(wait));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_context_stays_out_of_the_problem() {
        let error = Error::new(
            Kind::Unavailable,
            "kv.unavailable",
            "the store cannot be reached",
        )
        .with_context("path /secret")
        .with_source(std::io::Error::other("disk gone"));
        let problem = serde_json::to_string(&error.problem()).unwrap();
        assert!(
            !problem.contains("secret") && !problem.contains("disk"),
            "{problem}"
        );
        assert_eq!(
            error.detail(),
            "the store cannot be reached (kv.unavailable); path /secret: disk gone"
        );
    }

    #[test]
    fn an_error_survives_the_wire() {
        let error = Error::new(Kind::ResourceExhausted, "bus.full", "the queue is full")
            .with_retry(Retry::After(Duration::from_millis(250)));
        let wire = serde_json::to_string(&error.problem()).unwrap();
        let back = Error::from(serde_json::from_str::<Problem>(&wire).unwrap());
        assert_eq!(
            (back.kind(), back.code()),
            (Kind::ResourceExhausted, "bus.full")
        );
        assert_eq!(back.retry(), Retry::After(Duration::from_millis(250)));
    }
}
