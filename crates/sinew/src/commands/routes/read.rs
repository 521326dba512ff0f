use std::process::ExitCode;

use sinew_node::{
    model::{RoutesDocument, RoutesVersion, RoutesVersions},
    routing::differences,
};

use super::{Output, document};
use crate::{client::Target, table, time::moment};

/// `sinew routes get`.
#[derive(clap::Args)]
pub(super) struct GetArgs {
    /// The version [default: the current one]
    #[arg(long = "version", value_name = "N")]
    number: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// `sinew routes history`.
#[derive(clap::Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    output: Output,
}

/// `sinew routes diff`.
#[derive(clap::Args)]
pub(super) struct DiffArgs {
    /// A version; 0 is no routes
    from: u64,
    /// Another one [default: the current one]
    to: Option<u64>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn get(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let found = version(&args.target, args.number)?;
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&found.document)?)
    } else {
        format!(
            "# {}\n{}",
            headline(&found.version),
            document::to_toml(&found.document)
        )
    };
    table::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn history(args: &HistoryArgs) -> anyhow::Result<ExitCode> {
    let history: RoutesVersions = args.output.target.get("/v1/routes/versions")?;
    if args.output.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&history)?))?;
    } else if history.versions.is_empty() {
        table::print("no routes are stored\n")?;
    } else {
        let rows: Vec<_> = history.versions.iter().map(row).collect();
        let header = ["VERSION", "TIME", "AUTHOR", "BYTES", "HASH", "NOTE"];
        table::print(&table::render(header, &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn diff(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let target = &args.output.target;
    let from = version(target, Some(args.from))?;
    let to = version(target, args.to)?;
    let changes = differences(&from.document, &to.document);
    if args.output.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&changes)?))?;
    } else if changes.is_empty() {
        let (from, to) = (from.version.version, to.version.version);
        table::print(&format!("versions {from} and {to} say the same\n"))?;
    } else {
        table::print(&document::render(&changes))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A stored version, or the current one.
pub(super) fn version(target: &Target, version: Option<u64>) -> anyhow::Result<RoutesDocument> {
    let version = version.map_or_else(|| "current".to_owned(), |number| number.to_string());
    target.get(&format!("/v1/routes/versions/{version}"))
}

fn headline(version: &RoutesVersion) -> String {
    if version.version == 0 {
        return "version 0 of the stored routes: none".to_owned();
    }
    let mut line = format!(
        "version {} of the stored routes, {}, by {}",
        version.version,
        moment(version.time_ms),
        version.author
    );
    let why = why(version);
    if !why.is_empty() {
        line.push_str(": ");
        line.push_str(&why);
    }
    table::one_line(&line)
}

fn why(version: &RoutesVersion) -> String {
    match (version.restores, version.note.as_str()) {
        (None, note) => note.to_owned(),
        (Some(old), "") => format!("back to {old}"),
        (Some(old), note) => format!("back to {old}: {note}"),
    }
}

fn row(version: &RoutesVersion) -> [String; 6] {
    [
        version.version.to_string(),
        moment(version.time_ms),
        table::one_line(&version.author),
        version.bytes.to_string(),
        version.hash.chars().take(12).collect(),
        table::one_line(&why(version)),
    ]
}
