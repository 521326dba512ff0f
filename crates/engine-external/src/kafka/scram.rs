//! SCRAM (RFC 5802, RFC 7677), the client's part, without channel binding, as Kafka wants it.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use ring::{digest, hmac, pbkdf2};

/// The most rounds that a server may ask of us.
const ROUNDS: u32 = 1_000_000;

#[derive(Clone, Copy)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// What the server is told, and what it must say then.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) expected: Bytes,
}

const HEADER: &str = "n,,";

/// The first message.
pub(super) fn first(user: &str, nonce: &str) -> String {
    let user = user.replace('=', "=3D").replace(',', "=2C");
    format!("{HEADER}n={user},r={nonce}")
}

/// The second message; none when the challenge is not one.
pub(super) fn answer(
    hash: Hash,
    first: &str,
    nonce: &str,
    password: &str,
    challenge: &[u8],
) -> Option<Answer> {
    let challenge = std::str::from_utf8(challenge).ok()?;
    let part = |name: &str| {
        challenge
            .split(',')
            .find_map(|part| part.strip_prefix(name))
    };
    let (theirs, salt, rounds) = (part("r=")?, part("s=")?, part("i=")?);
    if !theirs.starts_with(nonce) || theirs.len() == nonce.len() {
        return None;
    }
    let salt = BASE64_STANDARD.decode(salt).ok()?;
    let rounds: u32 = rounds.parse().ok().filter(|rounds| *rounds <= ROUNDS)?;
    let rounds = rounds.try_into().ok()?;
    let (derive, mac, digest) = match hash {
        Hash::Sha256 => (
            pbkdf2::PBKDF2_HMAC_SHA256,
            hmac::HMAC_SHA256,
            &digest::SHA256,
        ),
        Hash::Sha512 => (
            pbkdf2::PBKDF2_HMAC_SHA512,
            hmac::HMAC_SHA512,
            &digest::SHA512,
        ),
    };
    let mut salted = vec![0; digest.output_len()];
    pbkdf2::derive(derive, rounds, &salt, password.as_bytes(), &mut salted);
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac, key), text);
    let client = sign(&salted, b"Client Key");
    let stored = digest::digest(digest, client.as_ref());
    let bare = first.strip_prefix(HEADER)?;
    let last = format!("c={},r={theirs}", BASE64_STANDARD.encode(HEADER));
    let both = format!("{bare},{challenge},{last}");
    let signature = sign(stored.as_ref(), both.as_bytes());
    let proof: Vec<u8> = client
        .as_ref()
        .iter()
        .zip(signature.as_ref())
        .map(|(key, sign)| key ^ sign)
        .collect();
    let server = sign(&salted, b"Server Key");
    let verdict = sign(server.as_ref(), both.as_bytes());
    Some(Answer {
        text: format!("{last},p={}", BASE64_STANDARD.encode(proof)),
        expected: format!("v={}", BASE64_STANDARD.encode(verdict.as_ref())).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        let first = first("user", nonce);
        assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = answer(Hash::Sha256, &first, nonce, "pencil", challenge).unwrap();
        assert_eq!(
            answer.text,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(
            answer.expected,
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn what_is_no_challenge_is_refused() {
        let first = first("user", "nonce");
        for challenge in [
            "r=other,s=AAAA,i=4096",
            "r=nonce,s=AAAA,i=4096",
            "r=nonce1,s=AAAA,i=0",
            "r=nonce1,s=AAAA,i=4000000000",
            "r=nonce1,s=!,i=4096",
            "e=other-error",
        ] {
            assert!(
                answer(Hash::Sha512, &first, "nonce", "x", challenge.as_bytes()).is_none(),
                "{challenge}"
            );
        }
    }
}
