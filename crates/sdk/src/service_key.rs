use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::{HeaderName, HeaderValue, request::Parts};
use ring::{hmac, rand::SystemRandom};
use sinew_core::{Error, Kind, Result};

use crate::Problem;

pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-service-key");

/// Proof that another service calls: header `X-Service-Key` equals this service's
/// `SINEW_SERVICE_KEY`. 401 `sdk.service_key_missing`, 403 `sdk.service_key_wrong` otherwise, also
/// when this service has no key. The caller says [`crate::client::Request::internal`].
#[derive(Clone, Copy, Debug)]
pub struct ServiceKey(());

/// The secret, in the form needed to send it and to compare with it.
#[derive(Clone)]
pub(crate) struct Secret {
    pub(crate) header: HeaderValue,
    check: Arc<(hmac::Key, hmac::Tag)>,
}

impl Secret {
    pub(crate) fn new(text: &str) -> Result<Self> {
        let wrong = || crate::environment::invalid("SINEW_SERVICE_KEY", "it is no header value");
        if text.len() < 16 {
            let reason = "it is shorter than 16 characters";
            return Err(crate::environment::invalid("SINEW_SERVICE_KEY", reason));
        }
        let mut header = HeaderValue::try_from(text).map_err(|_| wrong())?;
        header.set_sensitive(true);
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| {
            Error::new(
                Kind::Internal,
                "sdk.random_unavailable",
                "the system gives no randomness",
            )
        })?;
        let tag = hmac::sign(&key, text.as_bytes());
        Ok(Self {
            header,
            check: Arc::new((key, tag)),
        })
    }

    /// Compares MACs under a key that nobody knows, so time tells neither content nor length.
    fn is(&self, presented: &[u8]) -> bool {
        let (key, tag) = &*self.check;
        hmac::verify(key, presented, tag.as_ref()).is_ok()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ServiceKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(presented) = parts.headers.get(HEADER) else {
            return Err(Problem::new(
                Kind::Unauthenticated,
                "sdk.service_key_missing",
                "this is for other services only; they send a service key",
            ));
        };
        match parts.extensions.get::<Secret>() {
            Some(secret) if secret.is(presented.as_bytes()) => Ok(Self(())),
            _ => Err(Problem::new(
                Kind::PermissionDenied,
                "sdk.service_key_wrong",
                "the service key is not the one of this service",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn extract(secret: Option<Secret>, presented: Option<&str>) -> Result<(), String> {
        let mut request = http::Request::new(());
        if let Some(presented) = presented {
            request
                .headers_mut()
                .insert(HEADER, presented.parse().unwrap());
        }
        if let Some(secret) = secret {
            request.extensions_mut().insert(secret);
        }
        let mut parts = request.into_parts().0;
        let result = ServiceKey::from_request_parts(&mut parts, &()).await;
        result
            .map(drop)
            .map_err(|problem| problem.error().code().to_owned())
    }

    #[tokio::test]
    async fn only_the_right_key_opens() {
        let secret = || Some(Secret::new("0123456789abcdef").unwrap());
        assert_eq!(extract(secret(), Some("0123456789abcdef")).await, Ok(()));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "x"] {
            let error = extract(secret(), Some(wrong)).await.unwrap_err();
            assert_eq!(error, "sdk.service_key_wrong");
        }
        assert_eq!(
            extract(secret(), None).await.unwrap_err(),
            "sdk.service_key_missing"
        );
        let error = extract(None, Some("0123456789abcdef")).await.unwrap_err();
        assert_eq!(error, "sdk.service_key_wrong");
    }
}
