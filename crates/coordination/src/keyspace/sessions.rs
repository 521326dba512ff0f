//! Sessions: made, renewed, ended.

use std::{sync::Arc, time::Duration};

use sinew_core::{Kind, Result};
use sinew_engine::kv::{Condition, Entry, LeaseId, Outcome, Write};

use super::{Keyspace, Session, SessionRequest, error, keys, model, service::Inner};

const TEXT_BYTES: usize = 1024;

impl Keyspace {
    /// Makes a session. One with a time to live lives half as long again before it goes: Consul says
    /// that the time is the least, and its clients renew when it is over as well as before.
    ///
    /// InvalidArgument `keyspace.session_invalid`; ResourceExhausted `keyspace.sessions_full`;
    /// `keyspace.timeout`; the store's.
    pub async fn create_session(&self, request: SessionRequest) -> Result<Session> {
        let inner = self.inner();
        inner.check_session(&request)?;
        let id: Arc<str> = sinew_core::new_id().to_string().into();
        let lease = match request.ttl {
            None => None,
            Some(ttl) => Some(inner.grant(ttl + ttl / 2).await?),
        };
        let write = Write::Put {
            key: keys::session(&id),
            value: model::encode_session(&request).into(),
            lease,
        };
        let commit = inner.kv.commit(Vec::new(), vec![write]);
        let Outcome::Committed(created) = inner.within("create session", commit).await? else {
            unreachable!("without conditions there is no conflict")
        };
        inner.visible(created).await;
        Ok(Session {
            id,
            created,
            request,
        })
    }

    /// Gives a session its full time to live again.
    ///
    /// NotFound `keyspace.session_unknown`; `keyspace.timeout`; the store's.
    pub async fn renew_session(&self, id: &str) -> Result<Session> {
        let inner = self.inner();
        let unknown = || error::session_unknown(id);
        let entry = inner.session(id).await?.ok_or_else(unknown)?;
        if let Some(lease) = entry.lease {
            let kept = inner
                .within("renew session", inner.kv.keep_alive(lease))
                .await;
            kept.map_err(|error| match error.kind() {
                Kind::NotFound => unknown(),
                _ => error,
            })?;
        }
        model::decode_session(id, &entry)
    }

    /// Ends a session and releases what it holds. Answers whether it was there.
    ///
    /// `keyspace.timeout`; the store's.
    pub async fn destroy_session(&self, id: &str) -> Result<bool> {
        let inner = self.inner();
        let Some(entry) = inner.session(id).await? else {
            return Ok(false);
        };
        let conditions = vec![Condition::Present(entry.key.clone())];
        let delete = vec![Write::Delete { key: entry.key }];
        let commit = inner.kv.commit(conditions, delete);
        let outcome = inner.within("destroy session", commit).await?;
        if let Some(lease) = entry.lease {
            // Nothing hangs on it any more; if this fails it ends by itself.
            let _ = inner.within("revoke", inner.kv.revoke(lease)).await;
        }
        inner.sweep(id).await?;
        match outcome {
            Outcome::Committed(revision) => {
                inner.visible(revision).await;
                Ok(true)
            }
            Outcome::Conflict(_) => Ok(false),
        }
    }

    /// A session, if it exists.
    ///
    /// `keyspace.timeout`, DataLoss `keyspace.damaged`; the store's.
    pub async fn session(&self, id: &str) -> Result<Option<Session>> {
        let entry = self.inner().session(id).await?;
        entry
            .map(|entry| model::decode_session(id, &entry))
            .transpose()
    }

    /// All sessions.
    ///
    /// As [`Keyspace::session`].
    pub async fn sessions(&self) -> Result<Vec<Session>> {
        let mut bytes = 0;
        let entries = self.inner().list(keys::sessions(), &mut bytes).await?;
        let sessions = entries.iter().map(|entry| {
            let id = keys::parse_session(&entry.key).ok_or_else(|| error::damaged(&entry.key))?;
            model::decode_session(id, entry)
        });
        sessions.collect()
    }
}

impl Inner {
    async fn session(&self, id: &str) -> Result<Option<Entry>> {
        if id.is_empty() || id.len() > keys::SESSION_BYTES || id.contains('/') {
            return Ok(None);
        }
        let key = keys::session(id);
        self.within("get session", self.kv.get(&key)).await
    }

    pub(super) async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let ttl = ttl.max(self.kv.capability().limits.lease_minimum);
        self.within("grant", self.kv.grant(ttl)).await
    }

    fn check_session(&self, request: &SessionRequest) -> Result<()> {
        let config = &self.config;
        let within = config.shortest_ttl..=config.longest_ttl;
        if request.ttl.is_some_and(|ttl| !within.contains(&ttl)) {
            return Err(error::session_invalid(format!(
                "the time to live of a session is out of range; use {} s to {} s",
                config.shortest_ttl.as_secs(),
                config.longest_ttl.as_secs()
            )));
        }
        if request.lock_delay > config.longest_delay {
            return Err(error::session_invalid(format!(
                "the lock delay is out of range; use up to {} s",
                config.longest_delay.as_secs()
            )));
        }
        let texts = [&request.name, &request.node, &request.note];
        if texts.into_iter().any(|text| text.len() > TEXT_BYTES) {
            return Err(error::session_invalid(format!(
                "a text of the session is longer than {TEXT_BYTES} bytes"
            )));
        }
        let (sessions, _) = self.shared.lock().counts();
        if sessions >= config.sessions {
            return Err(error::sessions_full(config.sessions));
        }
        Ok(())
    }
}
