//! Runs every conformance suite over every engine and writes what each does into `docs/engines.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    engines,
    run::{root, step},
};

const DOCUMENT: &str = "docs/engines.md";

const HEAD: &str = "\
# Engines

What each engine can do, and what each case of the conformance suites did with it. Written by `cargo xtask engines conformance`
from a run over the real servers; do not edit it. A case is a promise of the trait's contract; every engine passes every case
that its capability record selects. \u{2713} passed; \u{2013} not selected (the engine does not promise what the case rests on, and answers as its
contract says).

The reference, `memory`, is what the other engines are compared with.
";

/// The traits in the order of the document, with the column that comes first.
const TRAITS: &[(&str, &str)] = &[
    ("kv", "Kv: keys with revisions, leases and watches"),
    ("bus", "Bus: durable topics and groups"),
    ("cache", "Cache: bytes with a lifetime"),
    ("blob", "Blob: immutable objects"),
    ("sql", "Sql: the services' own databases"),
];

/// Runs the suites and writes the document, or with `check` compares it with the committed one.
pub(crate) fn run(check: bool) -> Result<()> {
    engines::install(engines::SUITES)?;
    let folder = root().join("target/conformance");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let shown = folder.to_string_lossy();
    let env = [("SINEW_CONFORMANCE", shown.as_ref())];
    let suites: &[&[&str]] = &[
        &["-p", "sinew-testbed", "--features", "servers"],
        &["-p", "sinew-engine", "--test", "engine"],
        &["-p", "sinew-engine-embedded", "--test", "embedded", "suite"],
        &["-p", "sinew-engine-embedded", "--lib", "suite"],
        &["-p", "sinew-engine-external", "--features", "all,servers"],
    ];
    for suite in suites {
        step("cargo", &[&["test"], *suite].concat(), &env)?;
    }
    let document = document(&Results::read(&folder)?);
    let path = root().join(DOCUMENT);
    if check {
        let committed = fs::read_to_string(&path).unwrap_or_default();
        ensure!(
            committed == document,
            "{DOCUMENT} is not what the suites say: run `cargo xtask engines conformance` and commit it"
        );
        return Ok(());
    }
    fs::write(&path, document)?;
    println!("{DOCUMENT} is written");
    Ok(())
}

/// What the suites noted.
#[derive(Default)]
struct Results {
    /// By trait and engine: field and value, in the record's order.
    capabilities: BTreeMap<(String, String), Vec<(String, String)>>,
    /// By trait, group and case.
    cases: BTreeMap<(String, String, String), Case>,
}

struct Case {
    clause: String,
    /// What it did, by engine.
    results: BTreeMap<String, String>,
}

impl Results {
    fn read(folder: &Path) -> Result<Self> {
        let mut results = Self::default();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            for line in fs::read_to_string(&path)?.lines() {
                results
                    .add(line)
                    .with_context(|| format!("{}: {line:?}", path.display()))?;
            }
        }
        ensure!(!results.cases.is_empty(), "the suites noted nothing");
        Ok(results)
    }

    /// A line as `crates/engine/src/suite.rs` writes it.
    fn add(&mut self, line: &str) -> Result<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [of, engine, group, case, result, clause, capability] = fields[..] else {
            bail!("not seven fields");
        };
        let of = of.to_owned();
        self.capabilities
            .insert((of.clone(), engine.to_owned()), fields_of(capability));
        let case = self
            .cases
            .entry((of, group.to_owned(), case.to_owned()))
            .or_insert_with(|| Case {
                clause: clause.to_owned(),
                results: BTreeMap::new(),
            });
        case.results.insert(engine.to_owned(), result.to_owned());
        Ok(())
    }

    /// The engines of a trait: the reference, the embedded one, then the others by name.
    fn engines(&self, of: &str) -> Vec<&str> {
        let names: BTreeSet<&str> = self
            .capabilities
            .keys()
            .filter(|(name, _)| name == of)
            .map(|(_, engine)| engine.as_str())
            .collect();
        let first = ["memory", "embedded"];
        first
            .into_iter()
            .filter(|name| names.contains(name))
            .chain(names.iter().copied().filter(|name| !first.contains(name)))
            .collect()
    }
}

/// The fields of a record as `{:?}` prints it, nested ones with their path.
fn fields_of(record: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = record.split_once('{') else {
        return Vec::new();
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let mut fields = Vec::new();
    let (mut depth, mut start) = (0, 0);
    let mut parts = Vec::new();
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    for part in parts {
        let Some((name, value)) = part.trim().split_once(": ") else {
            continue;
        };
        if name == "engine" {
            continue;
        }
        if value.contains(" {") {
            let nested = fields_of(value);
            fields.extend(
                nested
                    .into_iter()
                    .map(|(field, value)| (format!("{name}.{field}"), value)),
            );
        } else {
            fields.push((name.to_owned(), value.trim_matches('"').to_owned()));
        }
    }
    fields
}

fn document(results: &Results) -> String {
    let mut text = HEAD.to_owned();
    for (of, title) in TRAITS {
        let engines = results.engines(of);
        if engines.is_empty() {
            continue;
        }
        let _ = write!(text, "\n## {title}\n");
        capabilities(&mut text, results, of, &engines);
        cases(&mut text, results, of, &engines);
    }
    text
}

fn row<T: AsRef<str>>(text: &mut String, first: &str, cells: impl IntoIterator<Item = T>) {
    let _ = write!(text, "| {first} |");
    for cell in cells {
        let _ = write!(text, " {} |", cell.as_ref());
    }
    text.push('\n');
}

fn capabilities(text: &mut String, results: &Results, of: &str, engines: &[&str]) {
    text.push('\n');
    row(text, "capability", engines);
    row(text, "---", engines.iter().map(|_| "---"));
    let mut names: Vec<&String> = Vec::new();
    let record = |engine: &str| {
        results
            .capabilities
            .get(&(of.to_owned(), engine.to_owned()))
    };
    for (name, _) in engines.iter().filter_map(|engine| record(engine)).flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let values = engines.iter().map(|engine| {
            let found =
                record(engine).and_then(|fields| fields.iter().find(|(field, _)| field == name));
            match found.map(|(_, value)| value.as_str()) {
                Some("true") => "yes".to_owned(),
                Some("false") => "no".to_owned(),
                Some(value) => value.to_owned(),
                None => String::new(),
            }
        });
        row(text, &format!("`{name}`"), values);
    }
}

fn cases(text: &mut String, all: &Results, of: &str, engines: &[&str]) {
    let mut last = "";
    for ((_, group, name), Case { clause, results }) in
        all.cases.iter().filter(|((name, ..), _)| name == of)
    {
        if group != last {
            let _ = write!(text, "\n### {of}: {}\n\n", group.to_lowercase());
            row(text, "case: what it checks", engines);
            row(text, "---", engines.iter().map(|_| "---"));
            last = group;
        }
        let marks = engines.iter().map(|engine| match results.get(*engine) {
            Some(result) if result == "ok" => "\u{2713}",
            Some(_) => "\u{2013}",
            // Asked with another set-up of the same engine, or not at all.
            None => "",
        });
        let name = name.replace('_', " ");
        let clause = clause.replace('|', "\\|");
        row(text, &format!("{name}: {clause}"), marks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_apart() {
        let record = "Capability { engine: \"memory\", durable: false, limits: Limits { key_bytes: 1024, step: 1ns }, last: Some(3) }";
        let fields = fields_of(record);
        let shown: Vec<_> = fields.iter().map(|(a, b)| format!("{a}={b}")).collect();
        assert_eq!(
            shown,
            [
                "durable=false",
                "limits.key_bytes=1024",
                "limits.step=1ns",
                "last=Some(3)"
            ]
        );
    }

    #[test]
    fn the_document_shows_what_passed_and_what_was_not_asked() {
        let mut results = Results::default();
        for line in [
            "kv\tmemory\tContract\ta_case\tok\tIt is so.\tCapability { engine: \"memory\", durable: false }",
            "kv\tetcd\tContract\ta_case\tneeds Durable\tIt is so.\tCapability { engine: \"etcd\", durable: true }",
        ] {
            results.add(line).expect("a line");
        }
        let text = document(&results);
        assert!(
            text.contains("| a case: It is so. | \u{2713} | \u{2013} |"),
            "{text}"
        );
        assert!(text.contains("| `durable` | no | yes |"), "{text}");
        assert!(results.add("kv\tmemory").is_err());
    }
}
