//! Import and export.

use sinew_core::{Kind, Result};

use super::Configs;
use crate::configs::{Bundle, BundleItem, By, Content, Imported, ItemId, error};

/// The most items of one bundle that is imported.
const MOST_ITEMS: usize = 10_000;

impl Configs {
    /// The current contents of the items that `wanted` says yes to; encrypted values stay encrypted.
    pub fn export(&self, wanted: impl Fn(&ItemId) -> bool) -> Bundle {
        let (items, _) = self.list(wanted);
        let items = items.iter().filter_map(|item| {
            let version = item.current()?;
            Some(BundleItem {
                item: item.id.clone(),
                format: version.format,
                content: item.content().to_owned(),
                schema: version.schema.clone(),
            })
        });
        Bundle {
            items: items.collect(),
        }
    }

    /// Writes the items of a bundle, each as a change of its own, once all of them were checked. Items that it does
    /// not name stay. When it fails on the way, what was written stays; the same bundle can be imported again.
    /// With `dry_run` nothing is written. InvalidArgument `configs.bundle_invalid`, and as [`Configs::put`].
    pub async fn import(&self, bundle: &Bundle, dry_run: bool, by: &By) -> Result<Imported> {
        by.check()?;
        if bundle.items.len() > MOST_ITEMS {
            return Err(error::bundle_invalid(format!(
                "the bundle has {} items; {MOST_ITEMS} is the most",
                bundle.items.len()
            )));
        }
        let mut seen = std::collections::BTreeSet::new();
        for item in &bundle.items {
            let id = &item.item;
            let refused = |why: &str| Err(error::bundle_invalid(format!("the item {id} {why}")));
            if !seen.insert(id) {
                return refused("is there twice");
            }
            match self.check(id, &item.as_content()) {
                Ok(()) => {}
                Err(fault) if fault.kind() == Kind::InvalidArgument => {
                    return refused(&format!("cannot be imported: {}", fault.message()));
                }
                Err(fault) => return Err(fault),
            }
            if let Some(item) = self.item(id)
                && let Some(gray) = item.gray()
            {
                return Err(error::gray_running(id, gray.version.version));
            }
        }
        let mut imported = Imported::default();
        for item in &bundle.items {
            let id = &item.item;
            let now = self.item(id);
            let current = now
                .as_ref()
                .and_then(|now| Some((now.current()?, now.content())));
            let is_same = current.is_some_and(|(version, content)| {
                (version.format, content, &version.schema)
                    == (item.format, &item.content, &item.schema)
            });
            if is_same {
                imported.same += 1;
                continue;
            }
            if !dry_run {
                let by = By {
                    expected: None,
                    ..by.clone()
                };
                self.put(id, &item.as_content(), &by).await?;
            }
            match current {
                Some(_) => imported.changed.push(id.clone()),
                None => imported.created.push(id.clone()),
            }
        }
        Ok(imported)
    }
}

impl BundleItem {
    /// All of it, so that what is there says nothing in it.
    fn as_content(&self) -> Content {
        Content {
            content: self.content.clone(),
            format: Some(self.format),
            schema: Some(self.schema.clone().unwrap_or_default()),
        }
    }
}
