//! Routes as files: TOML and JSON in, TOML out; and changes of them for people.

use std::{fmt::Write, io::Read, path::Path};

use anyhow::Result;
use serde_json::{Map, Value};
use sinew_core::{Error, Kind};
use sinew_node::model::{Difference, RouteChange};

use crate::table;

/// What a route is about comes before how it goes about it.
const FIRST: [&str; 4] = ["name", "host", "path", "service"];

/// Reads a file, or standard input for `-`. JSON is told from TOML by its beginning.
pub(super) fn read(file: &Path) -> Result<Value> {
    let name = file.display();
    let text = match file.as_os_str() == "-" {
        true => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        false => std::fs::read_to_string(file),
    };
    let text = text.map_err(|error| unreadable(format!("{name} cannot be read: {error}")))?;
    parse(&text).map_err(|why| unreadable(format!("{name} cannot be read: {why}")).into())
}

fn parse(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with(['{', '[']) && !text.trim_start().starts_with("[[") {
        // A TOML file may begin with a table, too.
        if let Ok(value) = serde_json::from_str(text) {
            return Ok(value);
        }
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(text).map_err(|error| error.to_string());
        }
    }
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .map(|span| text[..span.start].matches('\n').count() + 1);
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        match line {
            Some(line) => format!("line {line}: {message}"),
            None => message,
        }
    })
}

fn unreadable(message: String) -> Error {
    Error::new(Kind::InvalidArgument, "config.unreadable", message)
}

/// A field's new value as it is written on the command line: TOML where it is some, text otherwise.
pub(super) fn value(text: &str) -> Value {
    #[derive(serde::Deserialize)]
    struct Line {
        value: Value,
    }
    let line: Result<Line, _> = toml::from_str(&format!("value = {text}"));
    match line {
        Ok(line) if !text.contains('\n') => line.value,
        _ => Value::String(text.to_owned()),
    }
}

/// The document as `sinew.toml` has it.
pub(super) fn to_toml(document: &Value) -> String {
    let mut text = String::new();
    let tables = document.as_object().into_iter().flatten();
    for (table, entries) in tables {
        let lines = entries.as_array().into_iter().flatten();
        for entry in lines.filter_map(Value::as_object) {
            let _ = writeln!(text, "\n[[{table}]]");
            for (field, value) in ordered(entry) {
                let _ = writeln!(text, "{} = {}", key(field), inline(value));
            }
        }
    }
    text
}

/// Changes, one entry after the other.
pub(super) fn render(changes: &[RouteChange]) -> String {
    let mut text = String::new();
    for change in changes {
        let sign = match change.difference {
            Difference::Added => '+',
            Difference::Removed => '-',
            Difference::Changed => '~',
        };
        let (table, name) = (
            table::one_line(&change.table),
            table::one_line(&change.name),
        );
        let _ = writeln!(text, "{sign} {table} {name}");
        let mut fields: Vec<_> = change.fields.iter().collect();
        fields.sort_by_key(|field| rank(&field.field));
        for field in fields {
            let shown = |value: &Option<Value>| value.as_ref().map(inline);
            let (from, to) = (shown(&field.from), shown(&field.to));
            let name = &field.field;
            let _ = match (from, to) {
                (Some(from), Some(to)) => writeln!(text, "    {name} = {from}  ->  {to}"),
                (Some(from), None) if change.difference == Difference::Changed => {
                    writeln!(text, "    {name} = {from}  ->  (not set)")
                }
                (None, Some(to)) if change.difference == Difference::Changed => {
                    writeln!(text, "    {name} = (not set)  ->  {to}")
                }
                (Some(value), None) | (None, Some(value)) => writeln!(text, "    {name} = {value}"),
                (None, None) => Ok(()),
            };
        }
    }
    text
}

fn ordered(entry: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = entry.iter().collect();
    fields.sort_by_key(|(field, _)| rank(field));
    fields
}

fn rank(field: &str) -> (usize, String) {
    let place = FIRST.iter().position(|first| *first == field);
    (place.unwrap_or(FIRST.len()), field.to_owned())
}

fn key(field: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !field.is_empty() && field.chars().all(is_bare) {
        true => field.to_owned(),
        false => quoted(field),
    }
}

/// A value on one line, as TOML writes it.
fn inline(value: &Value) -> String {
    match value {
        // TOML has none; a field that is null is as good as not set, and never stored by Sinew.
        Value::Null => "\"\"".to_owned(),
        Value::String(text) => quoted(text),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(inline).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let fields: Vec<_> = ordered(fields)
                .into_iter()
                .map(|(field, value)| format!("{} = {}", key(field), inline(value)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn toml_out_is_toml_in() {
        let document = json!({
            "routes": [
                {"service": "a", "path": "/a/**", "auth": ["jwt"], "retries": 2, "name": "a"},
                {"path": "/\"b\"\\", "service": "b", "weights": [{"to": "x", "share": 0.5}], "odd key": {"deep": [1, {"x": true}]}, "lines": "one\ntwo"},
            ],
            "upstreams": [{"service": "a"}],
        });
        let text = to_toml(&document);
        assert!(
            text.starts_with(
                "\n[[routes]]\nname = \"a\"\npath = \"/a/**\"\nservice = \"a\"\nauth = [\"jwt\"]\nretries = 2\n"
            ),
            "{text}"
        );
        assert_eq!(parse(&text).unwrap(), document, "{text}");
        assert_eq!(parse(&document.to_string()).unwrap(), document);
        assert_eq!(parse("").unwrap(), json!({}));
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        assert!(
            parse("[[routes]]\npath = /x\n")
                .unwrap_err()
                .starts_with("line 2: ")
        );
        assert!(
            parse("{\"routes\": [}")
                .unwrap_err()
                .contains("line 1 column")
        );
    }

    #[test]
    fn values_are_toml_or_text() {
        for (text, expected) in [
            ("2", json!(2)),
            ("true", json!(true)),
            ("[\"jwt\"]", json!(["jwt"])),
            ("\"2\"", json!("2")),
            ("/api/**", json!("/api/**")),
            ("5s", json!("5s")),
            ("1MiB", json!("1MiB")),
            ("orders", json!("orders")),
            ("1\nx = 2", json!("1\nx = 2")),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn changes_read_well() {
        let (old, new) = (
            json!({"routes": [
                {"name": "a", "path": "/a", "service": "a"},
                {"name": "b", "path": "/b", "service": "b", "retries": 1, "timeout": "1s"},
            ]}),
            json!({"routes": [
                {"name": "b", "path": "/b", "service": "b2", "retries": 2, "auth": ["jwt"]},
                {"path": "/c", "host": "c.example", "service": "c"},
            ]}),
        );
        let changes = sinew_node::routing::differences(&old, &new);
        assert_eq!(
            render(&changes),
            "- routes a\n    name = \"a\"\n    path = \"/a\"\n    service = \"a\"\n\
             ~ routes b\n    service = \"b\"  ->  \"b2\"\n    auth = (not set)  ->  [\"jwt\"]\n    \
             retries = 1  ->  2\n    timeout = \"1s\"  ->  (not set)\n\
             + routes c.example/c\n    host = \"c.example\"\n    path = \"/c\"\n    service = \"c\"\n"
        );
    }
}
