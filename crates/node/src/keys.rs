//! Keeps what tokens are verified by: the issuer's key set and its revocations, asked for through
//! discovery again and again. What was last good stays in use while the issuer cannot be reached.

use std::{sync::Arc, time::Duration};

use sinew_core::{Backoff, Error, Kind, Result};
use sinew_gateway::{Discovery, Endpoint, EndpointStatus, Keys, TokenKeys};
use sinew_token::{KeySet, Revocations, Verifier};
use tokio::sync::watch;

use crate::{
    config::{JwtConfig, ServiceUrl},
    fetch::fetch,
};

/// How many instances are asked before a round is given up.
const INSTANCES: usize = 3;
const LONGEST_DOCUMENT: usize = 4 * 1024 * 1024;

/// [`Keys`] from the issuer's own service.
pub(crate) struct PublishedKeys {
    keys: watch::Receiver<Option<Arc<TokenKeys>>>,
}

impl Keys for PublishedKeys {
    fn watch(&self) -> watch::Receiver<Option<Arc<TokenKeys>>> {
        self.keys.clone()
    }
}

impl PublishedKeys {
    /// Begins to ask. Must be called within the runtime that shall run its task, which ends when
    /// nobody looks at the keys any more.
    pub(crate) fn start(config: JwtConfig, discovery: &dyn Discovery) -> Self {
        let (sender, keys) = watch::channel(None);
        let endpoints = |url: &ServiceUrl| discovery.watch(&url.service);
        let jwks = Document::new(config.jwks.clone(), endpoints(&config.jwks), KeySet::parse);
        let revoked = config
            .revoked
            .clone()
            .map(|url| Document::new(url.clone(), endpoints(&url), Revocations::parse));
        tokio::spawn(
            Refresher {
                config,
                jwks,
                revoked,
                sender,
                unsent: false,
            }
            .run(),
        );
        Self { keys }
    }
}

struct Refresher {
    config: JwtConfig,
    jwks: Document<KeySet>,
    revoked: Option<Document<Revocations>>,
    sender: watch::Sender<Option<Arc<TokenKeys>>>,
    /// Whether a document is newer than what was sent.
    unsent: bool,
}

/// A document as last read.
struct Document<T> {
    url: ServiceUrl,
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    parse: fn(&[u8]) -> Result<T>,
    bytes: Option<bytes::Bytes>,
    value: Option<T>,
}

impl Refresher {
    async fn run(mut self) {
        // Until the first success, and after failures, sooner than the ordinary refresh.
        let mut backoff = Backoff::new(Duration::from_millis(100), self.config.refresh);
        loop {
            let outcome = self.round().await;
            let pause = match outcome {
                Ok(()) => {
                    backoff.reset();
                    // A tenth of jitter, so that many nodes do not ask at once.
                    self.config.refresh.mul_f64(rand::random_range(0.9..=1.0))
                }
                Err(error) => {
                    // The issuer starts after the node, as a rule: that alone is no news.
                    if self.sender.borrow().is_some() {
                        tracing::warn!(
                            error = error.detail(),
                            "the token keys cannot be refreshed; the last ones stay in use"
                        );
                    } else {
                        tracing::debug!(error = error.detail(), "the token keys are not known yet");
                    }
                    backoff.next_delay()
                }
            };
            tokio::select! {
                biased;
                () = self.sender.closed() => return,
                // The first instance of the issuer shall not have to wait for the next round.
                () = appeared(&mut self.jwks.endpoints), if self.jwks.value.is_none() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn round(&mut self) -> Result<()> {
        self.unsent |= self.jwks.refresh().await?;
        if let Some(revoked) = &mut self.revoked {
            // Without knowing what was revoked, no token is good.
            self.unsent |= revoked.refresh().await?;
        }
        if self.unsent
            && let Some(keys) = self.jwks.value.clone()
        {
            self.unsent = false;
            tracing::info!(
                keys = keys.len(),
                issuer = self.config.issuer,
                "token keys are known"
            );
            let revocations = self
                .revoked
                .as_ref()
                .and_then(|revoked| revoked.value.clone())
                .unwrap_or_default();
            let verifier = Verifier::new(&self.config.issuer, &self.config.audience);
            self.sender.send_replace(Some(Arc::new(TokenKeys {
                verifier,
                keys,
                revocations,
            })));
        }
        Ok(())
    }
}

async fn appeared(endpoints: &mut watch::Receiver<Arc<[Endpoint]>>) {
    if endpoints.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl<T> Document<T> {
    fn new(
        url: ServiceUrl,
        endpoints: watch::Receiver<Arc<[Endpoint]>>,
        parse: fn(&[u8]) -> Result<T>,
    ) -> Self {
        Self {
            url,
            endpoints,
            parse,
            bytes: None,
            value: None,
        }
    }

    /// Asks instances, beginning with any, until one answers with a good document. Answers whether
    /// it is another than before.
    async fn refresh(&mut self) -> Result<bool> {
        let endpoints = self.endpoints.borrow_and_update().clone();
        let up: Vec<_> = endpoints
            .iter()
            .filter(|endpoint| endpoint.status == EndpointStatus::Up)
            .collect();
        let mut failure = Error::new(
            Kind::Unavailable,
            "node.keys_unavailable",
            format!("no instance of {} is up", self.url.service),
        );
        let first = rand::random_range(0..up.len().max(1));
        for endpoint in up.iter().cycle().skip(first).take(up.len().min(INSTANCES)) {
            let host = self.url.service.as_str();
            let asked = fetch(endpoint.address, host, &self.url.path, LONGEST_DOCUMENT).await;
            let read = asked.and_then(|bytes| {
                if self.bytes.as_ref() == Some(&bytes) {
                    return Ok(None);
                }
                Ok(Some(((self.parse)(&bytes)?, bytes)))
            });
            match read {
                Ok(None) => return Ok(false),
                Ok(Some((value, bytes))) => {
                    self.value = Some(value);
                    self.bytes = Some(bytes);
                    return Ok(true);
                }
                Err(error) => {
                    failure = error.with_context(format!("{}{}", endpoint.address, self.url.path));
                }
            }
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests;
