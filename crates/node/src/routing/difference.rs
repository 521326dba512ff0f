//! What is different between two documents, entry by entry. Knows nothing of what the entries mean, so
//! whatever stands in a document of a newer binary is compared too.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sinew_api::rest::model::{Difference, FieldChange, RouteChange};

/// What must be done to `old` to make it `new`: entries that are gone, new or changed, in the order of
/// the tables and names. The order of entries in a table is not compared; it means nothing.
pub fn differences(old: &Value, new: &Value) -> Vec<RouteChange> {
    let (old, new) = (entries(old), entries(new));
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let change = |key: &(String, String)| {
        let (before, after) = (old.get(key), new.get(key));
        let difference = match (before, after) {
            (None, Some(_)) => Difference::Added,
            (Some(_), None) => Difference::Removed,
            _ => Difference::Changed,
        };
        let none = Map::new();
        let fields = fields(before.unwrap_or(&&none), after.unwrap_or(&&none));
        let (table, name) = key.clone();
        (difference != Difference::Changed || !fields.is_empty()).then_some(RouteChange {
            difference,
            table,
            name,
            fields,
        })
    };
    keys.into_iter().filter_map(change).collect()
}

/// In few words, for logs: `2 added (a, b), 1 changed (c)`.
pub(super) fn summary(changes: &[RouteChange]) -> String {
    const NAMED: usize = 10;
    let parts = [
        (Difference::Added, "added"),
        (Difference::Removed, "removed"),
        (Difference::Changed, "changed"),
    ];
    let part = |(difference, word): (Difference, &str)| {
        let names: Vec<_> = changes
            .iter()
            .filter(|change| change.difference == difference)
            .map(|change| change.name.as_str())
            .collect();
        let more = match names.len().saturating_sub(NAMED) {
            0 => "",
            _ => ", …",
        };
        let named = names[..names.len().min(NAMED)].join(", ");
        (!names.is_empty()).then(|| format!("{} {word} ({named}{more})", names.len()))
    };
    let parts: Vec<_> = parts.into_iter().filter_map(part).collect();
    match parts.is_empty() {
        true => "none".to_owned(),
        false => parts.join(", "),
    }
}

type Entries<'a> = BTreeMap<(String, String), &'a Map<String, Value>>;

/// Every entry of every table under its name. A name that comes again is numbered: such documents are
/// refused, but can still be compared.
fn entries(document: &Value) -> Entries<'_> {
    let mut entries = Entries::new();
    let tables = document.as_object().into_iter().flatten();
    for (table, list) in tables {
        for entry in list.as_array().into_iter().flatten() {
            let Some(entry) = entry.as_object() else {
                continue;
            };
            let name = name_of(entry);
            let numbered = (2..).map(|number| format!("{name} #{number}"));
            let free = std::iter::once(name.clone())
                .chain(numbered)
                .find(|name| !entries.contains_key(&(table.clone(), name.clone())));
            if let Some(name) = free {
                entries.insert((table.clone(), name), entry);
            }
        }
    }
    entries
}

/// What the gateway, too, calls a route without a name.
fn name_of(entry: &Map<String, Value>) -> String {
    let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
    let candidates = [
        text("name").to_owned(),
        format!("{}{}", text("host"), text("path")),
        text("service").to_owned(),
    ];
    let named = candidates.into_iter().find(|name| !name.is_empty());
    named.unwrap_or_else(|| "(without a name)".to_owned())
}

fn fields(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<FieldChange> {
    let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|field| old.get(*field) != new.get(*field))
        .map(|field| FieldChange {
            field: field.clone(),
            from: old.get(field).cloned(),
            to: new.get(field).cloned(),
        })
        .collect()
}
