//! Changes that are being prepared.

use sinew_core::Result;
use sinew_engine::kv::Entry;

use super::{Configs, Inner, Stored, delete, json, put};
use crate::configs::{
    Action, AuditEntry, By, Content, Draft, ItemId, Rule, Written, error, keys, machine::Command,
};

impl Configs {
    /// Writes a draft, over the one that is there. Nobody but who reads drafts sees it, and it is checked when
    /// it is published. `configs.changed_meanwhile`, `configs.text_invalid`, `configs.too_large`.
    pub async fn draft(&self, id: &ItemId, content: &Content, by: &By) -> Result<Draft> {
        by.check()?;
        let inner = &self.0.inner;
        let most = inner.config.item_bytes;
        let schema = content.schema.as_ref().map_or(0, String::len);
        if content.content.len() > most || schema > crate::configs::schema::MOST_BYTES {
            return Err(error::too_large(
                "draft",
                content.content.len().max(schema),
                most,
            ));
        }
        let current = self.item_now(id).await?;
        let current = current.as_ref().and_then(|item| item.current());
        let based_on = current.map_or(0, |version| version.version);
        if let Some(expected) = by.expected
            && expected != based_on
        {
            return Err(error::changed_meanwhile(id, expected, based_on));
        }
        let draft = Draft {
            id: id.clone(),
            based_on,
            author: by.author.clone(),
            note: by.note.clone(),
            time: inner.clock.now(),
            content: content.clone(),
        };
        inner
            .note_draft(
                Action::Draft,
                &draft,
                by,
                put(keys::draft(id), draft.encode()),
            )
            .await?;
        Ok(draft)
    }

    /// The draft of an item. NotFound `configs.draft_unknown`.
    pub async fn draft_of(&self, id: &ItemId) -> Result<Draft> {
        Ok(self.0.inner.draft(id).await?.0)
    }

    /// All drafts.
    pub async fn drafts(&self) -> Result<Vec<Draft>> {
        let inner = &self.0.inner;
        let mut drafts = Vec::new();
        let mut span = keys::drafts();
        loop {
            let range = inner.kv.range(span.clone(), usize::MAX, None);
            let page = inner.within("list", range).await?;
            let read = |entry: Entry| Draft::decode(keys::parse_draft(&entry.key)?, &entry.value);
            drafts.extend(page.entries.into_iter().filter_map(read));
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(drafts),
            }
        }
    }

    /// Throws a draft away. NotFound `configs.draft_unknown`.
    pub async fn discard(&self, id: &ItemId, by: &By) -> Result<()> {
        by.check()?;
        let (draft, _) = self.0.inner.draft(id).await?;
        let write = delete(keys::draft(id));
        self.0
            .inner
            .note_draft(Action::Discard, &draft, by, write)
            .await
    }

    /// Makes the draft a version: for everybody, or for those whom the rule names. Unless told otherwise the
    /// version that it was based on must still be the current one. As [`Configs::put`] and [`Configs::gray`].
    pub async fn publish(&self, id: &ItemId, rule: Option<&Rule>, by: &By) -> Result<Written> {
        let inner = &self.0.inner;
        let (draft, entry) = inner.draft(id).await?;
        let by = By {
            author: by.author.clone(),
            note: match by.note.is_empty() {
                true => draft.note.clone(),
                false => by.note.clone(),
            },
            expected: by.expected.or(Some(draft.based_on)),
        };
        let content = &draft.content;
        let publish = |stored: Option<&Stored>| {
            let body = inner.body(id, stored, content, None)?;
            Ok(match rule {
                Some(rule) => Command::Gray(body, rule.clone()),
                None => Command::Put(body),
            })
        };
        inner.change(id, &by, Some(entry), publish).await
    }
}

impl Inner {
    async fn draft(&self, id: &ItemId) -> Result<(Draft, Entry)> {
        let entry = self.within("read", self.kv.get(&keys::draft(id))).await?;
        let entry = entry.ok_or_else(|| error::draft_unknown(id))?;
        let draft = Draft::decode(id.clone(), &entry.value);
        Ok((draft.ok_or_else(|| error::damaged(id))?, entry))
    }

    async fn note_draft(
        &self,
        action: Action,
        draft: &Draft,
        by: &By,
        write: sinew_engine::kv::Write,
    ) -> Result<()> {
        let time = self.clock.now();
        let audit = AuditEntry {
            time,
            author: by.author.clone(),
            action,
            item: Some(draft.id.clone()),
            version: None,
            note: by.note.clone(),
        };
        let writes = vec![write, put(self.audit_key(time), json(&audit))];
        self.commit(Vec::new(), writes).await.map(drop)
    }
}
