//! Links between our pages lead somewhere, and the two READMEs keep step.

use std::fs;

use anyhow::{Context, Result};

use super::{files_with, shown};
use crate::run::root;

pub(crate) fn check() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for path in files_with(".", "md")? {
        let text = fs::read_to_string(&path)?;
        let folder = path.parent().unwrap_or(&path);
        for target in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !file.is_empty() && !elsewhere && !folder.join(file).exists() {
                faults.push(format!(
                    "{} links to {target}, which is not there",
                    shown(&path)
                ));
            }
        }
    }
    let headings = |name: &str| -> Result<usize> {
        let text =
            fs::read_to_string(root().join(name)).with_context(|| format!("cannot read {name}"))?;
        Ok(text.lines().filter(|line| line.starts_with('#')).count())
    };
    let (english, chinese) = (headings("README.md")?, headings("README.zh-CN.md")?);
    if english != chinese {
        faults.push(format!(
            "README.md has {english} headings, README.zh-CN.md has {chinese}: keep them in step"
        ));
    }
    Ok(faults)
}

/// The targets of inline links, code left out. A link whose text is code keeps its target: that
/// stands in the piece after the code.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose = line.split('`').step_by(2);
        for piece in prose {
            found.extend(
                piece
                    .split("](")
                    .skip(1)
                    .filter_map(|rest| Some(rest.split_once(')')?.0)),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_inline_links_but_no_code() {
        let text = "see [a](b.md) and [`c`](d.md#e)\n```\n[no](no.md)\n```\n`[x](y.md)`";
        assert_eq!(super::links(text), ["b.md", "d.md#e"]);
    }
}
