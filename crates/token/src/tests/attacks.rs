use proptest::prelude::*;
use ring::{hmac, signature::RSA_PKCS1_SHA256};

use super::{
    published::{rsa_jwk, rsa_token, set, verify},
    *,
};

#[test]
fn no_algorithm_but_that_of_the_key() {
    let forge = Forge::new();
    let payload = payload().to_string();
    for alg in [
        "none", "None", "NONE", "nOnE", "", "HS256", "HS512", "RS256", "ES256", "PS256", "RS512",
        "ES384", "eddsa", "EdDSA ", "dir", "RSA1_5",
    ] {
        let mut header = forge.header();
        header["alg"] = alg.into();
        let code = forge.refusal(&header.to_string(), &payload);
        assert_eq!(code, "token.algorithm_refused", "{alg}");
    }
    for alg in [
        json!(null),
        json!(1),
        json!(["EdDSA"]),
        json!({ "EdDSA": 1 }),
    ] {
        let mut header = forge.header();
        header["alg"] = alg;
        let code = forge.refusal(&header.to_string(), &payload);
        assert_eq!(code, "token.algorithm_refused");
    }
}

#[test]
fn unsigned_tokens_are_refused() {
    let forge = Forge::new();
    let (header, payload) = (forge.header().to_string(), payload().to_string());
    let (good_head, good_payload) = (encode(&header), encode(&payload));
    let none = encode(r#"{"alg":"none"}"#);
    for (token, code) in [
        (format!("{none}.{good_payload}."), "token.algorithm_refused"),
        (
            format!("{good_head}.{good_payload}."),
            "token.signature_invalid",
        ),
        (format!("{good_head}.{good_payload}"), "token.malformed"),
        (
            format!("{good_head}.{good_payload}.{}", encode([0; 64])),
            "token.signature_invalid",
        ),
    ] {
        assert_eq!(refusal(forge.verify(&token)), code, "{token}");
    }
}

/// The classic: the public key, which everybody has, used as the secret of an HMAC.
#[test]
fn a_public_key_is_no_hmac_secret() {
    let jwk = rsa_jwk(json!({}));
    let keys = set(std::slice::from_ref(&jwk));
    assert!(verify(&rsa_token("RS256", &RSA_PKCS1_SHA256), &keys).is_ok());
    let signed = format!(
        "{}.{}",
        encode(json!({ "alg": "HS256", "kid": "r" }).to_string()),
        encode(payload().to_string())
    );
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for secret in [modulus.as_slice(), jwk.to_string().as_bytes()] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let token = format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes())));
        assert_eq!(refusal(verify(&token, &keys)), "token.algorithm_refused");
    }
    // The same with a symmetric key in the set itself.
    let secret = json!({ "kty": "oct", "kid": "r", "k": encode("secret"), "alg": "HS256" });
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let token = format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes())));
    assert_eq!(
        refusal(verify(&token, &set(&[secret]))),
        "token.algorithm_refused"
    );
}

#[test]
fn a_token_cannot_bring_its_key_or_demand_extensions() {
    let forge = Forge::new();
    let attacker = SigningKey::generate().unwrap();
    let own: Value = serde_json::from_str(&attacker.jwks()).unwrap();
    for (name, value) in [
        ("jwk", own["keys"][0].clone()),
        ("jku", json!("https://attacker.example/jwks.json")),
        ("x5u", json!("https://attacker.example/cert.pem")),
        ("x5c", json!(["MIIB"])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("typ", json!("logout+jwt")),
        ("typ", json!(1)),
        ("kid", json!(["a"])),
        ("kid", json!(null)),
    ] {
        let mut header = forge.header();
        header[name] = value;
        let code = forge.refusal(&header.to_string(), &payload().to_string());
        assert_eq!(code, "token.header_refused", "{header}");
    }
}

#[test]
fn key_ids_only_ever_choose_from_the_set() {
    let forge = Forge::new();
    let long = "a".repeat(4000);
    for kid in [
        "../../dev/null",
        "' OR 1=1 --",
        "",
        "\u{0}",
        "https://a.example/k",
        &long,
    ] {
        let mut header = forge.header();
        header["kid"] = kid.into();
        let code = forge.refusal(&header.to_string(), &payload().to_string());
        assert_eq!(code, "token.key_unknown", "{kid:?}");
    }
}

#[test]
fn names_given_twice_are_refused() {
    let forge = Forge::new();
    let (header, good) = (forge.header().to_string(), payload().to_string());
    let twice_alg = header.replacen('{', r#"{"alg":"none","#, 1);
    assert_eq!(forge.refusal(&twice_alg, &good), "token.malformed");
    for twice in [
        good.replacen('{', r#"{"sub":"root","#, 1),
        good.replacen('{', r#"{"\u0073ub":"root","#, 1),
        good.replacen('{', r#"{"x":{"a":1,"a":2},"#, 1),
    ] {
        assert_eq!(forge.refusal(&header, &twice), "token.malformed", "{twice}");
    }
}

#[test]
fn claims_of_a_wrong_shape_are_refused() {
    let forge = Forge::new();
    let header = forge.header().to_string();
    for (claim, value) in [
        ("exp", json!(null)),
        ("exp", json!("1800003600")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(true)),
        ("iat", json!("now")),
        ("nbf", json!([])),
        ("sub", json!(null)),
        ("sub", json!("")),
        ("sub", json!(1)),
        ("iss", json!(null)),
        ("iss", json!(["shop"])),
        ("aud", json!(null)),
        ("aud", json!(1)),
        ("aud", json!(["shop", 1])),
        ("ver", json!(-1)),
        ("ver", json!("9")),
        ("ver", json!(1.5)),
        ("role", json!(["admin"])),
    ] {
        let code = forge.refusal(&header, &payload_with(claim, value.clone()));
        assert_eq!(code, "token.malformed", "{claim} {value}");
    }
}

#[test]
fn issuer_and_audience_are_exact() {
    let forge = Forge::new();
    let header = forge.header().to_string();
    for issuer in ["", "Shop", "shop ", "shop/", "https://shop"] {
        let code = forge.refusal(&header, &payload_with("iss", json!(issuer)));
        assert_eq!(code, "token.wrong_issuer", "{issuer:?}");
    }
    for audience in [
        json!(""),
        json!("SHOP"),
        json!([]),
        json!(["a", "shop2"]),
        json!("shop,a"),
    ] {
        let code = forge.refusal(&header, &payload_with("aud", audience.clone()));
        assert_eq!(code, "token.wrong_audience", "{audience}");
    }
    let several = payload_with("aud", json!(["a", "shop"]));
    assert!(forge.verify(&forge.token(&header, &several)).is_ok());
}

#[test]
fn a_token_has_one_spelling_only() {
    let forge = Forge::new();
    let token = forge.token(&forge.header().to_string(), &payload().to_string());
    assert!(forge.verify(&token).is_ok());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    // 64 bytes leave four unused bits in the last character.
    let last = signature.chars().last().unwrap();
    let next = char::from(last as u8 + 1);
    for other in [
        format!("{signed}.{}{next}", &signature[..signature.len() - 1]),
        format!("{token}=="),
        format!("{token}."),
        format!("{token}.x"),
        format!(" {token}"),
        format!("{token}\n"),
        token.replace('.', ".."),
        token.replace('-', "+").replace('_', "/") + "+",
    ] {
        assert_eq!(refusal(forge.verify(&other)), "token.malformed", "{other}");
    }
}

#[test]
fn a_changed_token_is_refused_at_every_byte() {
    let forge = Forge::new();
    let token = forge.token(&forge.header().to_string(), &payload().to_string());
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(forge.verify(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn long_tokens_are_refused_unread() {
    let forge = Forge::new();
    let header = forge.header().to_string();
    let long = forge.token(
        &header,
        &payload_with("x", json!("y".repeat(MAX_TOKEN_BYTES))),
    );
    assert_eq!(refusal(forge.verify(&long)), "token.malformed");
    let encrypted = format!("{}.a.b.c.d", encode(r#"{"alg":"dir","enc":"A128GCM"}"#));
    assert_eq!(refusal(forge.verify(&encrypted)), "token.malformed");
}

proptest! {
    #[test]
    fn arbitrary_input_never_panics(
        token in ".{0,300}",
        document in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let forge = Forge::new();
        prop_assert!(forge.verify(&token).is_err());
        let _ = KeySet::parse(&document);
        let _ = Revocations::parse(&document);
        prop_assert!(SigningKey::from_pkcs8(&document).is_err());
    }

    /// Deeper than arbitrary text gets: the parts are base64url, and the signature is good.
    #[test]
    fn arbitrary_parts_under_a_good_signature_never_panic(header in ".{0,100}", payload in ".{0,100}") {
        let forge = Forge::new();
        prop_assert!(forge.verify(&forge.token(&header, &payload)).is_err());
        let good = forge.header().to_string();
        prop_assert!(forge.verify(&forge.token(&good, &payload)).is_err());
    }

    #[test]
    fn arbitrary_claims_survive_signing(
        subject in ".{1,50}",
        role in proptest::option::of(".{0,20}"),
        version in proptest::option::of(any::<u64>()),
        extra in ".{0,50}",
    ) {
        let key = SigningKey::generate().unwrap();
        let keys = KeySet::parse(key.jwks().as_bytes()).unwrap();
        let mut claims = Claims::new("shop", "shop", subject, NOW, Duration::from_secs(60));
        (claims.role, claims.ver) = (role, version);
        let claims = claims.with("note", extra);
        let token = key.sign(&claims).unwrap();
        prop_assert_eq!(verify(&token, &keys).unwrap(), claims);
    }
}
