//! Files of items, and keys.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use serde_json::{Value, json};
use sinew_node::model::{ConfigBundle, ConfigImported, ConfigRotated, ConfigValue};

use super::{Who, content::read, encoded, usage};
use crate::{
    client::{Ask, Target},
    table,
};

/// `sinew config import`.
#[derive(clap::Args)]
pub(super) struct ImportArgs {
    /// What `sinew config export` made; - reads standard input
    file: PathBuf,
    /// Only show what would change, and what is wrong
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    who: Who,
}

/// `sinew config export`.
#[derive(clap::Args)]
pub(super) struct ExportArgs {
    /// Only of this namespace
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Only of this application
    #[arg(long, short, value_name = "NAME")]
    application: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// `sinew config encrypt`.
#[derive(clap::Args)]
pub(super) struct EncryptArgs {
    #[command(flatten)]
    target: Target,
}

/// `sinew config rotate-keys`.
#[derive(clap::Args)]
pub(super) struct RotateArgs {
    /// Encrypt all values anew, each item as a new version
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    who: Who,
}

pub(super) fn import(args: &ImportArgs) -> Result<ExitCode> {
    let bundle: Value = serde_json::from_str(&read(&args.file)?)
        .map_err(|error| usage(format!("{} is not an export: {error}", args.file.display())))?;
    let output = &args.who.output;
    let path = format!(
        "/v1/config/import{}&dry_run={}",
        args.who.query(),
        args.dry_run
    );
    let done: ConfigImported = output.target.ask(&Ask {
        method: "POST",
        path: &path,
        if_match: None,
        body: Some(&bundle),
    })?;
    if output.print_json(&done)? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for (mark, items) in [('+', &done.created), ('~', &done.changed)] {
        for item in items {
            let _ = writeln!(text, "{mark} {item}");
        }
    }
    let _ = writeln!(
        text,
        "{} new, {} changed, {} the same{}",
        done.created.len(),
        done.changed.len(),
        done.same,
        if args.dry_run {
            "; nothing was written"
        } else {
            ""
        }
    );
    table::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let mut path = "/v1/config/export?".to_owned();
    for (name, value) in [
        ("namespace", &args.namespace),
        ("application", &args.application),
    ] {
        if let Some(value) = value {
            let _ = write!(path, "{name}={}&", encoded(value));
        }
    }
    let bundle: ConfigBundle = args.target.get(path.trim_end_matches(['&', '?']))?;
    table::print(&format!("{}\n", serde_json::to_string_pretty(&bundle)?))?;
    Ok(ExitCode::SUCCESS)
}

/// The value is not an argument: arguments are seen by all users of the machine and stay in the shell's history.
pub(super) fn encrypt(args: &EncryptArgs) -> Result<ExitCode> {
    let plain = read(Path::new("-"))?;
    let plain = plain.strip_suffix('\n').unwrap_or(&plain);
    let encrypted: ConfigValue = args.target.ask(&Ask {
        method: "POST",
        path: "/v1/config/encrypt",
        if_match: None,
        body: Some(&json!({ "value": plain })),
    })?;
    table::print(&format!("{}\n", encrypted.value))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rotate(args: &RotateArgs) -> Result<ExitCode> {
    let output = &args.who.output;
    let path = format!(
        "/v1/config/keys/rotate{}&values={}",
        args.who.query(),
        args.values
    );
    let done: ConfigRotated = output.target.ask(&Ask {
        method: "POST",
        path: &path,
        if_match: None,
        body: None,
    })?;
    if output.print_json(&done)? {
        return Ok(ExitCode::SUCCESS);
    }
    table::print(&format!(
        "data key {} is in use; {} wrapped anew\n",
        done.key, done.wrapped
    ))?;
    if args.values {
        table::print(&format!(
            "values of {} items were encrypted anew\n",
            done.items
        ))?;
    }
    if done.skipped > 0 {
        eprintln!(
            "warning: {} items are in gray release and keep their values as they are",
            done.skipped
        );
    }
    Ok(ExitCode::SUCCESS)
}
