//! Every error code has a page, and every page a code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::Result;

use super::{files_with, shown};

pub(crate) fn check() -> Result<Vec<String>> {
    let mut codes: BTreeMap<String, String> = BTreeMap::new();
    for folder in ["crates", "examples"] {
        for path in files_with(folder, "rs")? {
            let shown = shown(&path);
            if shown.contains("/tests") || shown.contains("/examples/") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            // Unit tests at a file's end make up codes of their own.
            let text = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            for code in codes_in(text) {
                codes.entry(code).or_insert_with(|| shown.clone());
            }
        }
    }
    let pages: BTreeSet<String> = files_with("docs/errors", "md")?
        .iter()
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .filter(|name| name != "README")
        .collect();
    let missing = codes
        .iter()
        .filter(|(code, _)| !pages.contains(*code))
        .map(|(code, place)| format!("error {code} ({place}) has no page docs/errors/{code}.md"));
    let stale = pages
        .iter()
        .filter(|page| !codes.contains_key(*page))
        .map(|page| format!("docs/errors/{page}.md describes an error that nothing makes"));
    Ok(missing.chain(stale).collect())
}

/// The string literals in `text` that look like codes of an area that makes errors.
fn codes_in(text: &str) -> impl Iterator<Item = String> {
    const AREAS: &[&str] = &[
        "api",
        "backup",
        "bench",
        "blob",
        "bus",
        "cache",
        "config",
        "configs",
        "consul",
        "core",
        "demo",
        "documents",
        "engine",
        "eureka",
        "gateway",
        "keyspace",
        "kv",
        "launcher",
        "log",
        "node",
        "registry",
        "repair",
        "routes",
        "sdk",
        "shop",
        "sql",
        "store",
        "token",
    ];
    // A flag stands beside the dotted name of its setting, which is no code.
    let code_lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//") && !line.contains("\"--"));
    let mut found = Vec::new();
    for line in code_lines {
        // Every second piece between quotes is a literal; escaped quotes only ever hide a code.
        for literal in line.split('"').skip(1).step_by(2) {
            let Some((area, rest)) = literal.split_once('.') else {
                continue;
            };
            let is_word = |word: &str| {
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            };
            let is_file = ["rs", "md", "toml", "json", "db", "log", "redb"].contains(&rest);
            if AREAS.contains(&area) && is_word(rest) && !is_file {
                found.push(literal.to_owned());
            }
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_codes_and_nothing_else() {
        let text = r#"
            Error::new(Kind::NotFound, "registry.instance_unknown", "no such thing"),
            // "kv.in_a_comment"
            ("--data", "node.data"), open("config.toml"); get("shop.example/x"); "orders.paid"
        "#;
        assert_eq!(
            super::codes_in(text).collect::<Vec<_>>(),
            ["registry.instance_unknown"]
        );
    }
}
