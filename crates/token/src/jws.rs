//! The compact serialisation: `BASE64URL(header).BASE64URL(payload).BASE64URL(signature)`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sinew_core::{Error, Kind, Result};

use crate::{Algorithm, KeySet, strict_json};

/// Header parameters that would bring a key along. They are never needed: keys come from the key
/// set, and a token that carries one was not made by an issuer we know how to trust.
const KEY_BEARING: [&str; 4] = ["jku", "jwk", "x5u", "x5c"];

/// Verifies the signature of `token` by a key of `keys` and returns the payload.
pub(crate) fn verify(token: &str, keys: &KeySet) -> Result<Map<String, Value>> {
    let parts = Parts::split(token)?;
    let header = strict_json::object(&parts.header).map_err(malformed)?;
    let (key_id, algorithm) = read_header(&header)?;
    if !keys
        .select(key_id, algorithm)?
        .verifies(parts.signed.as_bytes(), &parts.signature)
    {
        return Err(Error::new(
            Kind::Unauthenticated,
            "token.signature_invalid",
            "the token's signature is wrong",
        ));
    }
    strict_json::object(&parts.payload).map_err(malformed)
}

struct Parts<'a> {
    signed: &'a str,
    header: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self> {
        let parts = || {
            let (signed, signature) = token.rsplit_once('.')?;
            // A further dot (an encrypted token has five parts) is no base64url and fails below.
            let (header, payload) = signed.split_once('.')?;
            let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
            Some(Self {
                signed,
                header: decode(header)?,
                payload: decode(payload)?,
                signature: decode(signature)?,
            })
        };
        parts().ok_or_else(|| malformed("it is not three parts of base64url"))
    }
}

fn read_header(header: &Map<String, Value>) -> Result<(Option<&str>, Algorithm)> {
    // No extension is understood, so RFC 7515 §4.1.11 leaves nothing to accept.
    if header.contains_key("crit") {
        return Err(header_refused("it demands extensions (`crit`)"));
    }
    if let Some(name) = KEY_BEARING.iter().find(|name| header.contains_key(**name)) {
        return Err(header_refused(format!("it brings its own key (`{name}`)")));
    }
    match header.get("typ").map(Value::as_str) {
        None => {}
        Some(Some(typ))
            if ["JWT", "at+jwt"]
                .iter()
                .any(|ok| typ.eq_ignore_ascii_case(ok)) => {}
        Some(_) => return Err(header_refused("its type is not `JWT`")),
    }
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.as_str()),
        Some(_) => return Err(header_refused("its `kid` is not a string")),
    };
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(Algorithm::from_name)
        .ok_or_else(|| {
            Error::new(
                Kind::Unauthenticated,
                "token.algorithm_refused",
                "the token's algorithm is not accepted; use EdDSA, ES256, RS256 or PS256",
            )
        })?;
    Ok((key_id, algorithm))
}

pub(crate) fn malformed(reason: impl std::fmt::Display) -> Error {
    // The reason may quote the token, so the client is told the rest by the page of the code.
    Error::new(
        Kind::Unauthenticated,
        "token.malformed",
        "the token is malformed",
    )
    .with_context(reason.to_string())
}

fn header_refused(reason: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::Unauthenticated,
        "token.header_refused",
        format!("the token's header is refused: {reason}"),
    )
}
