use std::sync::Arc;

use sinew_token::{KeySet, Revocations, Verifier};
use tokio::sync::watch;

/// What tokens are verified by, as last learnt.
#[derive(Clone, Debug)]
pub struct TokenKeys {
    /// The issuer and audience that tokens must name.
    pub verifier: Verifier,
    /// The issuer's published keys.
    pub keys: KeySet,
    /// Which tokens the issuer took back.
    pub revocations: Revocations,
}

/// Yields what tokens are verified by. The gateway only ever looks at the last value: fetching and
/// refreshing is the other side's work, so no request waits for it.
pub trait Keys: Send + Sync + 'static {
    /// The keys, now and after each change; `None` until they are known for the first time.
    fn watch(&self) -> watch::Receiver<Option<Arc<TokenKeys>>>;
}
