//! Key sets as other issuers publish them, and the other algorithms.

use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
        RsaEncoding, RsaKeyPair,
    },
};

use super::*;

/// Made for these tests by `openssl genpkey -algorithm RSA`; it guards nothing.
const RSA_KEY: &[u8] = include_bytes!("rsa_for_tests_only.der");

fn rsa() -> RsaKeyPair {
    RsaKeyPair::from_pkcs8(RSA_KEY).unwrap()
}

pub(super) fn rsa_jwk(extra: Value) -> Value {
    let public = ring::signature::RsaPublicKeyComponents::<Vec<u8>>::from(rsa().public());
    let mut jwk = json!({ "kty": "RSA", "kid": "r", "n": encode(public.n), "e": encode(public.e) });
    jwk.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    jwk
}

pub(super) fn rsa_token(alg: &str, encoding: &'static dyn RsaEncoding) -> String {
    let header = json!({ "alg": alg, "kid": "r" }).to_string();
    let signed = format!("{}.{}", encode(header), encode(payload().to_string()));
    let pair = rsa();
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(
        encoding,
        &SystemRandom::new(),
        signed.as_bytes(),
        &mut signature,
    )
    .unwrap();
    format!("{signed}.{}", encode(signature))
}

pub(super) fn set(jwks: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": jwks }).to_string().as_bytes()).unwrap()
}

pub(super) fn verify(token: &str, keys: &KeySet) -> sinew_core::Result<Claims> {
    verifier().verify(token, keys, &Revocations::default(), NOW)
}

#[test]
fn rsa_keys_verify_by_the_algorithm_that_they_name() {
    let pkcs1 = rsa_token("RS256", &RSA_PKCS1_SHA256);
    let pss = rsa_token("PS256", &RSA_PSS_SHA256);
    let unnamed = set(&[rsa_jwk(json!({}))]);
    let for_pss = set(&[rsa_jwk(json!({ "alg": "PS256" }))]);
    assert!(verify(&pkcs1, &unnamed).is_ok());
    assert!(verify(&pss, &for_pss).is_ok());
    assert_eq!(refusal(verify(&pss, &unnamed)), "token.algorithm_refused");
    assert_eq!(refusal(verify(&pkcs1, &for_pss)), "token.algorithm_refused");
    // The right name over the wrong padding.
    let mixed = rsa_token("RS256", &RSA_PSS_SHA256);
    assert_eq!(refusal(verify(&mixed, &unnamed)), "token.signature_invalid");
}

#[test]
fn p256_keys_verify() {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
    let keys = set(&[json!({ "kty": "EC", "crv": "P-256", "kid": "e", "x": x, "y": y })]);
    let header = json!({ "alg": "ES256", "kid": "e" }).to_string();
    let signed = format!("{}.{}", encode(header), encode(payload().to_string()));
    let signature = pair.sign(&random, signed.as_bytes()).unwrap();
    let good = format!("{signed}.{}", encode(signature.as_ref()));
    assert!(verify(&good, &keys).is_ok());
    // CVE-2022-21449: r = s = 0.
    let zeros = format!("{signed}.{}", encode([0; 64]));
    assert_eq!(refusal(verify(&zeros, &keys)), "token.signature_invalid");
    // A point that is not on the curve.
    let off = set(&[json!({ "kty": "EC", "crv": "P-256", "kid": "e", "x": y, "y": x })]);
    assert_eq!(refusal(verify(&good, &off)), "token.signature_invalid");
}

#[test]
fn ed25519_as_in_rfc_8037() {
    // RFC 8037, appendix A.2 and A.4: the signature of "Example of Ed25519 signing".
    let keys = set(&[json!({
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    })]);
    let key = keys.select(None, Algorithm::EdDsa).unwrap();
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = URL_SAFE_NO_PAD
        .decode(
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        )
        .unwrap();
    assert!(key.verifies(signed.as_bytes(), &signature));
    assert!(!key.verifies(b"something else", &signature));
}

#[test]
fn keys_that_are_not_for_verifying_signatures_are_passed_over() {
    let x = encode([1; 32]);
    for passed_over in [
        json!({ "kty": "oct", "kid": "k", "alg": "HS256", "k": "c2VjcmV0" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": x }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "use": "enc" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "use": 1 }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "key_ops": ["sign"] }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": "ES256" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": "HS256" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "d": x }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": encode([1; 31]) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "not base64!" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": 7 }),
        json!({ "kty": "EC", "crv": "P-384", "x": x, "y": x }),
        json!({ "kty": "EC", "crv": "P-256", "x": x }),
        json!({ "kty": "RSA", "n": encode([255; 128]), "e": "AQAB" }),
        rsa_jwk(json!({ "alg": "RS512" })),
        rsa_jwk(json!({ "alg": "none" })),
        json!({}),
        json!("key"),
    ] {
        assert!(
            set(std::slice::from_ref(&passed_over)).is_empty(),
            "{passed_over}"
        );
    }
    let kept = json!({
        "kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "key_ops": ["verify"],
        "alg": "Ed25519", "x5t": "whatever",
    });
    assert_eq!(set(&[kept]).len(), 1);
}

#[test]
fn documents_that_are_no_key_sets_are_errors() {
    let x = encode([1; 32]);
    let key = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"a","x":"{x}"}}"#);
    for bad in [
        String::new(),
        "[]".into(),
        "{}".into(),
        r#"{"keys":{}}"#.into(),
        r#"{"keys":[],"keys":[]}"#.into(),
        format!(r#"{{"keys":[{key},{key}]}}"#),
        format!(r#"{{"keys":[{}]}}"#, vec!["{}"; 65].join(",")),
        format!(r#"{{"keys":[],"pad":"{}"}}"#, "x".repeat(256 * 1024)),
    ] {
        let result = KeySet::parse(bad.as_bytes());
        assert_eq!(refusal(result), "token.key_set_invalid", "{:.80}", bad);
    }
}

#[test]
fn without_a_key_id_there_must_be_no_choice() {
    let forge = Forge::new();
    let header = json!({ "alg": "EdDSA" }).to_string();
    let token = forge.token(&header, &payload().to_string());
    assert!(forge.verify(&token).is_ok());
    let other = SigningKey::generate().unwrap();
    let this = SigningKey::generate().unwrap();
    let two = KeySet::parse(jwks([&this, &other]).as_bytes()).unwrap();
    assert_eq!(refusal(verify(&token, &two)), "token.key_unknown");
}
