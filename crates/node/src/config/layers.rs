//! The layers of a configuration, and where in them a value stands.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use sinew_core::{Error, Kind, Result};
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{Document, Sources, invalid};

/// Looked for in the working folder.
const FILE: &str = "sinew.toml";

/// Which tables a variable's name may begin with; the longest that fits is meant.
const TABLES: &[(&str, &[&str])] = &[
    ("SINEW_NODE_", &["node"]),
    ("SINEW_CONTROL_", &["control"]),
    ("SINEW_GATEWAY_LIMITS_", &["gateway", "limits"]),
    ("SINEW_GATEWAY_TLS_", &["gateway", "tls"]),
    ("SINEW_GATEWAY_", &["gateway"]),
    ("SINEW_ENGINES_", &["engines"]),
    ("SINEW_REGISTRY_CONSUL_", &["registry", "consul"]),
    ("SINEW_REGISTRY_EUREKA_", &["registry", "eureka"]),
    ("SINEW_REGISTRY_", &["registry"]),
    ("SINEW_DOCUMENTS_", &["documents"]),
    ("SINEW_CONFIGS_", &["configs"]),
    ("SINEW_AUTH_JWT_", &["auth", "jwt"]),
];

/// What overrides what: later layers win.
#[derive(Default)]
pub(super) struct Layers {
    file: Option<FileLayer>,
    single: Vec<SingleLayer>,
}

struct FileLayer {
    path: PathBuf,
    text: String,
    table: Table,
}

/// One value, from a variable or a flag.
struct SingleLayer {
    /// What the user calls it.
    name: String,
    path: Vec<String>,
    value: Value,
}

/// One step down into a configuration.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> From<&'a str> for Step<'a> {
    fn from(key: &'a str) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Step<'_> {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl Layers {
    pub(super) fn read(sources: Sources) -> Result<Self> {
        let file = match sources.file {
            Some(path) => Some(FileLayer::read(path)?),
            None if Path::new(FILE).exists() => Some(FileLayer::read(FILE.into())?),
            None => None,
        };
        let mut single = Vec::new();
        // Sorted, so that the first error is always the same one.
        let mut environment = sources.environment;
        environment.sort();
        for (name, value) in environment {
            let table = TABLES.iter().find_map(|(prefix, table)| {
                let key = name.strip_prefix(prefix)?.to_ascii_lowercase();
                Some(
                    table
                        .iter()
                        .map(|part| (*part).to_owned())
                        .chain([key])
                        .collect(),
                )
            });
            if let Some(path) = table {
                single.push(SingleLayer::new(name, path, &value)?);
            }
        }
        for (name, path, value) in sources.flags {
            let path = path.split('.').map(str::to_owned).collect();
            single.push(SingleLayer::new(name.to_owned(), path, &value)?);
        }
        Ok(Self { file, single })
    }

    /// All layers in one.
    pub(super) fn merged(&self) -> Result<Document> {
        let mut table = self
            .file
            .as_ref()
            .map(|file| file.table.clone())
            .unwrap_or_default();
        for layer in &self.single {
            insert(&mut table, &layer.path, layer.value.clone());
        }
        // Each layer was good on its own; together they may still lack a key of [auth.jwt].
        table.try_into().map_err(|error: toml::de::Error| {
            let place = self.locate(&["auth".into(), "jwt".into()]);
            invalid(format!("{place}{}", message(&error)))
        })
    }

    /// Where the value at `path` comes from, as the beginning of a message; the nearest place in
    /// the file when it is not there itself, nothing when it is a default.
    pub(super) fn locate(&self, path: &[Step<'_>]) -> String {
        let is_at = |layer: &&SingleLayer| {
            layer.path.len() == path.len()
                && layer
                    .path
                    .iter()
                    .zip(path)
                    .all(|(a, b)| matches!(b, Step::Key(b) if a == b))
        };
        if let Some(layer) = self.single.iter().rev().find(is_at) {
            return format!("{}: ", layer.name);
        }
        self.file
            .as_ref()
            .and_then(|file| file.locate(path))
            .unwrap_or_default()
    }
}

impl FileLayer {
    fn read(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::NotFound => "it does not exist".to_owned(),
                ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
                _ => error.to_string(),
            };
            Error::new(
                Kind::InvalidArgument,
                "config.unreadable",
                format!(
                    "the configuration file {} cannot be read: {why}",
                    path.display()
                ),
            )
        })?;
        let place = |error: &toml::de::Error| match error.span() {
            Some(span) => position(&path, &text, span.start),
            None => format!("{}: ", path.display()),
        };
        // Twice: once into the shape, for exact positions of what does not fit, once as a table
        // that others can be merged into.
        toml::from_str::<Document>(&text)
            .and_then(|_| toml::from_str::<Table>(&text))
            .map_err(|error| invalid(format!("{}{}", place(&error), message(&error))))
            .map(|table| Self { path, text, table })
    }

    fn locate(&self, path: &[Step<'_>]) -> Option<String> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut found = None;
        let mut here: Option<&DeValue<'_>> = None;
        for step in path {
            let next = match (step, here) {
                (Step::Key(key), None) => root.get_ref().get(*key),
                (Step::Key(key), Some(DeValue::Table(table))) => table.get(*key),
                (Step::Index(index), Some(DeValue::Array(array))) => array.get(*index),
                _ => None,
            };
            let Some(next) = next else { break };
            found = Some(next.span().start);
            here = Some(next.get_ref());
        }
        found.map(|offset| position(&self.path, &self.text, offset))
    }
}

impl SingleLayer {
    fn new(name: String, path: Vec<String>, text: &str) -> Result<Self> {
        // `4` may be meant as a number or as a text: whichever the key takes.
        let as_text = Value::String(text.to_owned());
        let as_other = text.parse::<i64>().map(Value::Integer).ok();
        let as_other = as_other.or_else(|| text.parse::<bool>().map(Value::Boolean).ok());
        let mut refusals = Vec::new();
        for value in as_other.into_iter().chain([as_text]) {
            let mut table = Table::new();
            insert(&mut table, &path, value.clone());
            // A single key of [auth.jwt] lacks the others; they may stand in the file.
            match table.try_into::<Document>() {
                Ok(_) => return Ok(Self { name, path, value }),
                Err(error) if error.message().starts_with("missing field") => {
                    return Ok(Self { name, path, value });
                }
                Err(error) => refusals.push(message(&error)),
            };
        }
        // The refusal of the right type is the one that helps.
        let of_type = refusals.iter().find(|why| !why.starts_with("invalid type"));
        let why = of_type.or(refusals.first()).cloned().unwrap_or_default();
        Err(invalid(format!("{name}: {why}")))
    }
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let inner = table
                .entry(key.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// `sinew.toml:7:9: `, counted from 1, in characters.
fn position(path: &Path, text: &str, offset: usize) -> String {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!("{}:{line}:{column}: ", path.display())
}

fn message(error: &toml::de::Error) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    if message.contains("invalid socket address syntax") || message.ends_with("socket address") {
        return "this is not an address to listen on; write IP:PORT, such as 127.0.0.1:7070 or \
                [::]:8080"
            .to_owned();
    }
    // Types as Rust calls them say little to others.
    for number in ["usize", "u64", "u16", "u8"] {
        if let Some(start) = message.strip_suffix(&format!("expected {number}")) {
            return format!("{start}expected a whole number");
        }
    }
    message
}
