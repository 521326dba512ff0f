use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use sinew_core::{Error, Kind, Result};

use crate::Claims;

/// An Ed25519 key that signs tokens. Its id (`kid`) is its thumbprint (RFC 7638), so the same key
/// has the same id wherever it is loaded.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
    id: String,
}

impl SigningKey {
    /// A new random key. Errors: `token.random_unavailable` when the system gives no randomness.
    pub fn generate() -> Result<Self> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| {
            Error::new(
                Kind::Internal,
                "token.random_unavailable",
                "the system gives no random numbers",
            )
        })?;
        Self::from_pkcs8(document.as_ref())
    }

    /// The key in this PKCS #8 document (DER; version 1, as `openssl genpkey -algorithm ed25519
    /// -outform DER` writes it, or version 2). Errors: `token.key_invalid`.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|error| {
            Error::new(
                Kind::InvalidArgument,
                "token.key_invalid",
                "the signing key is not an Ed25519 key in PKCS #8 form",
            )
            .with_source(error.to_string())
        })?;
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        // RFC 7638 §3: the required members, in this order, without spaces.
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, thumbprint.as_bytes()));
        Ok(Self {
            pair,
            pkcs8: der.to_vec(),
            id,
        })
    }

    /// The key as a PKCS #8 document (DER), to be stored where only its owner can read it.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key's id, as it stands in `kid` of the tokens and of the key set.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The token with these claims. Errors: `token.too_large` when verifiers would refuse it for
    /// its length.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id });
        let payload = Value::Object(claims.clone().into_json());
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload.to_string(), &mut token);
        let signature = self.pair.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        if token.len() > crate::MAX_TOKEN_BYTES {
            return Err(Error::new(
                Kind::InvalidArgument,
                "token.too_large",
                format!(
                    "the claims make a token longer than {} bytes",
                    crate::MAX_TOKEN_BYTES
                ),
            ));
        }
        Ok(token)
    }

    /// The JWK Set with this key's public part, to be published.
    pub fn jwks(&self) -> String {
        jwks([self])
    }

    fn public_jwk(&self) -> Value {
        json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(self.pair.public_key()),
        })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// The JWK Set with the public parts of several keys: the old and the new one during a rotation.
pub fn jwks<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> String {
    let keys: Vec<Value> = keys.into_iter().map(SigningKey::public_jwk).collect();
    json!({ "keys": keys }).to_string()
}
