//! What was before: versions, their differences, the way back, the audit log, and the end of it all.

use std::{collections::VecDeque, time::Duration};

use sinew_core::{Result, Timestamp};
use sinew_engine::kv::{Condition, Outcome};

use super::{Configs, Inner, Stored, delete, json, put};
use crate::configs::{
    Action, AuditEntry, By, Comparison, Content, ItemId, Version, VersionContent, Written,
    difference, error, keys, machine::Command,
};

impl Configs {
    /// All versions that are kept, the newest first; none for an item that never was.
    pub async fn versions(&self, id: &ItemId) -> Result<Vec<Version>> {
        let inner = &self.0.inner;
        let entry = inner.within("read", inner.kv.get(&keys::head(id))).await?;
        let Some(entry) = entry else {
            return Ok(Vec::new());
        };
        let head = Stored::decode(&entry.value)
            .ok_or_else(|| error::damaged(id))?
            .head;
        let mut versions = Vec::new();
        let mut span = keys::versions(id);
        loop {
            let range = inner.kv.range(span.clone(), usize::MAX, None);
            let page = inner.within("list", range).await?;
            let read = page
                .entries
                .iter()
                .filter_map(|entry| VersionContent::decode(&entry.value));
            versions.extend(read.map(|read| read.version));
            match page.next {
                Some(next) => span.start = next,
                None => break,
            }
        }
        // What an interrupted purge left, or what is newer than the head that was read, is not of this history.
        versions.retain(|version| {
            head.kept
                .iter()
                .any(|(number, _)| *number == version.version)
        });
        versions.reverse();
        Ok(versions)
    }

    /// One version. NotFound `configs.version_unknown`, DataLoss `configs.damaged`.
    pub async fn version(&self, id: &ItemId, version: u64) -> Result<VersionContent> {
        self.0.inner.version(id, version).await
    }

    /// What is different between two versions; 0 is before the first.
    pub async fn compare(&self, id: &ItemId, from: u64, to: u64) -> Result<Comparison> {
        let before = match from {
            0 => None,
            from => Some(self.version(id, from).await?),
        };
        let after = self.version(id, to).await?;
        Ok(difference::compare(before.as_ref(), &after))
    }

    /// Makes the content of an earlier version the current one, as a new version. As [`Configs::put`].
    pub async fn roll_back(&self, id: &ItemId, version: u64, by: &By) -> Result<Written> {
        let inner = &self.0.inner;
        let earlier = inner.version(id, version).await?;
        if earlier.version.is_deletion {
            return self.delete(id, by).await;
        }
        let content = Content {
            content: earlier.content,
            format: Some(earlier.version.format),
            schema: Some(earlier.version.schema.unwrap_or_default()),
        };
        let back = |stored: Option<&Stored>| {
            let body = inner.body(id, stored, &content, Some(version))?;
            Ok(Command::Put(body))
        };
        inner.change(id, by, None, back).await
    }

    /// Deletes an item with its history, its draft and its gray release. Versions begin at 1 again after that.
    /// NotFound `configs.item_unknown`, and as [`Configs::delete`].
    pub async fn purge(&self, id: &ItemId, by: &By) -> Result<()> {
        by.check()?;
        let inner = &self.0.inner;
        let key = keys::head(id);
        let entry = inner.within("read", inner.kv.get(&key)).await?;
        let entry = entry.ok_or_else(|| error::unknown(id))?;
        if let Some(expected) = by.expected {
            let stored = Stored::decode(&entry.value).ok_or_else(|| error::damaged(id))?;
            if stored.head.number() != expected {
                return Err(error::changed_meanwhile(id, expected, stored.head.number()));
            }
        }
        let time = inner.clock.now();
        let audit = AuditEntry {
            time,
            author: by.author.clone(),
            action: Action::Purge,
            item: Some(id.clone()),
            version: None,
            note: by.note.clone(),
        };
        let writes = vec![
            delete(key.clone()),
            delete(keys::draft(id)),
            put(inner.audit_key(time), json(&audit)),
        ];
        let unchanged = vec![Condition::KeyAt(key, entry.revision)];
        match inner.commit(unchanged, writes).await? {
            Outcome::Committed(revision) => inner.visible(revision).await,
            Outcome::Conflict(_) => return Err(error::contended(id)),
        }
        inner.delete_all(keys::versions(id)).await
    }

    /// The newest entries of the audit log, the newest first: at most `most` of this item, or of all, from so
    /// long back.
    pub async fn audit(
        &self,
        item: Option<&ItemId>,
        back: Duration,
        most: usize,
    ) -> Result<Vec<AuditEntry>> {
        let inner = &self.0.inner;
        let back = u64::try_from(back.as_millis()).unwrap_or(u64::MAX);
        let since = Timestamp(inner.clock.now().as_millis().saturating_sub(back));
        let mut newest = VecDeque::new();
        let mut span = keys::audits_since(since);
        loop {
            let range = inner.kv.range(span.clone(), usize::MAX, None);
            let page = inner.within("list", range).await?;
            for entry in page.entries {
                let read = serde_json::from_slice::<AuditEntry>(&entry.value).ok();
                let of_item = |entry: &AuditEntry| item.is_none() || entry.item.as_ref() == item;
                if let Some(entry) = read.filter(of_item) {
                    if newest.len() == most {
                        newest.pop_back();
                    }
                    newest.push_front(entry);
                }
            }
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(newest.into()),
            }
        }
    }

    /// Notes in the audit log that somebody was shown decrypted values.
    pub async fn note_reveal(&self, author: &str, item: &ItemId, version: u64) -> Result<()> {
        let by = By {
            author: author.to_owned(),
            ..By::default()
        };
        self.0
            .inner
            .note(Action::Reveal, &by, Some(item), Some(version))
            .await
    }
}

impl Inner {
    pub(super) async fn version(&self, id: &ItemId, version: u64) -> Result<VersionContent> {
        let key = keys::version(id, version);
        let entry = self.within("read", self.kv.get(&key)).await?;
        let entry = entry.ok_or_else(|| error::version_unknown(id, version))?;
        VersionContent::decode(&entry.value).ok_or_else(|| error::damaged(id))
    }

    /// Writes an entry of the audit log that goes with no change of an item.
    pub(super) async fn note(
        &self,
        action: Action,
        by: &By,
        item: Option<&ItemId>,
        version: Option<u64>,
    ) -> Result<()> {
        by.check()?;
        let time = self.clock.now();
        let entry = AuditEntry {
            time,
            author: by.author.clone(),
            action,
            item: item.cloned(),
            version,
            note: by.note.clone(),
        };
        let write = put(self.audit_key(time), json(&entry));
        self.commit(Vec::new(), vec![write]).await.map(drop)
    }
}
