//! What one instance of an application shall see: the settings of several items, one over the other.
//!
//! From the strongest to the weakest: for each profile, the last named first, and then for the profile
//! `default`, what is of the application itself, and then what is of the shared application
//! `application`. This is the order of Spring Cloud Config. A list of a stronger item replaces that of
//! a weaker one as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use sinew_core::Result;
use sinew_engine::kv::Revision;

use super::{
    Client, DEFAULT_NAMESPACE, DEFAULT_PROFILE, Format, Item, ItemId, MAIN_LABEL, error, format,
    item::{check, check_label},
    model::Settings,
};

/// The application whose items all others of its namespace see.
const SHARED: &str = "application";
const MOST_PROFILES: usize = 16;
/// The endings of names that stand for a profile of an application.
const ENDINGS: [&str; 5] = ["properties", "yml", "yaml", "json", "toml"];

/// Who asks for which configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The namespace.
    pub namespace: String,
    /// The application.
    pub application: String,
    /// The profiles besides `default`; the last wins.
    pub profiles: Vec<String>,
    /// The label.
    pub label: String,
    /// Who asks.
    pub client: Client,
}

impl Query {
    /// What `application` sees without profiles, in the default namespace under the main label.
    pub fn of(application: &str) -> Self {
        Self {
            namespace: DEFAULT_NAMESPACE.to_owned(),
            application: application.to_owned(),
            profiles: Vec::new(),
            label: MAIN_LABEL.to_owned(),
            client: Client::default(),
        }
    }

    /// InvalidArgument `configs.item_invalid`, `configs.query_invalid`.
    pub(super) fn check(&self) -> Result<()> {
        check("namespace", &self.namespace, "")?;
        check("application", &self.application, "")?;
        check_label(&self.label)?;
        for profile in &self.profiles {
            ItemId::new(&self.namespace, &self.application, profile, &self.label)?;
        }
        match self.profiles.len() > MOST_PROFILES {
            true => Err(error::query_invalid(format!(
                "{MOST_PROFILES} profiles are the most"
            ))),
            false => Ok(()),
        }
    }

    /// The items that could have a say, the strongest first.
    pub(super) fn candidates(&self) -> Vec<ItemId> {
        let mut candidates = Vec::new();
        let named = self.profiles.iter().rev().map(String::as_str);
        let mut profiles: Vec<&str> = Vec::new();
        for profile in named.filter(|profile| *profile != DEFAULT_PROFILE) {
            if !profiles.contains(&profile) {
                profiles.push(profile);
            }
        }
        profiles.push(DEFAULT_PROFILE);
        let mut applications = vec![self.application.as_str(), SHARED];
        applications.dedup();
        for profile in profiles {
            for application in &applications {
                let item = |name: &str, profile| {
                    ItemId::new(&self.namespace, name, profile, &self.label).ok()
                };
                candidates.extend(item(application, profile));
                let stem = match profile {
                    DEFAULT_PROFILE => (*application).to_owned(),
                    profile => format!("{application}-{profile}"),
                };
                let files = ENDINGS.iter().map(|ending| format!("{stem}.{ending}"));
                candidates.extend(files.filter_map(|name| item(&name, DEFAULT_PROFILE)));
            }
        }
        candidates
    }
}

/// A configuration, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The revision of the store that it is of.
    pub revision: Revision,
    /// Says what it says: another when anything in it is another.
    pub version: String,
    /// The items that it is made of, the strongest first.
    pub sources: Vec<Source>,
    /// The settings by their names.
    pub settings: BTreeMap<String, Setting>,
}

/// An item that has a say.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its name.
    pub id: ItemId,
    /// Its version.
    pub version: u64,
    /// Whether this version is in gray release.
    pub is_gray: bool,
    /// How it is written.
    pub format: Format,
    /// What it says, also where a stronger one says something else.
    pub settings: Arc<BTreeMap<String, Value>>,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// Which of the sources it comes from.
    pub source: usize,
}

impl Effective {
    /// The settings as one document of tables and lists.
    pub fn document(&self) -> Value {
        let settings = self.settings.iter();
        format::nest(settings.map(|(name, setting)| (name.as_str(), &setting.value)))
    }
}

/// Merges what the items say to the one who asks.
pub(super) fn merge(query: &Query, items: &[Arc<Item>], revision: Revision) -> Effective {
    let mut sources: Vec<Source> = Vec::new();
    let mut said = String::new();
    for item in items {
        let Some((version, _, is_gray)) = item.seen_by(&query.client) else {
            continue;
        };
        let Some(settings) = item.settings(&query.client) else {
            continue;
        };
        said.push_str(&format!(
            "{}\n{}\n{}\n",
            item.id, version.hash, version.format
        ));
        sources.push(Source {
            id: item.id.clone(),
            version: version.version,
            is_gray,
            format: version.format,
            settings,
        });
    }
    let hash = crate::documents::hash(said.as_bytes());
    Effective {
        revision,
        version: hash.chars().take(32).collect(),
        settings: overlay(sources.iter().map(|source| &source.settings)),
        sources,
    }
}

/// The first that has a setting wins.
pub(super) fn overlay<'a>(
    sources: impl Iterator<Item = &'a Settings>,
) -> BTreeMap<String, Setting> {
    let mut settings = BTreeMap::new();
    let mut lists: BTreeSet<String> = BTreeSet::new();
    for (source, own) in sources.enumerate() {
        let mut own_lists = BTreeSet::new();
        for (name, value) in own.iter() {
            let list = name.find('[').map(|end| &name[..end]);
            if list.is_some_and(|list| lists.contains(list)) {
                continue;
            }
            own_lists.extend(list.map(str::to_owned));
            settings.entry(name.clone()).or_insert_with(|| Setting {
                value: value.clone(),
                source,
            });
        }
        lists.append(&mut own_lists);
    }
    settings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_strongest_comes_first() {
        let query = Query {
            profiles: vec!["prod".into(), "default".into(), "eu".into(), "prod".into()],
            ..Query::of("orders")
        };
        let names: Vec<String> = query
            .candidates()
            .iter()
            .filter(|id| !id.application().contains('.'))
            .map(|id| format!("{}/{}", id.application(), id.profile()))
            .collect();
        let expected = [
            "orders/prod",
            "application/prod",
            "orders/eu",
            "application/eu",
            "orders/default",
            "application/default",
        ];
        assert_eq!(names, expected);
        let files: Vec<String> = Query::of("application")
            .candidates()
            .iter()
            .map(|id| id.data_id())
            .collect();
        assert_eq!(
            files[..3],
            ["application", "application.properties", "application.yml"]
        );
        assert_eq!(files.len(), 6);
    }

    #[test]
    fn stronger_lists_replace_weaker_ones_whole() {
        let settings = |value: Value| Arc::new(format::flatten(&value).unwrap());
        let (strong, weak) = (
            settings(json!({"a": 1, "l": ["x"], "t": {"b": 1}})),
            settings(json!({"a": 2, "l": ["y", "z"], "t": {"c": 2}, "m": [1, 2]})),
        );
        let merged = overlay([strong, weak].iter());
        let named = merged
            .iter()
            .map(|(name, setting)| (name.as_str(), &setting.value));
        assert_eq!(
            format::nest(named),
            json!({"a": 1, "l": ["x"], "m": [1, 2], "t": {"b": 1, "c": 2}})
        );
        assert_eq!((merged["t.b"].source, merged["t.c"].source), (0, 1));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let bad = |query: Query| query.check().unwrap_err().code().to_owned();
        let many = (0..17).map(|number| format!("p{number}")).collect();
        let many = Query {
            profiles: many,
            ..Query::of("a")
        };
        assert_eq!(bad(many), "configs.query_invalid");
        assert_eq!(bad(Query::of("a/b")), "configs.item_invalid");
        let profile = Query {
            profiles: vec!["a:b".into()],
            ..Query::of("a")
        };
        assert_eq!(bad(profile), "configs.item_invalid");
    }
}
