//! Puts each service together and runs it.

use std::{path::Path, sync::Arc};

use serde::Deserialize;
use sinew_core::{Error, Kind, new_id};
use sinew_sdk::{Client, Service, auth::Auth};
use sinew_token::{KeySet, SigningKey};

use crate::{
    checkout::{Checkout, HttpPeers},
    domain::{
        account::{Role, User},
        attempts::Attempts,
    },
    fault::Result,
    http,
    passwords::Passwords,
    secrets,
    storage::{self, Store},
};

/// The shop's services.
pub const SERVICES: [&str; 5] = ["users", "products", "carts", "orders", "payments"];

/// The account that the first start makes.
const ADMIN_EMAIL: &str = "admin@shop.example";
/// No request of the shop is larger.
const MAX_BODY: usize = 64 * 1024;
/// So many accounts' failed logins are remembered.
const MAX_ATTEMPTS: usize = 10_000;

/// What can be set through the environment; see the README.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Settings {
    argon2_memory_kib: u32,
    argon2_passes: u32,
    bank_seed: Option<i64>,
    bank_decline_permille: Option<i64>,
    bank_latency_ms: Option<i64>,
    bank_outage: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        // OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
        Self {
            argon2_memory_kib: 19_456,
            argon2_passes: 2,
            bank_seed: None,
            bank_decline_permille: None,
            bank_latency_ms: None,
            bank_outage: None,
        }
    }
}

/// Runs one of [`SERVICES`] until it is asked to stop. Errors: `shop.service_unknown`, those of
/// opening its database, and those of [`Service::run`].
pub(crate) async fn serve(name: &str) -> sinew_core::Result<()> {
    let service = Service::new(name)?;
    let client = service.client();
    assemble(name, service, client).await?.run().await
}

/// The service `name` with its routes and its database in the service's data folder; it calls
/// others by `client`.
pub(crate) async fn assemble(name: &str, service: Service, client: Client) -> Result<Service> {
    let settings: Settings = service.config("SHOP")?;
    let service = service.max_body(MAX_BODY);
    std::fs::create_dir_all(service.data()).map_err(|error| {
        let text = format!("the folder {} cannot be made", service.data().display());
        Error::new(Kind::Internal, "shop.data_unusable", text).with_source(error)
    })?;
    let file = service.data().join(format!("{name}.db"));
    let clock = service.clock();
    let auth = Auth::new(&client, http::users::ISSUER, http::users::AUDIENCE)
        .keys("users", "/.well-known/jwks.json")
        .revocations("users", "/.well-known/revoked.json");
    match name {
        "users" => users(service, &file, &settings).await,
        "products" => {
            let store = Store::open(&file, storage::products::MIGRATIONS)?;
            let state = http::products::Products {
                store: store.clone(),
                clock,
            };
            Ok(with_check(service.auth(auth), store).routes(http::products::router(state)))
        }
        "carts" => {
            let store = Store::open(&file, storage::carts::MIGRATIONS)?;
            let state = http::carts::Carts {
                store: store.clone(),
                clock,
                client,
            };
            Ok(with_check(service.auth(auth), store).routes(http::carts::router(state)))
        }
        "orders" => {
            let store = Store::open(&file, storage::orders::MIGRATIONS)?;
            let peers = Arc::new(HttpPeers::new(client));
            let checkout = Checkout::new(
                store.clone(),
                peers,
                clock,
                service.drain(),
                service.metrics(),
                service.instance().as_str(),
            );
            tokio::spawn(checkout.clone().sweep_for_ever());
            Ok(with_check(service.auth(auth), store).routes(http::orders::router(checkout)))
        }
        "payments" => {
            let store = Store::open(&file, storage::payments::MIGRATIONS)?;
            let change = storage::payments::BankChange {
                seed: settings.bank_seed,
                decline_permille: settings.bank_decline_permille,
                latency_ms: settings.bank_latency_ms,
                outage: settings.bank_outage,
            };
            http::payments::check_bank(change)?;
            store
                .write(move |db| storage::payments::change_bank(db, change))
                .await?;
            let state = http::payments::Payments {
                store: store.clone(),
                clock,
            };
            Ok(with_check(service.auth(auth), store).routes(http::payments::router(state)))
        }
        unknown => Err(Error::new(
            Kind::InvalidArgument,
            "shop.service_unknown",
            format!(
                "the shop has no service {unknown:?}; it has {}",
                SERVICES.join(", ")
            ),
        )
        .into()),
    }
}

/// Ready means that the database answers.
fn with_check(service: Service, store: Store) -> Service {
    service.ready_check("database", move || {
        let store = store.clone();
        async move {
            let one = store.read(|db| Ok(db.query_row("SELECT 1", [], |_| Ok(()))?));
            Ok(one.await?)
        }
    })
}

async fn users(service: Service, file: &Path, settings: &Settings) -> Result<Service> {
    let store = Store::open(file, storage::users::MIGRATIONS)?;
    let key_file = service.data().join("users-signing-key");
    let key = secrets::once(&key_file, || {
        Ok(SigningKey::generate()?.to_pkcs8().to_vec())
    })?;
    let key = SigningKey::from_pkcs8(&key)?;
    let auth = Auth::fixed(
        http::users::ISSUER,
        http::users::AUDIENCE,
        KeySet::parse(key.jwks().as_bytes())?,
    );
    let state = http::users::Users {
        store: store.clone(),
        clock: service.clock(),
        passwords: Passwords::new(settings.argon2_memory_kib, settings.argon2_passes)?,
        key: Arc::new(key),
        attempts: Arc::new(parking_lot::Mutex::new(Attempts::new(MAX_ATTEMPTS))),
    };
    make_admin(&state, &service.data().join("users-admin-password")).await?;
    Ok(with_check(service.auth(auth), store).routes(http::users::router(state)))
}

/// Makes the administrator's account unless there is one. Replicas that start at once all read the
/// password that was written first, and the account with it is made once.
async fn make_admin(users: &http::users::Users, password_file: &Path) -> Result<()> {
    let known = users
        .store
        .read(|db| storage::users::by_email(db, ADMIN_EMAIL))
        .await?;
    if known.is_some() {
        return Ok(());
    }
    let password = secrets::once(password_file, || Ok(secrets::random_text(18)?.into_bytes()))?;
    let password = String::from_utf8_lossy(&password);
    let created = users.clock.now().as_millis();
    let admin = User {
        id: new_id(),
        name: "Administrator".to_owned(),
        email: ADMIN_EMAIL.to_owned(),
        role: Role::Admin,
        created_ms: i64::try_from(created).unwrap_or(i64::MAX),
    };
    match users.add(admin, password.trim()).await {
        Err(fault) if fault.code() == "shop.email_taken" => Ok(()),
        Ok(()) => {
            tracing::info!(file = %password_file.display(), "made the account {ADMIN_EMAIL}");
            Ok(())
        }
        Err(fault) => Err(fault),
    }
}
