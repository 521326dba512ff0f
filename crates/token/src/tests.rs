use std::time::Duration;

use sinew_core::Timestamp;

use crate::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

#[test]
fn a_signed_token_verifies() {
    let key = SigningKey::generate().unwrap();
    let claims = Claims::new("shop", "shop", "user-1", NOW, Duration::from_secs(3600))
        .with_role("admin")
        .with_version(2)
        .with("name", "Ada");
    let token = key.sign(&claims).unwrap();
    let keys = KeySet::parse(key.jwks().as_bytes()).unwrap();
    let verified = Verifier::new("shop", "shop")
        .verify(&token, &keys, &Revocations::default(), NOW)
        .unwrap();
    assert_eq!(verified, claims);
}
