//! Keys: made when they are first needed, rotated when asked.

use sinew_core::Result;
use sinew_engine::kv::{Condition, Outcome};

use super::{Configs, Inner, json, put};
use crate::configs::{
    Action, By, Content, ItemId, Rotated, error, keys,
    secrets::{DataKey, Wrapped},
};

const ATTEMPTS: usize = 5;

impl Configs {
    /// Encrypts a value, for use in contents. FailedPrecondition `configs.key_unavailable`; the store's.
    pub async fn encrypt(&self, plain: &str) -> Result<String> {
        let inner = &self.0.inner;
        let most = inner.config.item_bytes / 2;
        if plain.len() > most {
            return Err(error::too_large("value", plain.len(), most));
        }
        let newest = inner.newest_key();
        let key = match newest {
            Some((id, wrapped)) => inner.masters.unwrap(id, &wrapped)?,
            None => inner.make_key().await?,
        };
        Ok(key.encrypt(plain))
    }

    /// Opens one encrypted value, for somebody who may see it. InvalidArgument `configs.secret_invalid`,
    /// FailedPrecondition `configs.key_unavailable`.
    pub fn decrypt(&self, token: &str) -> Result<String> {
        self.0.inner.open(|opener| opener.decrypt(token))
    }

    /// Makes a new data key, wraps the old ones by the master key in use, and, if `and_values`, encrypts the values
    /// of all items anew, each as a new version. What fails on the way can be done again.
    pub async fn rotate_keys(&self, and_values: bool, by: &By) -> Result<Rotated> {
        by.check()?;
        let inner = &self.0.inner;
        let stored = inner.state.read().keys.clone();
        let mut rotated = Rotated::default();
        for (id, wrapped) in &stored {
            if !inner.masters.has_wrapped(wrapped) {
                let key = inner.masters.unwrap(*id, wrapped)?;
                let anew = inner.masters.wrap(&key, wrapped.time)?;
                let write = put(keys::data_key(*id), json(&anew));
                let _ = inner.commit(Vec::new(), vec![write]).await?;
                rotated.wrapped += 1;
            }
        }
        let key = inner.make_key().await?;
        rotated.key = key.id();
        if and_values {
            let (items, _) = self.list(|_| true);
            for item in items {
                if item.gray().is_some() {
                    rotated.skipped +=
                        usize::from(item.content().contains(crate::configs::secrets::MARK));
                    continue;
                }
                rotated.items += usize::from(self.encrypt_anew(&item.id, &key, by).await?);
            }
        }
        inner.note(Action::Rotate, by, None, None).await?;
        Ok(rotated)
    }

    async fn encrypt_anew(&self, id: &ItemId, key: &DataKey, by: &By) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            let Some(item) = self.item_now(id).await? else {
                return Ok(false);
            };
            let Some(version) = item.current() else {
                return Ok(false);
            };
            let anew = self
                .0
                .inner
                .open(|opener| opener.encrypt_anew(item.content(), key))?;
            let Some(content) = anew else {
                return Ok(false);
            };
            let content = Content {
                content,
                format: Some(version.format),
                schema: None,
            };
            let by = By {
                expected: Some(version.version),
                ..by.clone()
            };
            match self.put(id, &content, &by).await {
                Ok(_) => return Ok(true),
                Err(error) if error.code() == "configs.changed_meanwhile" => {}
                Err(error) => return Err(error),
            }
        }
        Err(error::contended(id))
    }
}

impl Inner {
    fn newest_key(&self) -> Option<(u64, Wrapped)> {
        let state = self.state.read();
        let newest = state.keys.last_key_value();
        newest.map(|(id, wrapped)| (*id, wrapped.clone()))
    }

    /// Makes the next data key. Somebody else may make one at the same time: then both are there.
    async fn make_key(&self) -> Result<DataKey> {
        let mut id = self.newest_key().map_or(1, |(id, _)| id + 1);
        for _ in 0..ATTEMPTS {
            let (key, wrapped) = self.masters.make(id, self.clock.now())?;
            let name = keys::data_key(id);
            let write = put(name.clone(), json(&wrapped));
            match self
                .commit(vec![Condition::Absent(name)], vec![write])
                .await?
            {
                Outcome::Committed(revision) => {
                    self.visible(revision).await;
                    return Ok(key);
                }
                Outcome::Conflict(_) => id += 1,
            }
        }
        Err(error::key_unavailable("others keep making keys; try again"))
    }
}
