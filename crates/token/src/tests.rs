//! What an attacker can do to a token, and what an issuer may.

mod attacks;
mod issuer;
mod published;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sinew_core::Timestamp;

use crate::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const NOW_SECS: u64 = 1_800_000_000;

/// An issuer whose tokens say whatever the test wants, signed well.
struct Forge {
    pair: ring::signature::Ed25519KeyPair,
    id: String,
    keys: KeySet,
}

impl Forge {
    fn new() -> Self {
        let key = SigningKey::generate().unwrap();
        let pair = ring::signature::Ed25519KeyPair::from_pkcs8(key.to_pkcs8()).unwrap();
        let keys = KeySet::parse(key.jwks().as_bytes()).unwrap();
        Self {
            pair,
            id: key.id().to_owned(),
            keys,
        }
    }

    fn header(&self) -> Value {
        json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id })
    }

    /// Signs header and payload as they stand, text for text.
    fn token(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(payload));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    fn verify(&self, token: &str) -> sinew_core::Result<Claims> {
        verifier().verify(token, &self.keys, &Revocations::default(), NOW)
    }

    /// The code that a token with these texts is refused with.
    fn refusal(&self, header: &str, payload: &str) -> String {
        refusal(self.verify(&self.token(header, payload)))
    }
}

fn verifier() -> Verifier {
    Verifier::new("shop", "shop")
}

fn payload() -> Value {
    json!({
        "iss": "shop", "aud": "shop", "sub": "user-1", "iat": NOW_SECS, "exp": NOW_SECS + 3600,
        "jti": "t-1", "role": "customer", "ver": 1,
    })
}

/// The payload with one claim replaced, or taken out by null.
fn payload_with(claim: &str, value: Value) -> String {
    let mut payload = payload();
    match value {
        Value::Null => drop(payload.as_object_mut().unwrap().remove(claim)),
        value => payload[claim] = value,
    }
    payload.to_string()
}

fn claims() -> Claims {
    Claims::new("shop", "shop", "user-1", NOW, Duration::from_secs(3600))
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: sinew_core::Result<T>) -> String {
    result.unwrap_err().code().to_owned()
}
