//! Contents on their way in and out: checked, encrypted, revealed.

use bytes::Bytes;
use sinew_core::Result;

use super::{Configs, Inner, Stored};
use crate::configs::{
    Content, Effective, Format, ItemId, error, format,
    machine::Body,
    schema,
    secrets::{MARK, Opener},
};

impl Configs {
    /// The content with its encrypted values opened, for somebody who may see them.
    ///
    /// FailedPrecondition `configs.key_unavailable`, InvalidArgument `configs.secret_invalid`.
    pub fn reveal(&self, format: Format, content: &str) -> Result<String> {
        let inner = &self.0.inner;
        if content.contains(MARK) {
            inner.count_reveal();
        }
        inner.open(|opener| opener.reveal_content(format, content))
    }

    /// As [`Configs::reveal`], for a whole configuration.
    pub fn reveal_all(&self, effective: &mut Effective) -> Result<()> {
        let inner = &self.0.inner;
        let is_secret =
            |value: &serde_json::Value| value.as_str().is_some_and(|text| text.contains(MARK));
        let mut is_revealed = false;
        inner.open(|opener| {
            for setting in effective.settings.values_mut() {
                if is_secret(&setting.value) {
                    is_revealed = true;
                    opener.reveal_value(&mut setting.value)?;
                }
            }
            for source in &mut effective.sources {
                if source.settings.values().any(is_secret) {
                    let mut settings = source.settings.as_ref().clone();
                    for value in settings.values_mut() {
                        opener.reveal_value(value)?;
                    }
                    source.settings = settings.into();
                }
            }
            Ok(())
        })?;
        if is_revealed {
            inner.count_reveal();
        }
        Ok(())
    }

    /// Checks a content as a change would, and stores nothing. As [`Configs::put`].
    pub fn check(&self, id: &ItemId, content: &Content) -> Result<()> {
        self.0.inner.body(id, None, content, None).map(drop)
    }
}

impl Inner {
    pub(super) fn open<T>(&self, task: impl FnOnce(&mut Opener<'_>) -> Result<T>) -> Result<T> {
        let stored = self.state.read().keys.clone();
        task(&mut Opener::new(&self.masters, &stored))
    }

    fn count_reveal(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        self.counters.reveals.fetch_add(1, Relaxed);
    }

    /// The content with what it does not say itself, checked.
    pub(super) fn body(
        &self,
        id: &ItemId,
        stored: Option<&Stored>,
        content: &Content,
        restores: Option<u64>,
    ) -> Result<Body> {
        let (bytes, most) = (content.content.len(), self.config.item_bytes);
        if bytes > most {
            return Err(error::too_large("content", bytes, most));
        }
        let before = stored.and_then(|stored| {
            let gray = stored.head.gray.as_ref().map(|gray| &gray.version);
            gray.or(stored.head.in_force())
        });
        let format = content
            .format
            .or(before.map(|version| version.format))
            .or(Format::of_name(id.application()))
            .unwrap_or_default();
        let schema = match &content.schema {
            Some(schema) if schema.trim().is_empty() => None,
            Some(schema) => Some(schema.clone()),
            None => before.and_then(|version| version.schema.clone()),
        };
        let value = format.parse(&content.content)?;
        if let Some(value) = &value {
            format::flatten(value)?;
        }
        match (&schema, &value) {
            (None, _) => {}
            (Some(schema), Some(value)) => schema::check(schema, value)?,
            (Some(_), None) => {
                return Err(error::schema_invalid(
                    "text has no schema; use json, yaml, toml or properties",
                ));
            }
        }
        if content.content.contains(MARK) {
            self.open(|opener| opener.reveal(&content.content).map(drop))?;
        }
        Ok(Body {
            content: Bytes::from(content.content.clone()),
            format,
            schema,
            restores,
        })
    }
}
