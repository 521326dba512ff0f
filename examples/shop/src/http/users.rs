//! The users service: accounts, and the tokens that the whole shop knows people by.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, post, put},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sinew_core::{Clock, Error, Kind, Retry, new_id};
use sinew_sdk::{Json, Problem, auth};
use sinew_token::{Claims, SigningKey};

use super::{
    Reply,
    request::{now_ms, user_id},
};
use crate::{
    domain::{
        account::{
            MAX_PASSWORD_BYTES, Role, User, canonical_email, check_new_password, check_registration,
        },
        attempts::Attempts,
    },
    fault::{Fault, Result},
    passwords::Passwords,
    storage::{
        Store,
        users::{self, Account},
    },
};

/// Who issues the shop's tokens, and for whom.
pub(crate) const ISSUER: &str = "shop";
pub(crate) const AUDIENCE: &str = "shop";
/// How long a token is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// So much longer than that a changed password is told to those who verify, for their clocks.
const CLOCK_MARGIN: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub(crate) struct Users {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) passwords: Passwords,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) attempts: Arc<Mutex<Attempts>>,
}

pub(crate) fn router(state: Users) -> Router {
    Router::new()
        .route("/users", post(register))
        .route("/users/login", post(login))
        .route("/users/me", get(me))
        .route("/users/me/password", put(change_password))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/.well-known/revoked.json", get(revoked))
        .with_state(state)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    name: String,
    email: String,
    password: String,
}

async fn register(
    State(shop): State<Users>,
    Json(wanted): Json<Registration>,
) -> Result<(StatusCode, Json<User>), Problem> {
    let email = canonical_email(&wanted.email);
    check_registration(&wanted.name, &email, &wanted.password)?;
    let user = User {
        id: new_id(),
        name: wanted.name.trim().to_owned(),
        email,
        role: Role::Customer,
        created_ms: now_ms(&shop.clock),
    };
    shop.add(user.clone(), &wanted.password).await?;
    Ok((StatusCode::CREATED, Json(user)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    email: String,
    password: String,
}

#[derive(Serialize)]
struct Token {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    user: User,
}

async fn login(State(shop): State<Users>, Json(given): Json<Credentials>) -> Reply<Token> {
    let email = canonical_email(&given.email);
    if given.password.len() > MAX_PASSWORD_BYTES || email.len() > MAX_PASSWORD_BYTES {
        return Err(wrong_credentials().into());
    }
    shop.begin_attempt(&email)?;
    let wanted = email.clone();
    let account = shop
        .store
        .read(move |db| users::by_email(db, &wanted))
        .await?;
    let hash = account
        .as_ref()
        .map(|account| account.password_hash.as_str());
    let right = shop.passwords.verify(&given.password, hash).await?;
    let Some(account) = account.filter(|_| right) else {
        return Err(wrong_credentials().into());
    };
    shop.attempts.lock().succeeded(&email);
    Ok(Json(shop.token(account.user, account.version)?))
}

async fn me(State(shop): State<Users>, user: auth::User) -> Reply<User> {
    Ok(Json(shop.current(&user).await?.user))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordChange {
    current_password: String,
    new_password: String,
}

async fn change_password(
    State(shop): State<Users>,
    user: auth::User,
    Json(change): Json<PasswordChange>,
) -> Reply<Token> {
    check_new_password(&change.new_password)?;
    let account = shop.current(&user).await?;
    let email = &account.user.email;
    if change.current_password.len() > MAX_PASSWORD_BYTES {
        return Err(wrong_credentials().into());
    }
    shop.begin_attempt(email)?;
    let hash = Some(account.password_hash.as_str());
    if !shop
        .passwords
        .verify(&change.current_password, hash)
        .await?
    {
        return Err(wrong_credentials().into());
    }
    shop.attempts.lock().succeeded(email);
    let hash = shop.passwords.hash(&change.new_password).await?;
    let (id, checked, now) = (account.user.id, account.version, now_ms(&shop.clock));
    let changed = shop
        .store
        .write(move |db| users::change_password(db, id, checked, &hash, now));
    match changed.await? {
        Some(version) => Ok(Json(shop.token(account.user, version)?)),
        // Somebody else changed it between check and write: what was checked holds no more.
        None => Err(wrong_credentials().into()),
    }
}

async fn jwks(State(shop): State<Users>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/jwk-set+json")],
        shop.key.jwks(),
    )
}

async fn revoked(State(shop): State<Users>) -> Reply<serde_json::Value> {
    let told = (TOKEN_LIFETIME + CLOCK_MARGIN).as_millis();
    let since = now_ms(&shop.clock) - i64::try_from(told).unwrap_or(i64::MAX);
    let versions = shop
        .store
        .read(move |db| users::changed_since(db, since))
        .await?;
    Ok(Json(serde_json::json!({ "min_version": versions })))
}

impl Users {
    /// Makes an account. Errors: `shop.email_taken`, those of [`Passwords::hash`].
    pub(crate) async fn add(&self, user: User, password: &str) -> Result<()> {
        let password_hash = self.passwords.hash(password).await?;
        let account = Account {
            user,
            password_hash,
            version: 1,
        };
        self.store
            .write(move |db| users::create(db, &account))
            .await
    }

    /// The account of the one who calls, if his token is still good here and now.
    async fn current(&self, user: &auth::User) -> Result<Account> {
        let id = user_id(user)?;
        let unknown = || Fault::new(Kind::NotFound, "shop.user_unknown", "there is no such user");
        let found = self.store.read(move |db| users::by_id(db, id)).await?;
        let account = found.ok_or_else(unknown)?;
        let version = user
            .claims()
            .ver
            .and_then(|version| i64::try_from(version).ok());
        if version == Some(account.version) {
            return Ok(account);
        }
        Err(Fault::new(
            Kind::Unauthenticated,
            "shop.credentials_changed",
            "the password was changed since this token was made, log in again",
        ))
    }

    fn begin_attempt(&self, email: &str) -> Result<()> {
        let begun = self.attempts.lock().begin(email, self.clock.monotonic());
        begun.map_err(|wait| {
            Error::new(
                Kind::ResourceExhausted,
                "shop.too_many_attempts",
                "too many wrong passwords for this account, wait a moment",
            )
            .with_retry(Retry::After(wait))
            .into()
        })
    }

    fn token(&self, user: User, version: i64) -> Result<Token> {
        let (id, now) = (user.id.to_string(), self.clock.now());
        let claims = Claims::new(ISSUER, AUDIENCE, id, now, TOKEN_LIFETIME)
            .with_role(user.role.as_str())
            .with_version(version.unsigned_abs());
        Ok(Token {
            access_token: self.key.sign(&claims)?,
            token_type: "Bearer",
            expires_in: TOKEN_LIFETIME.as_secs(),
            user,
        })
    }
}

/// The same whether the account or the password is wrong.
fn wrong_credentials() -> Fault {
    Fault::new(
        Kind::Unauthenticated,
        "shop.credentials_wrong",
        "the e-mail address or the password is wrong",
    )
}
