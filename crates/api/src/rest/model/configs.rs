//! The config centre over the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sinew_coordination::configs;
use utoipa::ToSchema;

/// How a content is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigFormat {
    /// Anything in UTF-8. It holds no settings.
    Text,
    /// One JSON document.
    Json,
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
    /// `key = value` lines, as Java writes them.
    Properties,
}

/// Who sees a version in gray release: whoever any of these names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigRule {
    /// These instances.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<String>,
    /// Those who ask from these addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["10.0.0.0/8"]))]
    pub addresses: Vec<String>,
    /// Those who have all of these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// So many of a hundred; who is among them stays among them when the number grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100)]
    pub percent: Option<f64>,
}

/// A content for an item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    /// What it says.
    pub content: String,
    /// How it is written; as before, as the name's ending promises, or text when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ConfigFormat>,
    /// A JSON schema that it must fit. The one before stays when it is absent; `null` takes it away.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// A content for those whom a rule names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigGrayChange {
    /// Who sees it.
    pub rule: ConfigRule,
    /// What they see; when absent, others see the version that is in gray release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ConfigChange>,
}

/// How a draft is published.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigPublish {
    /// Who sees it; everybody when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<ConfigRule>,
}

/// What is known of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigVersion {
    /// Its number; the first is 1.
    pub version: u64,
    /// When it was made, milliseconds since 1970.
    pub time_ms: u64,
    /// Who made it, as they say themselves.
    pub author: String,
    /// Why, if they said it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The version whose content it brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// Whether it was made for a gray release.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_gray: bool,
    /// Whether it is the deletion of the item.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_deletion: bool,
    /// How its content is written.
    pub format: ConfigFormat,
    /// The JSON schema that its content fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Its content's length.
    pub bytes: u64,
    /// The SHA-256 of its content in hexadecimal.
    pub hash: String,
}

/// A version that only some see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigGray {
    /// The version.
    #[serde(flatten)]
    pub version: ConfigVersion,
    /// Who sees it.
    pub rule: ConfigRule,
}

/// An item without its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigItem {
    /// `NAMESPACE/APPLICATION/PROFILE/LABEL`.
    pub item: String,
    /// What clients with data ids call it.
    pub data_id: String,
    /// The group that it is in for them.
    pub group: String,
    /// The store's revision that last changed it.
    pub revision: u64,
    /// The version in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<ConfigVersion>,
    /// The version in gray release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gray: Option<ConfigGray>,
}

/// The items of the config centre.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigItems {
    /// The store's revision of which this is the list.
    pub revision: u64,
    /// Whether the store is out of reach, so that there may be a newer one.
    pub is_stale: bool,
    /// The items in order.
    pub items: Vec<ConfigItem>,
}

/// An item as somebody sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigContent {
    /// The item; its gray release too, which need not be what is shown.
    #[serde(flatten)]
    pub item: ConfigItem,
    /// The version that is shown; 0 for a draft.
    pub version: u64,
    /// How the content is written.
    pub format: ConfigFormat,
    /// The content.
    pub content: String,
    /// Whether encrypted values in it are open.
    pub is_revealed: bool,
    /// Whether the store is out of reach, so that there may be a newer one.
    pub is_stale: bool,
}

/// A version with its content, encrypted values as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigVersionContent {
    /// What is known of it.
    #[serde(flatten)]
    pub version: ConfigVersion,
    /// The content.
    pub content: String,
}

/// The versions that are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigVersions {
    /// The newest first.
    pub versions: Vec<ConfigVersion>,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigWritten {
    /// The version that it is about.
    #[serde(flatten)]
    pub version: ConfigVersion,
    /// Whether anything changed; it was so already otherwise.
    pub is_new: bool,
    /// The store's revision that holds it.
    pub revision: u64,
}

/// Two versions beside each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigComparison {
    /// The first; 0 for none.
    pub from: u64,
    /// The second.
    pub to: u64,
    /// The settings that differ; none for text.
    pub changes: Vec<ConfigSettingChange>,
    /// The lines that differ with those around them, each after `+`, `-` or a blank.
    pub lines: String,
}

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigSettingChange {
    /// What happened.
    pub difference: super::Difference,
    /// Its name.
    pub name: String,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub from: Option<Value>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub to: Option<Value>,
}

/// What is being prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigDraft {
    /// The item that it is for.
    pub item: String,
    /// The version that was current when it was written; 0 when there was none.
    pub based_on: u64,
    /// Who wrote it last.
    pub author: String,
    /// What they said of it.
    pub note: String,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// What it says.
    #[serde(flatten)]
    pub change: ConfigChange,
}

/// All drafts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigDrafts {
    /// In the order of their items.
    pub drafts: Vec<ConfigDraft>,
}

/// What one instance shall see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigEffective {
    /// The store's revision that it is of.
    pub revision: u64,
    /// Whether the store is out of reach, so that there may be a newer one.
    pub is_stale: bool,
    /// Another when anything in it is another.
    pub version: String,
    /// The items that it is made of, the strongest first.
    pub sources: Vec<ConfigSource>,
    /// The settings by their names, each with the index of its source.
    pub settings: BTreeMap<String, ConfigSetting>,
    /// The same as one document of tables and lists.
    #[schema(value_type = Object)]
    pub document: Value,
}

/// An item that has a say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigSource {
    /// `NAMESPACE/APPLICATION/PROFILE/LABEL`.
    pub item: String,
    /// Its version.
    pub version: u64,
    /// Whether this version is in gray release.
    pub is_gray: bool,
    /// How it is written.
    pub format: ConfigFormat,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigSetting {
    /// The value.
    #[schema(value_type = Object)]
    pub value: Value,
    /// Which of the sources it comes from, counted from 0.
    pub source: usize,
}

/// Items as one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigBundle {
    /// The items in order.
    pub items: Vec<ConfigBundleItem>,
}

/// One item of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigBundleItem {
    /// `NAMESPACE/APPLICATION/PROFILE/LABEL`.
    pub item: String,
    /// How the content is written.
    pub format: ConfigFormat,
    /// The content, encrypted values as they are.
    pub content: String,
    /// The JSON schema that it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// What an import did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigImported {
    /// Items that are new.
    pub created: Vec<String>,
    /// Items that have a new version.
    pub changed: Vec<String>,
    /// How many said the same already.
    pub same: usize,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigAudit {
    /// The newest first.
    pub entries: Vec<ConfigAuditEntry>,
}

/// Who did what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigAuditEntry {
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// Who, as they say themselves.
    pub author: String,
    /// What: `put`, `roll_back`, `gray`, `widen`, `promote`, `abort`, `delete`, `purge`, `draft`, `discard`,
    /// `rotate` or `reveal`.
    pub action: String,
    /// To which item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// To which version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why, if they said it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// A value that is to be encrypted, or that was.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigValue {
    /// The value.
    pub value: String,
}

/// What a rotation of keys did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigRotated {
    /// The data key that is now in use.
    pub key: u64,
    /// Data keys that were wrapped anew, by the master key in use.
    pub wrapped: usize,
    /// Items whose values were encrypted anew, each as a new version.
    pub items: usize,
    /// Items that were left as they are, because a version of theirs is in gray release.
    pub skipped: usize,
}

/// `null` is something else than nothing.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

impl From<configs::Format> for ConfigFormat {
    fn from(format: configs::Format) -> Self {
        match format {
            configs::Format::Text => Self::Text,
            configs::Format::Json => Self::Json,
            configs::Format::Yaml => Self::Yaml,
            configs::Format::Toml => Self::Toml,
            configs::Format::Properties => Self::Properties,
        }
    }
}

impl From<ConfigFormat> for configs::Format {
    fn from(format: ConfigFormat) -> Self {
        match format {
            ConfigFormat::Text => Self::Text,
            ConfigFormat::Json => Self::Json,
            ConfigFormat::Yaml => Self::Yaml,
            ConfigFormat::Toml => Self::Toml,
            ConfigFormat::Properties => Self::Properties,
        }
    }
}

impl From<configs::Rule> for ConfigRule {
    fn from(rule: configs::Rule) -> Self {
        Self {
            instances: rule.instances,
            addresses: rule.addresses.iter().map(ToString::to_string).collect(),
            labels: rule.labels,
            percent: Some(rule.percent).filter(|percent| *percent != 0.0),
        }
    }
}

impl TryFrom<ConfigRule> for configs::Rule {
    type Error = sinew_core::Error;

    fn try_from(rule: ConfigRule) -> Result<Self, Self::Error> {
        let addresses = rule.addresses.iter().map(|text| text.parse());
        Ok(Self {
            instances: rule.instances,
            addresses: addresses.collect::<Result<_, _>>()?,
            labels: rule.labels,
            percent: rule.percent.unwrap_or_default(),
        })
    }
}

impl From<ConfigChange> for configs::Content {
    fn from(change: ConfigChange) -> Self {
        Self {
            content: change.content,
            format: change.format.map(configs::Format::from),
            schema: change.schema.map(|schema| match schema {
                Value::Null => String::new(),
                schema => schema.to_string(),
            }),
        }
    }
}

/// A schema that is stored was read as JSON when it was written.
fn schema(text: Option<&str>) -> Option<Value> {
    text.and_then(|text| serde_json::from_str(text).ok())
}

impl From<&configs::Version> for ConfigVersion {
    fn from(version: &configs::Version) -> Self {
        Self {
            version: version.version,
            time_ms: version.time.as_millis(),
            author: version.author.clone(),
            note: version.note.clone(),
            restores: version.restores,
            is_gray: version.is_gray,
            is_deletion: version.is_deletion,
            format: version.format.into(),
            schema: schema(version.schema.as_deref()),
            bytes: version.bytes as u64,
            hash: version.hash.clone(),
        }
    }
}

impl From<&configs::Item> for ConfigItem {
    fn from(item: &configs::Item) -> Self {
        Self {
            item: item.id.to_string(),
            data_id: item.id.data_id(),
            group: item.id.group().to_owned(),
            revision: item.revision,
            current: item.current().map(ConfigVersion::from),
            gray: item.gray().map(|gray| ConfigGray {
                version: (&gray.version).into(),
                rule: gray.rule.clone().into(),
            }),
        }
    }
}

impl From<configs::VersionContent> for ConfigVersionContent {
    fn from(version: configs::VersionContent) -> Self {
        Self {
            version: (&version.version).into(),
            content: version.content,
        }
    }
}

impl From<configs::Written> for ConfigWritten {
    fn from(written: configs::Written) -> Self {
        Self {
            version: (&written.version).into(),
            is_new: written.is_new,
            revision: written.revision,
        }
    }
}

impl From<configs::Comparison> for ConfigComparison {
    fn from(comparison: configs::Comparison) -> Self {
        let changes = comparison
            .changes
            .into_iter()
            .map(|change| ConfigSettingChange {
                difference: match change.difference {
                    configs::Difference::Added => super::Difference::Added,
                    configs::Difference::Removed => super::Difference::Removed,
                    configs::Difference::Changed => super::Difference::Changed,
                },
                name: change.name,
                from: change.from,
                to: change.to,
            });
        Self {
            from: comparison.from,
            to: comparison.to,
            changes: changes.collect(),
            lines: comparison.lines,
        }
    }
}

impl From<configs::Draft> for ConfigDraft {
    fn from(draft: configs::Draft) -> Self {
        Self {
            item: draft.id.to_string(),
            based_on: draft.based_on,
            author: draft.author,
            note: draft.note,
            time_ms: draft.time.as_millis(),
            change: ConfigChange {
                content: draft.content.content,
                format: draft.content.format.map(ConfigFormat::from),
                schema: draft
                    .content
                    .schema
                    .map(|text| schema(Some(&text)).unwrap_or_default()),
            },
        }
    }
}

impl ConfigEffective {
    /// What the block made, as it goes over the wire.
    pub fn new(effective: configs::Effective, is_stale: bool) -> Self {
        let document = effective.document();
        let sources = effective.sources.iter().map(|source| ConfigSource {
            item: source.id.to_string(),
            version: source.version,
            is_gray: source.is_gray,
            format: source.format.into(),
        });
        let sources = sources.collect();
        let settings = effective.settings.into_iter().map(|(name, setting)| {
            let configs::Setting { value, source } = setting;
            (name, ConfigSetting { value, source })
        });
        Self {
            revision: effective.revision,
            is_stale,
            version: effective.version,
            sources,
            settings: settings.collect(),
            document,
        }
    }
}

impl From<configs::Bundle> for ConfigBundle {
    fn from(bundle: configs::Bundle) -> Self {
        let items = bundle.items.into_iter().map(|item| ConfigBundleItem {
            item: item.item.to_string(),
            format: item.format.into(),
            content: item.content,
            schema: schema(item.schema.as_deref()),
        });
        Self {
            items: items.collect(),
        }
    }
}

impl TryFrom<ConfigBundle> for configs::Bundle {
    type Error = sinew_core::Error;

    fn try_from(bundle: ConfigBundle) -> Result<Self, Self::Error> {
        let items = bundle.items.into_iter().map(|item| {
            Ok(configs::BundleItem {
                item: item.item.parse()?,
                format: item.format.into(),
                content: item.content,
                schema: item.schema.map(|schema| schema.to_string()),
            })
        });
        Ok(Self {
            items: items.collect::<Result<_, Self::Error>>()?,
        })
    }
}

impl From<configs::Imported> for ConfigImported {
    fn from(imported: configs::Imported) -> Self {
        let names = |ids: Vec<configs::ItemId>| ids.iter().map(ToString::to_string).collect();
        Self {
            created: names(imported.created),
            changed: names(imported.changed),
            same: imported.same,
        }
    }
}

impl From<configs::AuditEntry> for ConfigAuditEntry {
    fn from(entry: configs::AuditEntry) -> Self {
        let action = serde_json::to_value(entry.action).unwrap_or_default();
        Self {
            time_ms: entry.time.as_millis(),
            author: entry.author,
            action: action.as_str().unwrap_or_default().to_owned(),
            item: entry.item.map(|item| item.to_string()),
            version: entry.version,
            note: entry.note,
        }
    }
}

impl From<configs::Rotated> for ConfigRotated {
    fn from(rotated: configs::Rotated) -> Self {
        Self {
            key: rotated.key,
            wrapped: rotated.wrapped,
            items: rotated.items,
            skipped: rotated.skipped,
        }
    }
}
