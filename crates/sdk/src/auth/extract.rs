use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use sinew_core::{Error, Kind};
use sinew_token::Claims;

use super::Auth;
use crate::Problem;

/// The one who calls, by a bearer token that was verified. As an extractor it answers 401 without a
/// good token and 503 while tokens cannot be verified. `Option<User>` is `None` without any token;
/// a bad one is refused all the same.
#[derive(Clone, Debug)]
pub struct User {
    claims: Claims,
    token: String,
}

/// A [`User`] whose role is `admin`; 403 `sdk.role_missing` otherwise.
#[derive(Clone, Debug)]
pub struct Admin(pub User);

impl User {
    /// The user's id (`sub`).
    pub fn id(&self) -> &str {
        &self.claims.sub
    }

    /// The user's role; empty when the token names none.
    pub fn role(&self) -> &str {
        self.claims.role.as_deref().unwrap_or_default()
    }

    /// Whether the role is `admin`.
    pub fn is_admin(&self) -> bool {
        self.role() == "admin"
    }

    /// 403 `sdk.role_missing` unless the role is this one.
    pub fn require_role(&self, role: &str) -> Result<(), Problem> {
        if self.role() == role {
            return Ok(());
        }
        Err(Problem::new(
            Kind::PermissionDenied,
            "sdk.role_missing",
            format!("this needs the role {role}"),
        ))
    }

    /// All that the token says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The token itself, to be passed on to other services.
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(token) = bearer(&parts.headers)? else {
            let error = Error::new(
                Kind::Unauthenticated,
                "sdk.token_missing",
                "log in and send the token as Authorization: Bearer",
            );
            return Err(challenge(error, "Bearer"));
        };
        let Some(auth) = parts.extensions.get::<Auth>() else {
            return Err(Problem::new(
                Kind::Internal,
                "sdk.auth_missing",
                "the service was not told how to verify tokens",
            ));
        };
        match auth.verify(token).await {
            Ok(claims) => Ok(Self {
                claims,
                token: token.to_owned(),
            }),
            Err(error) if error.kind() == Kind::Unauthenticated => {
                Err(challenge(error, "Bearer error=\"invalid_token\""))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Problem> {
        if !parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        <Self as FromRequestParts<S>>::from_request_parts(parts, state)
            .await
            .map(Some)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let user = <User as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        user.require_role("admin")?;
        Ok(Self(user))
    }
}

/// The token of the one `Authorization` header (RFC 6750 §2.1); `None` without any.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, more) = (values.next(), values.next());
    let Some(value) = value else { return Ok(None) };
    let token = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim_matches(' '));
    match (token, more) {
        (Some(token), None) => Ok(Some(token)),
        _ => {
            let error = Error::new(
                Kind::Unauthenticated,
                "sdk.token_missing",
                "send one header Authorization: Bearer",
            );
            Err(challenge(error, "Bearer error=\"invalid_request\""))
        }
    }
}

/// A 401 with the challenge that RFC 9110 §15.5.2 demands.
fn challenge(error: Error, challenge: &'static str) -> Problem {
    let challenge = HeaderValue::from_static(challenge);
    Problem::from(error).with_header(header::WWW_AUTHENTICATE, challenge)
}
