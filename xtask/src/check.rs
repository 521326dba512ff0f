//! The rules of the house that a compiler does not know.

mod dependencies;
mod documents;
mod error_codes;
mod files;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::run::root;

pub(crate) fn all() -> Result<()> {
    let mut faults = dependencies::check()?;
    faults.extend(error_codes::check()?);
    faults.extend(documents::check()?);
    faults.extend(files::check()?);
    for fault in &faults {
        eprintln!("check: {fault}");
    }
    ensure!(
        faults.is_empty(),
        "{} rule(s) of the house broken, see above",
        faults.len()
    );
    println!("check: the house is in order");
    Ok(())
}

/// All files below `folder` (relative to the root) with this extension, built output left out.
fn files_with(folder: &str, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder:?}"))? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The path as people write it: from the root.
fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
