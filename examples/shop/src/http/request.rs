//! What requests of several services have in common.

use axum::http::{HeaderMap, HeaderName};
use serde::Deserialize;
use sinew_core::{Clock, Kind};
use sinew_sdk::auth::User;
use uuid::Uuid;

use crate::fault::{Checks, Fault, Result};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_PAGE: usize = 100;

/// Which page of a list is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Paging {
    limit: Option<usize>,
    pub(super) cursor: Option<Uuid>,
}

impl Paging {
    /// How many items a page has. Errors: `shop.invalid_request`.
    pub(super) fn limit(&self) -> Result<usize> {
        let limit = self.limit.unwrap_or(20);
        let mut checks = Checks::default();
        checks.check((1..=MAX_PAGE).contains(&limit), "limit", "must be 1 to 100");
        checks.finish()?;
        Ok(limit)
    }
}

/// The key that makes a request one that may be repeated.
/// Errors: `shop.idempotency_key_missing`, `shop.invalid_request`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<String> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Err(Fault::new(
            Kind::InvalidArgument,
            "shop.idempotency_key_missing",
            "send a header Idempotency-Key with a new value for each new request",
        ));
    };
    let key = key.to_str().unwrap_or_default();
    let mut checks = Checks::default();
    let fits = (1..=128).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    checks.check(
        fits,
        "Idempotency-Key",
        "must be 1 to 128 visible ASCII characters",
    );
    checks.finish()?;
    Ok(key.to_owned())
}

/// The id of the one who calls. Errors: `shop.user_unknown`.
pub(super) fn user_id(user: &User) -> Result<Uuid> {
    user.id().parse().map_err(|_| {
        Fault::new(
            Kind::NotFound,
            "shop.user_unknown",
            "the token is of no user of this shop",
        )
    })
}

/// Milliseconds since 1970.
pub(super) fn now_ms(clock: &Clock) -> i64 {
    i64::try_from(clock.now().as_millis()).unwrap_or(i64::MAX)
}
