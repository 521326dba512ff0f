use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sinew_node::model::ConfigFormat;

use super::{
    Change, ItemArgs,
    content::{ContentArgs, current, name, read},
    is,
};
use crate::{client::Ask, table};

/// How often a change of settings is made anew because somebody else changed the item.
const ATTEMPTS: usize = 5;

/// `sinew config set`.
#[derive(clap::Args)]
pub(super) struct SetArgs {
    #[command(flatten)]
    item: ItemArgs,
    #[command(flatten)]
    content: ContentArgs,
    #[command(flatten)]
    change: Change,
}

/// `sinew config edit`.
#[derive(clap::Args)]
pub(super) struct EditArgs {
    #[command(flatten)]
    item: ItemArgs,
    #[command(flatten)]
    change: Change,
}

/// `sinew config delete`.
#[derive(clap::Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    item: ItemArgs,
    /// Its history goes, too
    #[arg(long)]
    purge: bool,
    #[command(flatten)]
    change: Change,
}

/// `sinew config rollback`.
#[derive(clap::Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    item: ItemArgs,
    /// The version whose content comes back
    #[arg(value_name = "VERSION")]
    number: u64,
    #[command(flatten)]
    change: Change,
}

pub(super) fn set(args: &SetArgs) -> Result<ExitCode> {
    let change = &args.change;
    let target = &change.who.output.target;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (body, based_on) = args.content.body(target, &args.item)?;
        let expected = change.expect.or(based_on);
        let path = args.item.path("")?;
        match change.send("PUT", &path, expected, Some(&body)) {
            Err(error)
                if change.expect.is_none()
                    && is(&error, "configs.changed_meanwhile")
                    && attempts < ATTEMPTS => {}
            written => return change.tell(&written?, "stored as"),
        }
    }
}

pub(super) fn edit(args: &EditArgs) -> Result<ExitCode> {
    let change = &args.change;
    let found = current(&change.who.output.target, &args.item)?;
    let (content, format, version) = match &found {
        Some(found) => {
            let current = found.item.current.as_ref();
            let version = current.map_or(0, |version| version.version);
            (found.content.as_str(), found.format, version)
        }
        None => ("", ConfigFormat::Yaml, 0),
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join(format!("config.{}", name(format)));
    std::fs::write(&file, content)?;
    open_editor(&file)?;
    let edited = read(&file)?;
    if edited == content {
        table::print("nothing was changed\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let body = json!({ "content": edited, "format": name(format) });
    let expected = change.expect.or(Some(version));
    let written = change.send("PUT", &args.item.path("")?, expected, Some(&body));
    let written = written.inspect_err(|_| {
        // What was typed shall not be lost with the folder.
        if let Ok(kept) = folder.keep_file(&file) {
            eprintln!("what you wrote is in {}", kept.display());
        }
    })?;
    change.tell(&written, "stored as")
}

fn open_editor(file: &Path) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok());
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    // It may come with arguments, as `code --wait` does.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program)
        .args(words)
        .arg(file)
        .status();
    let status =
        status.with_context(|| format!("cannot start the editor {program}; set EDITOR"))?;
    if !status.success() {
        bail!("the editor {program} failed: nothing was changed");
    }
    Ok(())
}

trait Keep {
    fn keep_file(&self, file: &Path) -> std::io::Result<std::path::PathBuf>;
}

impl Keep for tempfile::TempDir {
    /// Moves a file of the folder to where it stays, readable by its owner alone.
    fn keep_file(&self, file: &Path) -> std::io::Result<std::path::PathBuf> {
        let ending = file
            .extension()
            .and_then(|ending| ending.to_str())
            .unwrap_or("txt");
        let kept = tempfile::Builder::new()
            .prefix("sinew-config-")
            .suffix(&format!(".{ending}"))
            .tempfile()?;
        std::fs::copy(file, kept.path())?;
        Ok(kept.keep()?.1)
    }
}

pub(super) fn delete(args: &DeleteArgs) -> Result<ExitCode> {
    let change = &args.change;
    let mut path = format!("{}{}", args.item.path("")?, change.who.query());
    if args.purge {
        path.push_str("&purge=true");
    }
    change.who.output.target.tell(&Ask {
        method: "DELETE",
        path: &path,
        if_match: change.expect,
        body: None,
    })?;
    let name = args.item.name()?;
    table::print(&match args.purge {
        true => format!("{name} is gone, and its history\n"),
        false => format!("{name} is gone; `sinew config rollback` brings it back\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn roll_back(args: &RollbackArgs) -> Result<ExitCode> {
    let change = &args.change;
    let body = json!({ "version": args.number });
    let path = args.item.path("/rollback")?;
    let written = change.send("POST", &path, change.expect, Some(&body))?;
    change.tell(&written, "stored as")
}
