//! Bearer tokens: one that may do everything, one that services share for finding each other.

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sinew_core::{Error, Kind};

use crate::Peer;

use super::{Api, problem::Refusal};

/// The tokens that the API accepts.
#[derive(Clone)]
pub struct Tokens {
    /// May do everything.
    pub admin: String,
    /// May register, send heartbeats, set its status, deregister and discover.
    pub service: String,
}

impl Tokens {
    /// Whether this is one of them.
    pub(crate) fn admits(&self, token: &[u8]) -> bool {
        // Both are always compared, so that the time tells nothing of either.
        equal(token, self.admin.as_bytes()) | equal(token, self.service.as_bytes())
    }
}

/// Whose token a request bears, as an extension of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The admin's, or none where none is needed.
    Admin,
    /// The services'.
    Service,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Either token.
    Service,
    /// The admin's.
    Admin,
    /// The admin's, or to come from this machine.
    LocalOrAdmin,
}

/// Lets the request pass if it may.
pub(super) async fn check(
    State((api, scope)): State<(Api, Scope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let role = admit(&api.0.tokens, &request, scope)?;
    request.extensions_mut().insert(role);
    Ok(next.run(request).await)
}

/// As [`check`] for either token, which may also come as the password of basic authentication (RFC 7617).
pub(super) async fn check_dialect(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.map(|value| value.as_bytes());
    let password = header.and_then(password);
    let bearer = password.map(|password| [b"Bearer ", &password[..]].concat());
    let role = authorise(&api.0.tokens, bearer.as_deref().or(header), Scope::Service)?;
    request.extensions_mut().insert(role);
    Ok(next.run(request).await)
}

/// The password of `Basic …`, whoever the user is.
fn password(header: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = header.split_at_checked(6)?;
    let decoded = scheme
        .eq_ignore_ascii_case(b"basic ")
        .then(|| STANDARD.decode(encoded.trim_ascii()).ok())??;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

fn admit(tokens: &Tokens, request: &Request, scope: Scope) -> Result<Role, Error> {
    let peer = request.extensions().get::<Peer>();
    if scope == Scope::LocalOrAdmin && peer.is_some_and(|peer| peer.0.ip().is_loopback()) {
        return Ok(Role::Admin);
    }
    let header = request.headers().get(header::AUTHORIZATION);
    authorise(tokens, header.map(|value| value.as_bytes()), scope)
}

fn authorise(tokens: &Tokens, header: Option<&[u8]>, scope: Scope) -> Result<Role, Error> {
    let Some(header) = header else {
        return Err(unauthenticated(
            "send the header `Authorization: Bearer <token>`",
        ));
    };
    // The scheme's case does not matter (RFC 9110 §11.1).
    let Some(token) = header
        .split_at_checked(7)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
    else {
        return Err(unauthenticated(
            "the Authorization header is not a bearer token",
        ));
    };
    let token = token.1.trim_ascii();
    // Both are always compared, so that the time tells nothing of either.
    let admin = equal(token, tokens.admin.as_bytes());
    let service = equal(token, tokens.service.as_bytes());
    match (admin, service, scope) {
        (true, _, _) => Ok(Role::Admin),
        (_, true, Scope::Service) => Ok(Role::Service),
        (_, true, _) => Err(Error::new(
            Kind::PermissionDenied,
            "api.scope",
            "the service token does not allow this; use the admin token",
        )),
        _ => Err(unauthenticated("the token is not one of this node's")),
    }
}

fn unauthenticated(why: &str) -> Error {
    Error::new(Kind::Unauthenticated, "api.unauthenticated", why)
}

/// Whether the bytes are the same, in a time that depends on their lengths alone.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| {
        // Keeps the compiler from leaving the loop early.
        std::hint::black_box(difference | (a ^ b))
    });
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_opens_its_doors() {
        let tokens = Tokens {
            admin: "a".repeat(43),
            service: "s".repeat(43),
        };
        let code = |header: Option<&str>, scope| {
            authorise(&tokens, header.map(str::as_bytes), scope)
                .map_err(|error| error.code().to_owned())
        };
        let (admin, service) = (
            format!("Bearer {}", tokens.admin),
            format!("bearer  {}", tokens.service),
        );
        assert_eq!(code(Some(&admin), Scope::Admin), Ok(Role::Admin));
        assert_eq!(code(Some(&admin), Scope::Service), Ok(Role::Admin));
        assert_eq!(code(Some(&service), Scope::Service), Ok(Role::Service));
        assert_eq!(code(Some(&service), Scope::Admin), Err("api.scope".into()));
        let short = format!("Bearer {}", &tokens.admin[1..]);
        let long = format!("Bearer {}a", tokens.admin);
        for bad in [
            None,
            Some(""),
            Some("Bearer "),
            Some("Bearer"),
            Some("Basic YTpi"),
            Some(&short),
            Some(&long),
        ] {
            assert_eq!(
                code(bad, Scope::Service),
                Err("api.unauthenticated".into()),
                "{bad:?}"
            );
        }
    }
}
