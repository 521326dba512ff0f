//! Who calls: bearer tokens, verified against the keys that another service publishes.

mod extract;
mod source;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use sinew_core::{Clock, Error, Kind, Result};
use sinew_token::{Claims, KeySet, Revocations, Verifier};
use tokio::sync::Mutex;

use crate::Client;
pub use extract::{Admin, User};
use source::Source;

/// How often keys and revocations are fetched again, give or take a fifth.
const REFRESH: Duration = Duration::from_secs(5);
/// A token signed with an unknown key has them fetched at once, but no more often than this: anyone
/// can make up such tokens.
const FORCED_GAP: Duration = Duration::from_secs(1);
/// As long as something was never fetched it is tried that often: right after a start the issuer may
/// be starting too.
const FIRST_GAP: Duration = Duration::from_millis(200);
/// So long a request waits for keys that were never fetched, or for an unknown one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Verifies bearer tokens for the extractors [`User`] and [`Admin`]. Give it to
/// [`crate::Service::auth`]. Cheap to clone.
///
/// What was fetched last is kept when its source is away: tokens go on being verified. As long as
/// something was never fetched, requests with a token are answered 503 `sdk.auth_unavailable`.
#[derive(Clone, Debug)]
pub struct Auth {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    verifier: Verifier,
    client: Option<Client>,
    clock: Clock,
    keys: Option<Source>,
    revocations: Option<Source>,
    known: ArcSwap<Known>,
    /// Monotonic time of the last fetch; held while fetching, so that only one does.
    fetched: Mutex<Option<Duration>>,
    refreshing: OnceLock<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    revocations: Option<Arc<Revocations>>,
}

impl Auth {
    /// Tokens of this issuer for this audience; say next where its [`Auth::keys`] are.
    pub fn new(client: &Client, issuer: &str, audience: &str) -> Self {
        Self::build(Some(client.clone()), issuer, audience, Known::default())
    }

    /// Tokens verified by keys that are given and not fetched: for the service that issues them, and
    /// for tests. See [`Auth::set_keys`] and [`Auth::set_revocations`].
    pub fn fixed(issuer: &str, audience: &str, keys: KeySet) -> Self {
        let known = Known {
            keys: Some(Arc::new(keys)),
            revocations: None,
        };
        Self::build(None, issuer, audience, known)
    }

    fn build(client: Option<Client>, issuer: &str, audience: &str, known: Known) -> Self {
        Self {
            inner: Arc::new(Inner {
                verifier: Verifier::new(issuer, audience),
                client,
                clock: Clock::system(),
                keys: None,
                revocations: None,
                known: ArcSwap::from_pointee(known),
                fetched: Mutex::new(None),
                refreshing: OnceLock::new(),
            }),
        }
    }

    /// The service and path of the key set (JWKS), such as `users` and `/.well-known/jwks.json`.
    #[must_use]
    pub fn keys(self, service: &str, path: &str) -> Self {
        let source = Source::new(service, path);
        self.with(|inner| inner.keys = Some(source))
    }

    /// The service and path of the revocation document (see [`Revocations`]). Without it no token is
    /// revoked before it expires.
    #[must_use]
    pub fn revocations(self, service: &str, path: &str) -> Self {
        let source = Source::new(service, path);
        self.with(|inner| inner.revocations = Some(source))
    }

    /// Asks this clock.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        self.with(|inner| inner.clock = clock)
    }

    /// A new one with a change: what other clones share stays as it is.
    fn with(self, change: impl FnOnce(&mut Inner)) -> Self {
        let inner = &self.inner;
        let mut inner = Inner {
            verifier: inner.verifier.clone(),
            client: inner.client.clone(),
            clock: inner.clock.clone(),
            keys: inner.keys.clone(),
            revocations: inner.revocations.clone(),
            known: ArcSwap::new(inner.known.load_full()),
            fetched: Mutex::new(None),
            refreshing: OnceLock::new(),
        };
        change(&mut inner);
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Replaces the keys.
    pub fn set_keys(&self, keys: KeySet) {
        let keys = Some(Arc::new(keys));
        self.inner.known.rcu(|known| Known {
            keys: keys.clone(),
            ..known.as_ref().clone()
        });
    }

    /// Replaces the revocations.
    pub fn set_revocations(&self, revocations: Revocations) {
        let revocations = Some(Arc::new(revocations));
        self.inner.known.rcu(|known| Known {
            revocations: revocations.clone(),
            ..known.as_ref().clone()
        });
    }

    /// Verifies a token. Errors: those of [`Verifier::verify`]; `sdk.auth_unavailable`.
    pub async fn verify(&self, token: &str) -> Result<Claims> {
        self.keep_fresh();
        let inner = &*self.inner;
        if !inner.complete() {
            let _ = tokio::time::timeout(PATIENCE, inner.first_fetch()).await;
        }
        match inner.check(token) {
            Err(error) if error.code() == "token.key_unknown" && inner.keys.is_some() => {
                let _ = tokio::time::timeout(PATIENCE, inner.refresh(FORCED_GAP)).await;
                inner.check(token)
            }
            result => result,
        }
    }

    /// Starts fetching in the background, once. Ends when all clones are gone.
    pub(crate) fn keep_fresh(&self) {
        if self.inner.keys.is_none() && self.inner.revocations.is_none() {
            return;
        }
        self.inner.refreshing.get_or_init(|| {
            let inner = Arc::downgrade(&self.inner);
            tokio::spawn(refresh_for_ever(inner));
        });
    }
}

async fn refresh_for_ever(inner: Weak<Inner>) {
    loop {
        let complete = match inner.upgrade() {
            None => return,
            Some(inner) => {
                inner.refresh(FIRST_GAP / 2).await;
                inner.complete()
            }
        };
        let wait = if complete { REFRESH } else { FIRST_GAP };
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.8..=1.2))).await;
    }
}

impl Inner {
    /// Whether all that is to be fetched has been, at least once.
    fn complete(&self) -> bool {
        let known = self.known.load();
        known.keys.is_some() && (self.revocations.is_none() || known.revocations.is_some())
    }

    fn check(&self, token: &str) -> Result<Claims> {
        let known = self.known.load();
        let (Some(keys), true) = (&known.keys, self.complete()) else {
            return Err(Error::new(
                Kind::Unavailable,
                "sdk.auth_unavailable",
                "tokens cannot be verified yet: their issuer was not reached",
            ));
        };
        let none = Revocations::default();
        let revocations = known.revocations.as_deref().unwrap_or(&none);
        self.verifier
            .verify(token, keys, revocations, self.clock.now())
    }

    /// Returns when everything has been fetched once.
    async fn first_fetch(&self) {
        loop {
            self.refresh(FIRST_GAP / 2).await;
            if self.complete() {
                return;
            }
            tokio::time::sleep(FIRST_GAP).await;
        }
    }

    /// Fetches everything, unless that was done less than `gap` ago.
    async fn refresh(&self, gap: Duration) {
        let Some(client) = &self.client else { return };
        let mut fetched = self.fetched.lock().await;
        let now = self.clock.monotonic();
        if fetched.is_some_and(|last| now.saturating_sub(last) < gap) {
            return;
        }
        if let Some(source) = &self.keys
            && let Some(keys) = source.fetch(client, KeySet::parse).await
        {
            let keys = Some(Arc::new(keys));
            self.known.rcu(|known| Known {
                keys: keys.clone(),
                ..known.as_ref().clone()
            });
        }
        if let Some(source) = &self.revocations
            && let Some(revocations) = source.fetch(client, Revocations::parse).await
        {
            let revocations = Some(Arc::new(revocations));
            self.known.rcu(|known| Known {
                revocations: revocations.clone(),
                ..known.as_ref().clone()
            });
        }
        *fetched = Some(self.clock.monotonic());
    }
}
