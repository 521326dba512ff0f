//! The shop's one error type: a `sinew_core::Error` and the members that its problem document has
//! beside the usual ones.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sinew_core::{Error, Kind, Retry};
use uuid::Uuid;

pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

/// What went wrong. Build one from an [`Error`] or with [`Fault::new`].
#[derive(Debug)]
pub(crate) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    error: Error,
    more: More,
}

/// Members of a problem document beside those of `sinew_core::Problem`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct More {
    /// Which fields of the request are wrong, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<FieldError>,
    /// The order that this is about, when one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order_id: Option<Uuid>,
    /// Which products there are too few of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) shortages: Vec<Shortage>,
}

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    pub(crate) message: String,
}

/// A product of which fewer are available than asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shortage {
    pub(crate) product_id: Uuid,
    pub(crate) requested: i64,
    pub(crate) available: i64,
}

impl Fault {
    pub(crate) fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Error::new(kind, code, message).into()
    }

    /// What is needed cannot be had now; `wait` is when to try again.
    pub(crate) fn unavailable(
        code: &'static str,
        message: impl Into<String>,
        wait: Duration,
    ) -> Self {
        Error::new(Kind::Unavailable, code, message)
            .with_retry(Retry::After(wait))
            .into()
    }

    /// The request is wrong in these fields.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let named: Vec<_> = errors
            .iter()
            .map(|e| format!("{} {}", e.field, e.message))
            .collect();
        let mut fault = Self::new(
            Kind::InvalidArgument,
            "shop.invalid_request",
            format!("the request is not valid: {}", named.join("; ")),
        );
        fault.0.more.errors = errors;
        fault
    }

    /// A service that is needed cannot be reached or does not work.
    pub(crate) fn dependency(service: &str) -> Self {
        Self::unavailable(
            "shop.dependency_unavailable",
            format!("{service} cannot be reached now, try again in a moment"),
            Duration::from_secs(2),
        )
    }

    /// An idempotency key came back with another request.
    pub(crate) fn key_reused() -> Self {
        Self::new(
            Kind::AlreadyExists,
            "shop.idempotency_key_reused",
            "this Idempotency-Key was used for another request; take a new one",
        )
    }

    #[must_use]
    pub(crate) fn with_order(mut self, order: Uuid) -> Self {
        self.0.more.order_id = Some(order);
        self
    }

    #[must_use]
    pub(crate) fn with_shortages(mut self, shortages: Vec<Shortage>) -> Self {
        self.0.more.shortages = shortages;
        self
    }

    #[must_use]
    pub(crate) fn with_source(
        self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let Inner { error, more } = *self.0;
        Self(Box::new(Inner {
            error: error.with_source(source),
            more,
        }))
    }

    pub(crate) fn error(&self) -> &Error {
        &self.0.error
    }

    pub(crate) fn more(&self) -> &More {
        &self.0.more
    }

    pub(crate) fn code(&self) -> &str {
        self.0.error.code()
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self(Box::new(Inner {
            error,
            more: More::default(),
        }))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        fault.0.error
    }
}

/// Collects everything that is wrong with a request, so that the caller hears it all at once.
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<FieldError>);

impl Checks {
    /// Notes that `field` is wrong unless `fine`.
    pub(crate) fn check(&mut self, fine: bool, field: &str, message: &str) {
        if !fine {
            self.0.push(FieldError {
                field: field.to_owned(),
                message: message.to_owned(),
            });
        }
    }

    pub(crate) fn finish(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Fault::invalid(self.0))
        }
    }
}
