//! Signing, key sets, rotation, times and revocation, as an honest issuer uses them.

use super::*;

#[test]
fn a_signed_token_verifies_and_says_the_same() {
    let key = SigningKey::generate().unwrap();
    let claims = claims()
        .with_role("admin")
        .with_version(2)
        .with("name", "Ada");
    let token = key.sign(&claims).unwrap();
    let keys = KeySet::parse(key.jwks().as_bytes()).unwrap();
    assert_eq!(
        verifier()
            .verify(&token, &keys, &Revocations::default(), NOW)
            .unwrap(),
        claims
    );
}

#[test]
fn extra_claims_cannot_replace_the_typed_ones() {
    let key = SigningKey::generate().unwrap();
    let token = key
        .sign(&claims().with("sub", "root").with("role", "admin"))
        .unwrap();
    let keys = KeySet::parse(key.jwks().as_bytes()).unwrap();
    let read = verifier()
        .verify(&token, &keys, &Revocations::default(), NOW)
        .unwrap();
    assert_eq!((read.sub.as_str(), read.role), ("user-1", None));
}

#[test]
fn a_stored_key_is_the_same_key() {
    let key = SigningKey::generate().unwrap();
    let again = SigningKey::from_pkcs8(key.to_pkcs8()).unwrap();
    assert_eq!(key.jwks(), again.jwks());
    assert_eq!(
        refusal(SigningKey::from_pkcs8(b"nonsense")),
        "token.key_invalid"
    );
    assert!(!format!("{key:?}").contains(&encode(key.to_pkcs8())));
}

#[test]
fn keys_rotate_without_a_gap() {
    let (old, new) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let both = KeySet::parse(jwks([&old, &new]).as_bytes()).unwrap();
    assert_eq!(both.len(), 2);
    for key in [&old, &new] {
        let token = key.sign(&claims()).unwrap();
        assert!(
            verifier()
                .verify(&token, &both, &Revocations::default(), NOW)
                .is_ok()
        );
    }
    let later = KeySet::parse(new.jwks().as_bytes()).unwrap();
    assert!(later.contains(new.id()) && !later.contains(old.id()));
    let token = old.sign(&claims()).unwrap();
    let result = verifier().verify(&token, &later, &Revocations::default(), NOW);
    assert_eq!(refusal(result), "token.key_unknown");
}

#[test]
fn times_are_checked_with_a_little_leeway() {
    let forge = Forge::new();
    let header = forge.header().to_string();
    for (claim, seconds, code) in [
        ("exp", NOW_SECS - 4, None),
        ("exp", NOW_SECS - 5, Some("token.expired")),
        ("exp", 0, Some("token.expired")),
        ("exp", u64::MAX, None),
        ("nbf", NOW_SECS + 5, None),
        ("nbf", NOW_SECS + 6, Some("token.not_yet_valid")),
        ("iat", NOW_SECS + 5, None),
        ("iat", NOW_SECS + 6, Some("token.not_yet_valid")),
        ("iat", u64::MAX, Some("token.not_yet_valid")),
    ] {
        let token = forge.token(&header, &payload_with(claim, seconds.into()));
        let result = forge
            .verify(&token)
            .map_err(|error| error.code().to_owned());
        assert_eq!(result.err().as_deref(), code, "{claim} {seconds}");
    }
    // A fraction of a second, as RFC 7519 allows.
    let fraction = payload_with("exp", json!(NOW_SECS as f64 + 0.5));
    assert!(forge.verify(&forge.token(&header, &fraction)).is_ok());
}

#[test]
fn a_raised_version_ends_the_earlier_tokens() {
    let forge = Forge::new();
    let header = forge.header().to_string();
    let revocations =
        Revocations::parse(br#"{"min_version":{"user-1":3,"user-2":9},"as_of":1}"#).unwrap();
    let verify = |version: Value| {
        let token = forge.token(&header, &payload_with("ver", version));
        verifier().verify(&token, &forge.keys, &revocations, NOW)
    };
    assert!(verify(json!(3)).is_ok());
    assert_eq!(refusal(verify(json!(2))), "token.revoked");
    assert_eq!(refusal(verify(Value::Null)), "token.revoked");
    let other = forge.token(&header, &payload_with("sub", json!("user-3")));
    assert!(
        verifier()
            .verify(&other, &forge.keys, &revocations, NOW)
            .is_ok()
    );
}

#[test]
fn revocations_that_cannot_be_read_are_an_error() {
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"min_version":[]}"#,
        r#"{"min_version":{"a":"1"}}"#,
    ] {
        let result = Revocations::parse(bad.as_bytes());
        assert_eq!(refusal(result), "token.revocations_invalid", "{bad}");
    }
    let twice = br#"{"min_version":{"a":9,"a":1}}"#;
    assert_eq!(
        refusal(Revocations::parse(twice)),
        "token.revocations_invalid"
    );
}

#[test]
fn claims_too_large_for_a_verifier_are_not_signed() {
    let key = SigningKey::generate().unwrap();
    let large = claims().with("x", "y".repeat(MAX_TOKEN_BYTES));
    assert_eq!(refusal(key.sign(&large)), "token.too_large");
}

#[test]
fn a_key_of_openssl_is_read() {
    // PKCS #8 version 1, as `openssl genpkey -algorithm ed25519 -outform DER` writes it: the private
    // key alone.
    let head = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let key = SigningKey::from_pkcs8(&[head.as_slice(), &[7; 32]].concat()).unwrap();
    assert!(
        KeySet::parse(key.jwks().as_bytes())
            .unwrap()
            .contains(key.id())
    );
}
