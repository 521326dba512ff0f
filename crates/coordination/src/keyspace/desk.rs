//! The steps of a transaction, upon what the store holds.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use sinew_core::Result;
use sinew_engine::kv::{Entry, Transaction};

use super::{
    Action, Item, Mode, Refused, SessionRequest, error, keys,
    machine::{self, Around, Verdict},
    model,
};

/// What became of the steps of a transaction.
pub(super) enum Applied {
    Done {
        items: Vec<(usize, Item)>,
        wrote: bool,
    },
    Refused(Refused),
    UnknownSession(usize, Arc<str>),
    Abandoned(Arc<str>),
}

/// The item that is stored here.
pub(super) fn item(entry: &Entry) -> Result<Item> {
    let key = keys::parse_key(&entry.key).ok_or_else(|| error::damaged(&entry.key))?;
    model::decode(key, entry)
}

/// The keys that the steps of a transaction read and changed.
struct Desk<'k> {
    tx: Transaction<'k>,
    /// As they were, and as they are to be.
    keys: BTreeMap<Arc<str>, (Option<Item>, Option<Item>)>,
    /// How many keys there may be.
    most: usize,
}

/// Does the steps within a transaction of the store. `most` bounds of how many keys a tree may be.
pub(super) async fn apply(tx: Transaction<'_>, actions: &[Action], most: usize) -> Result<Applied> {
    let mut desk = Desk {
        tx,
        keys: BTreeMap::new(),
        most,
    };
    let mut items = Vec::new();
    for (step, action) in actions.iter().enumerate() {
        let mut own = Vec::new();
        let verdict = desk.step(action, &mut own).await?;
        items.extend(own.into_iter().map(|item| (step, item)));
        match verdict {
            Verdict::Store(_) | Verdict::Nothing => {}
            Verdict::Refused(why) => {
                let why = why.to_owned();
                return Ok(Applied::Refused(Refused { step, why }));
            }
            Verdict::UnknownSession => {
                let Action::Put {
                    mode: Mode::Acquire(session),
                    ..
                } = action
                else {
                    unreachable!("only a lock is taken for a session")
                };
                return Ok(Applied::UnknownSession(step, session.clone()));
            }
            Verdict::Abandoned(session) => return Ok(Applied::Abandoned(session)),
        }
    }
    let wrote = desk.finish();
    Ok(Applied::Done { items, wrote })
}

impl Desk<'_> {
    async fn load(&mut self, key: &Arc<str>) -> Result<Option<Item>> {
        if let Some((_, now)) = self.keys.get(key) {
            return Ok(now.clone());
        }
        let entry = self.tx.get(keys::key(key)).await?;
        let item = entry.map(|entry| model::decode(key, &entry)).transpose()?;
        self.keys.insert(key.clone(), (item.clone(), item.clone()));
        Ok(item)
    }

    /// The keys that begin so, as the steps so far leave them. `None` when they are too many.
    async fn load_tree(&mut self, prefix: &str) -> Result<Option<Vec<Item>>> {
        let entries = self.tx.range(keys::prefix(prefix), self.most + 1).await?;
        if entries.len() > self.most {
            return Ok(None);
        }
        for entry in &entries {
            let found = item(entry)?;
            self.keys
                .entry(found.key.clone())
                .or_insert_with(|| (Some(found.clone()), Some(found)));
        }
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let range = self.keys.range::<str, _>(from);
        let within = range.take_while(|(key, _)| key.starts_with(prefix));
        Ok(Some(
            within.filter_map(|(_, (_, now))| now.clone()).collect(),
        ))
    }

    async fn exists(&self, session: &str) -> Result<Option<SessionRequest>> {
        let entry = self.tx.get(keys::session(session)).await?;
        let session = entry.map(|entry| model::decode_session(session, &entry));
        Ok(session.transpose()?.map(|session| session.request))
    }

    async fn around(&self, key: &str, mode: &Mode, current: Option<&Item>) -> Result<Around> {
        let Mode::Acquire(session) = mode else {
            return Ok(Around::default());
        };
        let mut around = Around {
            wants: self.exists(session).await?,
            ..Around::default()
        };
        match current.and_then(|item| item.session.as_ref()) {
            Some(holder) if holder == session => {}
            Some(holder) => around.holder_lives = self.exists(holder).await?.is_some(),
            None => around.is_delayed = self.tx.get(keys::delay(key)).await?.is_some(),
        }
        Ok(around)
    }

    async fn step(&mut self, action: &Action, items: &mut Vec<Item>) -> Result<Verdict> {
        match action {
            Action::Put {
                key,
                value,
                flags,
                mode,
            } => {
                let current = self.load(key).await?;
                let around = self.around(key, mode, current.as_ref()).await?;
                let value = value.clone();
                let verdict = machine::put(key, value, *flags, mode, current.as_ref(), &around);
                if let Verdict::Store(item) = &verdict {
                    let mut item = item.clone();
                    item.modified = 0;
                    items.push(item.clone());
                    self.set(key, Some(item));
                } else if verdict == Verdict::Nothing {
                    items.extend(current);
                }
                Ok(verdict)
            }
            Action::Delete(key, expected) => {
                let current = self.load(key).await?;
                if let Some(expected) = expected
                    && current
                        .as_ref()
                        .is_some_and(|item| item.modified != *expected)
                {
                    return Ok(Verdict::Refused("the key was changed at another index"));
                }
                self.set(key, None);
                Ok(Verdict::Nothing)
            }
            Action::DeleteTree(prefix) => {
                let Some(found) = self.load_tree(prefix).await? else {
                    return Ok(Verdict::Refused("too many keys for one transaction"));
                };
                found.iter().for_each(|item| self.set(&item.key, None));
                Ok(Verdict::Nothing)
            }
            Action::GetTree(prefix) => {
                let Some(found) = self.load_tree(prefix).await? else {
                    return Ok(Verdict::Refused("too many keys for one transaction"));
                };
                items.extend(found);
                Ok(Verdict::Nothing)
            }
            Action::Get(key) => Ok(match self.load(key).await? {
                None => Verdict::Refused("the key does not exist"),
                Some(item) => {
                    items.push(item);
                    Verdict::Nothing
                }
            }),
            Action::CheckRevision(key, revision) => Ok(match self.load(key).await? {
                None => Verdict::Refused("the key does not exist"),
                Some(item) if item.modified != *revision => {
                    Verdict::Refused("the key was changed at another index")
                }
                Some(item) => {
                    items.push(item);
                    Verdict::Nothing
                }
            }),
            Action::CheckSession(key, session) => Ok(match self.load(key).await? {
                None => Verdict::Refused("the key does not exist"),
                Some(item) if item.session.as_ref() != Some(session) => {
                    Verdict::Refused("the session does not hold the lock")
                }
                Some(item) => {
                    items.push(item);
                    Verdict::Nothing
                }
            }),
            Action::CheckAbsent(key) => Ok(match self.load(key).await? {
                None => Verdict::Nothing,
                Some(_) => Verdict::Refused("the key exists"),
            }),
        }
    }

    fn set(&mut self, key: &Arc<str>, item: Option<Item>) {
        if let Some((_, now)) = self.keys.get_mut(key) {
            *now = item;
        }
    }

    /// Hands what changed to the transaction. Answers whether anything did.
    fn finish(self) -> bool {
        let mut wrote = false;
        for (key, (before, now)) in &self.keys {
            if before == now {
                continue;
            }
            wrote = true;
            match now {
                Some(item) => self.tx.put(keys::key(key), model::encode(item)),
                None => self.tx.delete(keys::key(key)),
            }
            let holder = |item: &Option<Item>| item.as_ref().and_then(|item| item.session.clone());
            let (had, has) = (holder(before), holder(now));
            if had != has {
                if let Some(had) = had {
                    self.tx.delete(keys::held(&had, key));
                }
                if let Some(has) = has {
                    self.tx.put(keys::held(&has, key), Bytes::new());
                }
            }
        }
        wrote
    }
}
