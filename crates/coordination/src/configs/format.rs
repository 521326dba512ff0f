//! What contents say: read, checked, flattened to settings, and written again.

pub mod properties;

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sinew_core::{Error, Result};

use super::error;

/// Lists longer than this are not settings, and neither are documents that nest deeper.
const MOST_SETTINGS: usize = 20_000;
const MOST_DEPTH: usize = 64;

/// How a content is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Anything in UTF-8. It holds no settings.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// YAML; of several documents, later ones override earlier ones.
    Yaml,
    /// TOML.
    Toml,
    /// `key = value` lines, as Java writes them.
    Properties,
}

impl Format {
    /// The format that the ending of a name promises.
    pub fn of_name(name: &str) -> Option<Self> {
        let (stem, ending) = name.rsplit_once('.')?;
        match (stem.is_empty(), ending) {
            (true, _) => None,
            (_, "json") => Some(Self::Json),
            (_, "yaml" | "yml") => Some(Self::Yaml),
            (_, "toml") => Some(Self::Toml),
            (_, "properties") => Some(Self::Properties),
            (_, "txt") => Some(Self::Text),
            _ => None,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
            Self::Properties => "properties",
        }
    }

    /// The media type of contents.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Toml => "application/toml",
            Self::Text | Self::Properties => "text/plain; charset=utf-8",
        }
    }

    /// Reads a content; `None` for text, which says nothing that could be read. InvalidArgument
    /// `configs.content_invalid` says where it is wrong, and quotes nothing of it.
    pub(super) fn parse(self, content: &str) -> Result<Option<Value>> {
        let value = match self {
            Self::Text => return Ok(None),
            Self::Json => serde_json::from_str(content).map_err(|error| {
                // Its own words can quote the content.
                invalid(self, Some((error.line(), error.column())))
            })?,
            Self::Yaml => yaml(content)?,
            Self::Toml => {
                let table: toml::Table = toml::from_str(content).map_err(|error| {
                    let at = error.span().map(|span| position(content, span.start));
                    invalid(self, at)
                })?;
                serde_json::to_value(table).map_err(|_| invalid(self, None))?
            }
            Self::Properties => {
                let pairs =
                    properties::parse(content).map_err(|line| invalid(self, Some((line, 1))))?;
                let pairs = pairs
                    .into_iter()
                    .map(|(key, value)| (key, Value::String(value)));
                Value::Object(pairs.collect())
            }
        };
        if depth(&value) > MOST_DEPTH {
            return Err(error::content_invalid(format!(
                "the content nests deeper than {MOST_DEPTH} levels"
            )));
        }
        Ok(Some(value))
    }

    /// Writes a value that was read in any format; text cannot hold one. InvalidArgument `configs.content_invalid`.
    pub fn write(self, value: &Value) -> Result<String> {
        let failed = || error::content_invalid(format!("it cannot be written as {self}"));
        match self {
            Self::Text => Err(failed()),
            Self::Json => {
                let mut text = serde_json::to_string_pretty(value).map_err(|_| failed())?;
                text.push('\n');
                Ok(text)
            }
            Self::Yaml => serde_saphyr::to_string(value).map_err(|_| failed()),
            Self::Toml => toml::to_string(value).map_err(|_| failed()),
            Self::Properties => Ok(properties::write(&flatten(value)?)),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "yaml" | "yml" => Ok(Self::Yaml),
            "toml" => Ok(Self::Toml),
            "properties" => Ok(Self::Properties),
            _ => Err(error::content_invalid(
                "there is no such format: use text, json, yaml, toml or properties",
            )),
        }
    }
}

fn yaml(content: &str) -> Result<Value> {
    let options = serde_saphyr::options! { with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(content, options)
        .map_err(|error| {
            let at = error
                .location()
                .map(|at| (at.line() as usize, at.column() as usize));
            invalid(Format::Yaml, at)
        })?;
    let mut whole = Value::Null;
    for document in documents {
        override_with(&mut whole, document);
    }
    Ok(whole)
}

/// Later documents win; tables are merged, all else is replaced.
fn override_with(whole: &mut Value, later: Value) {
    match (whole, later) {
        (Value::Object(whole), Value::Object(later)) => {
            for (key, value) in later {
                override_with(whole.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (whole, later) => *whole = later,
    }
}

fn invalid(format: Format, at: Option<(usize, usize)>) -> Error {
    let place = match at {
        Some((line, column)) => format!(" (line {line}, column {column})"),
        None => String::new(),
    };
    error::content_invalid(format!("the content is not {format}{place}"))
}

fn position(content: &str, at: usize) -> (usize, usize) {
    let before = content.get(..at).unwrap_or(content);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

/// Settings by their names: `a.b[0].c`. Empty tables and lists hold none; `null` is an empty text, as it
/// is in Spring's.
pub(super) fn flatten(value: &Value) -> Result<BTreeMap<String, Value>> {
    let mut settings = BTreeMap::new();
    flatten_into(&mut settings, String::new(), value);
    match settings.len() > MOST_SETTINGS {
        true => Err(error::content_invalid(format!(
            "the content has more than {MOST_SETTINGS} settings"
        ))),
        false => Ok(settings),
    }
}

fn flatten_into(settings: &mut BTreeMap<String, Value>, name: String, value: &Value) {
    match value {
        Value::Object(values) => {
            for (key, value) in values {
                let name = match name.is_empty() {
                    true => key.clone(),
                    false => format!("{name}.{key}"),
                };
                flatten_into(settings, name, value);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                flatten_into(settings, format!("{name}[{index}]"), value);
            }
        }
        // A document that is one bare value has no settings.
        _ if name.is_empty() => {}
        Value::Null => drop(settings.insert(name, Value::String(String::new()))),
        scalar => drop(settings.insert(name, scalar.clone())),
    }
}

/// The other way: tables and lists from names. Where one name is both a value and a table, the table stays;
/// gaps in lists are closed.
pub(super) fn nest<'a>(settings: impl Iterator<Item = (&'a str, &'a Value)>) -> Value {
    let mut root = Node::default();
    for (name, value) in settings {
        let mut node = &mut root;
        for step in steps(name) {
            node = match step {
                Step::Key(key) => node.keys.entry(key).or_default(),
                Step::Index(index) => node.indexes.entry(index).or_default(),
            };
        }
        node.value = Some(value.clone());
    }
    match root.into_value() {
        Value::Null => Value::Object(Map::new()),
        value => value,
    }
}

#[derive(Default)]
struct Node {
    keys: BTreeMap<String, Node>,
    indexes: BTreeMap<u32, Node>,
    value: Option<Value>,
}

impl Node {
    fn into_value(self) -> Value {
        if !self.keys.is_empty() {
            let keys = self.keys.into_iter();
            return Value::Object(keys.map(|(key, node)| (key, node.into_value())).collect());
        }
        if !self.indexes.is_empty() {
            return Value::Array(self.indexes.into_values().map(Node::into_value).collect());
        }
        self.value.unwrap_or(Value::Null)
    }
}

enum Step {
    Key(String),
    Index(u32),
}

/// At most [`MOST_DEPTH`] steps; what is left of a longer name is one key.
fn steps(name: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = name;
    while !rest.is_empty() && steps.len() < MOST_DEPTH {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        rest = after;
        while let Some((index, after)) = rest
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .and_then(|(index, after)| Some((index.parse().ok()?, after)))
        {
            steps.push(Step::Index(index));
            rest = after;
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
        } else if rest.starts_with('[') {
            // No index: part of a name, such as `logging.level[org.example]`.
            steps.push(Step::Key(rest.to_owned()));
            return steps;
        }
    }
    if !rest.is_empty() {
        steps.push(Step::Key(rest.to_owned()));
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(format: Format, content: &str) -> Value {
        format.parse(content).unwrap().unwrap()
    }

    #[test]
    fn one_document_in_every_format() {
        let expected =
            json!({"server": {"port": 8080, "hosts": ["a", "b"]}, "name": "x", "on": true});
        let json = r#"{"server": {"port": 8080, "hosts": ["a", "b"]}, "name": "x", "on": true}"#;
        let yaml = "# why\nserver:\n  port: 8080\n  hosts: [a, b]\nname: x\non: true\n";
        let toml = "name = \"x\"\non = true\n[server]\nport = 8080\nhosts = [\"a\", \"b\"]\n";
        for (format, content) in [
            (Format::Json, json),
            (Format::Yaml, yaml),
            (Format::Toml, toml),
        ] {
            let value = read(format, content);
            assert_eq!(value, expected, "{format}");
            let again = read(format, &format.write(&value).unwrap());
            assert_eq!(again, expected, "{format}");
            let flat = flatten(&value).unwrap();
            assert_eq!(flat["server.hosts[1]"], "b");
            let named = flat.iter().map(|(name, value)| (name.as_str(), value));
            assert_eq!(nest(named), expected);
        }
        assert_eq!(Format::Text.parse("{").unwrap(), None);
    }

    #[test]
    fn later_documents_of_yaml_override_earlier_ones() {
        let value = read(
            Format::Yaml,
            "a: {b: 1, c: 2}\nl: [1, 2]\n---\na: {b: 3}\nl: [4]\n",
        );
        assert_eq!(value, json!({"a": {"b": 3, "c": 2}, "l": [4]}));
        assert_eq!(read(Format::Yaml, ""), Value::Null);
    }

    #[test]
    fn what_is_wrong_is_placed_and_not_quoted() {
        for (format, content, place) in [
            (Format::Json, "{\"a\": 1,\n \"b\": sekret}", "line 2"),
            (Format::Toml, "a = 1\nb = sekret\n", "line 2"),
            (Format::Yaml, "a: 1\nb: [sekret\n", "line"),
            (Format::Yaml, "a: 'sekret\n", "line"),
            (Format::Properties, "a=1\nb=\\u00zz sekret", "line 2"),
        ] {
            let error = format.parse(content).unwrap_err();
            assert_eq!(error.code(), "configs.content_invalid");
            assert!(error.message().contains(place), "{format}: {error}");
            assert!(!error.message().contains("sekret"), "{format}: {error}");
        }
    }

    #[test]
    fn documents_that_grow_or_nest_without_end_are_refused() {
        let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, before) in ["b", "c", "d", "e", "f", "g", "h", "i"]
            .iter()
            .zip("abcdefgh".chars())
        {
            bomb.push_str(&format!(
                "{name}: &{name} [{}]\n",
                vec![format!("*{before}"); 10].join(", ")
            ));
        }
        assert!(Format::Yaml.parse(&bomb).is_err());
        let deep = |open: &str, close: &str| open.repeat(100) + &close.repeat(100);
        assert!(Format::Yaml.parse(&deep("[", "]")).is_err());
        assert!(Format::Json.parse(&deep("[", "]")).is_err());
        let long = format!("a.{}b=1", "x.".repeat(1000));
        let flat = flatten(&read(Format::Properties, &long)).unwrap();
        let nested = nest(flat.iter().map(|(name, value)| (name.as_str(), value)));
        assert!(depth(&nested) < 80);
    }

    #[test]
    fn odd_names_nest_somehow() {
        let flat = [
            ("a", json!(1)),
            ("a.b", json!(2)),
            ("l[2]", json!("c")),
            ("l[0].x", json!("a")),
            ("log[org.example]", json!("info")),
        ];
        let nested = nest(flat.iter().map(|(name, value)| (*name, value)));
        assert_eq!(
            nested,
            json!({"a": {"b": 2}, "l": [{"x": "a"}, "c"], "log": {"[org.example]": "info"}})
        );
        assert_eq!(nest(std::iter::empty()), json!({}));
    }
}
