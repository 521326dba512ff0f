use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature;
use serde_json::{Map, Value};
use sinew_core::{Error, Kind, Result};

use crate::{Algorithm, strict_json};

const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;
const MAX_KEY_ID_BYTES: usize = 256;

/// The public keys that tokens are verified with, as published in a JWK Set (RFC 7517 §5).
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// One public key, good for one algorithm.
#[derive(Clone)]
pub(crate) struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

#[derive(Clone)]
enum Material {
    /// Ed25519: 32 bytes; P-256: 65 bytes, uncompressed point.
    Point(Vec<u8>),
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

impl KeySet {
    /// Reads a JWK Set document of at most 256 KiB and 64 keys.
    ///
    /// A key is kept when its type is supported (`OKP`/`Ed25519`, `EC`/`P-256`, `RSA` of 2048 to
    /// 8192 bits), it is meant for signatures (`use`, `key_ops`), and its `alg`, if given, fits its
    /// type. An RSA key without `alg` is one for RS256. Other keys are passed over, as RFC 7517 §5
    /// asks, and so are symmetric keys and keys published with their private part.
    ///
    /// Errors: `token.key_set_invalid` when the document is not a JWK Set, or two usable keys share
    /// an id and an algorithm. A set without usable keys is not an error; it verifies nothing.
    pub fn parse(jwks_json: &[u8]) -> Result<Self> {
        if jwks_json.len() > MAX_DOCUMENT_BYTES {
            return Err(invalid(format!(
                "it is larger than {MAX_DOCUMENT_BYTES} bytes"
            )));
        }
        let document = strict_json::object(jwks_json).map_err(invalid)?;
        let Some(Value::Array(members)) = document.get("keys") else {
            return Err(invalid("it has no array `keys`"));
        };
        if members.len() > MAX_KEYS {
            return Err(invalid(format!("it holds more than {MAX_KEYS} keys")));
        }
        let mut keys: Vec<Key> = Vec::new();
        for key in members
            .iter()
            .filter_map(|member| Key::from_jwk(member.as_object()?))
        {
            if keys
                .iter()
                .any(|other| other.algorithm == key.algorithm && other.id == key.id)
            {
                return Err(invalid(format!(
                    "two keys for {} have the same `kid`",
                    key.algorithm
                )));
            }
            keys.push(key);
        }
        Ok(Self { keys })
    }

    /// How many usable keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no token can be verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether some usable key has this id.
    pub fn contains(&self, key_id: &str) -> bool {
        self.keys
            .iter()
            .any(|key| key.id.as_deref() == Some(key_id))
    }

    /// The key that a token with this header must be signed by. Without `kid` it is the only key
    /// of that algorithm; when there are several, the token does not say enough.
    pub(crate) fn select(&self, key_id: Option<&str>, algorithm: Algorithm) -> Result<&Key> {
        let of_id = |key: &&Key| match key_id {
            Some(id) => key.id.as_deref() == Some(id),
            None => true,
        };
        let mut fitting = self
            .keys
            .iter()
            .filter(of_id)
            .filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(Error::new(
                Kind::Unauthenticated,
                "token.key_unknown",
                "the token does not name its key and several could be meant",
            )),
            (None, _) if key_id.is_some_and(|id| self.contains(id)) => Err(Error::new(
                Kind::Unauthenticated,
                "token.algorithm_refused",
                "the token's algorithm is not that of its key",
            )),
            (None, _) => Err(Error::new(
                Kind::Unauthenticated,
                "token.key_unknown",
                "the key that signed the token is not known",
            )),
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|key| (&key.id, key.algorithm)))
            .finish()
    }
}

impl Key {
    fn from_jwk(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        // Absent is fine; present and not a string is not.
        let optional_text = |name: &str| match jwk.get(name) {
            None => Some(None),
            Some(value) => value.as_str().map(Some),
        };
        if optional_text("use")?.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops") {
            operations
                .as_array()?
                .iter()
                .find(|op| op.as_str() == Some("verify"))?;
        }
        // A private key that is published is no longer anybody's.
        if jwk.contains_key("d") {
            return None;
        }
        let id = optional_text("kid")?;
        if id.is_some_and(|id| id.len() > MAX_KEY_ID_BYTES) {
            return None;
        }
        let (material, default) = match (text("kty")?, text("crv")) {
            ("OKP", Some("Ed25519")) => (Material::ed25519(&bytes(text("x")?)?)?, Algorithm::EdDsa),
            ("EC", Some("P-256")) => (
                Material::p256(&bytes(text("x")?)?, &bytes(text("y")?)?)?,
                Algorithm::Es256,
            ),
            ("RSA", _) => (
                Material::rsa(bytes(text("n")?)?, bytes(text("e")?)?)?,
                Algorithm::Rs256,
            ),
            _ => return None,
        };
        let algorithm = match optional_text("alg")? {
            None => default,
            Some(name) => match (Algorithm::from_name(name)?, default) {
                (Algorithm::Ps256, Algorithm::Rs256) => Algorithm::Ps256,
                (named, default) if named == default => named,
                _ => return None,
            },
        };
        Some(Self {
            id: id.map(str::to_owned),
            algorithm,
            material,
        })
    }

    /// Whether `signature` over `message` was made by the owner of this key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, self.algorithm) {
            (Material::Point(point), Algorithm::EdDsa) => {
                signature::UnparsedPublicKey::new(&signature::ED25519, point)
                    .verify(message, signature)
            }
            (Material::Point(point), Algorithm::Es256) => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            (Material::Rsa { modulus, exponent }, Algorithm::Rs256) => {
                signature::RsaPublicKeyComponents {
                    n: modulus,
                    e: exponent,
                }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Material::Rsa { modulus, exponent }, Algorithm::Ps256) => {
                signature::RsaPublicKeyComponents {
                    n: modulus,
                    e: exponent,
                }
                .verify(&signature::RSA_PSS_2048_8192_SHA256, message, signature)
            }
            // `from_jwk` pairs material and algorithm.
            _ => Err(ring::error::Unspecified),
        }
        .is_ok()
    }
}

impl Material {
    fn ed25519(x: &[u8]) -> Option<Self> {
        (x.len() == 32).then(|| Self::Point(x.to_vec()))
    }

    fn p256(x: &[u8], y: &[u8]) -> Option<Self> {
        // 4 marks an uncompressed point (SEC 1 §2.3.3). That it lies on the curve is checked by
        // every verification.
        (x.len() == 32 && y.len() == 32).then(|| Self::Point([&[4], x, y].concat()))
    }

    fn rsa(modulus: Vec<u8>, exponent: Vec<u8>) -> Option<Self> {
        let well_sized = (256..=1024).contains(&modulus.len()) && (1..=4).contains(&exponent.len());
        well_sized.then_some(Self::Rsa { modulus, exponent })
    }
}

fn bytes(base64url: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(base64url).ok()
}

fn invalid(reason: impl fmt::Display) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "token.key_set_invalid",
        format!("the key set cannot be used: {reason}"),
    )
}
