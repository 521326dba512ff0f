//! Who may use the dialect: whoever has one of the node's tokens. Eureka's clients put it into the URL
//! (`http://any-name:TOKEN@host/…`, or `http://TOKEN@host/…`), which becomes basic authentication; a
//! bearer token does as well. The service token is enough for everything here, as registering,
//! discovering and setting statuses is what it is for.

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use sinew_core::{Error, Kind, Result};

use crate::rest::Tokens;

/// Unauthenticated `api.unauthenticated`.
pub(super) fn check(tokens: &Tokens, headers: &HeaderMap) -> Result<()> {
    let refuse = |why| {
        Err(Error::new(
            Kind::Unauthenticated,
            "api.unauthenticated",
            why,
        ))
    };
    let Some(header) = headers.get(header::AUTHORIZATION) else {
        return refuse(
            "put the service token into the URL, http://any-name:TOKEN@host/eureka/, or send it as a bearer token",
        );
    };
    let header = header.as_bytes();
    let scheme_end = header
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(header.len());
    let (scheme, rest) = header.split_at(scheme_end);
    let rest = rest.trim_ascii();
    let token = if scheme.eq_ignore_ascii_case(b"bearer") {
        rest.to_vec()
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        match STANDARD.decode(rest) {
            Ok(pair) => password(pair),
            Err(_) => return refuse("the basic authentication is not base64"),
        }
    } else {
        return refuse("the Authorization header is neither basic nor bearer");
    };
    match tokens.admits(&token) {
        true => Ok(()),
        false => refuse("the token is not one of this node's"),
    }
}

/// The password of `user:password`; the user when there is none.
fn password(mut pair: Vec<u8>) -> Vec<u8> {
    match pair.iter().position(|byte| *byte == b':') {
        Some(colon) if colon + 1 < pair.len() => pair.split_off(colon + 1),
        Some(colon) => {
            pair.truncate(colon);
            pair
        }
        None => pair,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_where_clients_put_it() {
        let tokens = Tokens {
            admin: "a".repeat(43),
            service: "s".repeat(43),
        };
        let allowed = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            check(&tokens, &headers).is_ok()
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for token in [&tokens.admin, &tokens.service] {
            for good in [
                format!("Bearer {token}"),
                basic(&format!("any:{token}")),
                basic(&format!("{token}:")),
                basic(token),
                basic(&format!(":{token}")).replacen("Basic", "bASIC", 1),
            ] {
                assert!(allowed(&good), "{good}");
            }
        }
        for bad in [
            "",
            "Basic",
            "Basic !",
            "Bearer",
            "Bearer  x",
            "Digest a",
            &basic("a:b"),
            &basic(":"),
            &basic(""),
        ] {
            assert!(!allowed(bad), "{bad}");
        }
        assert!(check(&tokens, &HeaderMap::new()).is_err());
    }
}
