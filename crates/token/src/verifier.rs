use std::time::Duration;

use sinew_core::{Error, Kind, Result, Timestamp};

use crate::{Claims, KeySet, Revocations, jws};

/// Longer tokens are refused unread.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What a token must say to be accepted. Build once, share freely.
#[derive(Clone, Debug)]
pub struct Verifier {
    issuer: String,
    audience: String,
    leeway: Duration,
}

impl Verifier {
    /// Accepts tokens whose `iss` is exactly `issuer` and whose `aud` is or holds exactly
    /// `audience`, with 5 s of leeway between the clocks.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            leeway: Duration::from_secs(5),
        }
    }

    /// Allows the issuer's clock and ours to differ by this much, at most one minute.
    #[must_use]
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway.min(Duration::from_secs(60));
        self
    }

    /// Verifies signature, times, issuer, audience and revocation, in this order, so that only a
    /// token with a good signature learns what else is wrong with it.
    ///
    /// Errors, all Unauthenticated: `token.malformed`, `token.header_refused`,
    /// `token.algorithm_refused`, `token.key_unknown` (fetching the key set again may help),
    /// `token.signature_invalid`, `token.expired`, `token.not_yet_valid`, `token.wrong_issuer`,
    /// `token.wrong_audience`, `token.revoked`.
    pub fn verify(
        &self,
        token: &str,
        keys: &KeySet,
        revocations: &Revocations,
        now: Timestamp,
    ) -> Result<Claims> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(jws::malformed(format!(
                "it is longer than {MAX_TOKEN_BYTES} bytes"
            )));
        }
        let payload = jws::verify(token, keys)?;
        let claims = Claims::from_json(payload)
            .map_err(|claim| jws::malformed(format!("claim `{claim}` is absent or wrong")))?;
        self.check(&claims, revocations, now)?;
        Ok(claims)
    }

    fn check(&self, claims: &Claims, revocations: &Revocations, now: Timestamp) -> Result<()> {
        let leeway = self.leeway.as_secs();
        let now = now.as_secs();
        let refuse = |code, message| Err(Error::new(Kind::Unauthenticated, code, message));
        if now >= claims.exp.saturating_add(leeway) {
            return refuse("token.expired", "the token has expired; log in again");
        }
        let begins = claims.nbf.unwrap_or(0).max(claims.iat.unwrap_or(0));
        if begins > now.saturating_add(leeway) {
            return refuse("token.not_yet_valid", "the token is not valid yet");
        }
        if claims.iss != self.issuer {
            return refuse(
                "token.wrong_issuer",
                "the token was issued by somebody else",
            );
        }
        if !claims.aud.contains(&self.audience) {
            return refuse(
                "token.wrong_audience",
                "the token is meant for somebody else",
            );
        }
        if revocations.void(claims) {
            return refuse("token.revoked", "the token was revoked; log in again");
        }
        Ok(())
    }
}
