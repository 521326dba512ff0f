//! JSON Web Tokens (RFC 7519), signed as compact JWS (RFC 7515) and verified against a published
//! key set (RFC 7517). Used by whoever meets a token: the gateway, the service framework, and the
//! services that issue them.
//!
//! ```
//! use std::time::Duration;
//! use sinew_core::Timestamp;
//! use sinew_token::{Claims, KeySet, Revocations, SigningKey, Verifier};
//!
//! # fn main() -> sinew_core::Result<()> {
//! let now = Timestamp(1_800_000_000_000);
//!
//! // The service that issues.
//! let key = SigningKey::generate()?;
//! let claims = Claims::new("shop", "shop", "user-1", now, Duration::from_secs(3600))
//!     .with_role("customer")
//!     .with_version(1);
//! let token = key.sign(&claims)?;
//!
//! // Whoever verifies, given what the issuer publishes.
//! let keys = KeySet::parse(key.jwks().as_bytes())?;
//! let verifier = Verifier::new("shop", "shop");
//! let verified = verifier.verify(&token, &keys, &Revocations::default(), now)?;
//! assert_eq!(verified.sub, "user-1");
//! # Ok(())
//! # }
//! ```
//!
//! What makes it safe is what it does not do: the key decides the algorithm, never the token, so
//! `none`, HMAC with a public key and every other confusion of algorithms have no path to take;
//! keys come from the key set alone, never from a header of the token; JSON with a name twice is
//! refused, so nobody downstream can read another value than the one that was checked.

#![warn(missing_docs)]

mod algorithm;
mod claims;
mod jws;
mod key_set;
mod revocations;
mod signing;
mod strict_json;
mod verifier;

#[cfg(test)]
mod tests;

pub use algorithm::Algorithm;
pub use claims::Claims;
pub use key_set::KeySet;
pub use revocations::Revocations;
pub use signing::{SigningKey, jwks};
pub use verifier::{MAX_TOKEN_BYTES, Verifier};
