use std::{fmt::Write, process::ExitCode};

use anyhow::Result;
use serde_json::Value;
use sinew_node::model::{
    ConfigAudit, ConfigComparison, ConfigContent, ConfigEffective, ConfigItem, ConfigItems,
    ConfigVersion, ConfigVersionContent, ConfigVersions,
};

use super::{ItemArgs, Output, content::name, encoded};
use crate::{table, time::moment};

/// `sinew config list`.
#[derive(clap::Args)]
pub(super) struct ListArgs {
    /// Only of this namespace
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Only of this application
    #[arg(long, short, value_name = "NAME")]
    application: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Who asks.
#[derive(clap::Args)]
struct ClientArgs {
    /// As this instance would see it
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// As one that says this of itself would see it; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    with: Vec<String>,
    /// Open encrypted values; the audit log tells
    #[arg(long)]
    reveal: bool,
}

impl ClientArgs {
    fn query(&self) -> String {
        let mut query = format!("?reveal={}", self.reveal);
        if let Some(instance) = &self.instance {
            query.push_str("&instance=");
            query.push_str(&encoded(instance));
        }
        if !self.with.is_empty() {
            query.push_str("&labels=");
            query.push_str(&encoded(&self.with.join(",")));
        }
        query
    }
}

/// `sinew config get`.
#[derive(clap::Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    item: ItemArgs,
    /// An earlier version, encrypted values as they are [default: what is in force]
    #[arg(long = "version", value_name = "N")]
    number: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: Output,
}

/// `sinew config show`.
#[derive(clap::Args)]
pub(super) struct ShowArgs {
    /// The application
    application: String,
    /// The profiles, separated by commas; the last wins
    #[arg(
        long,
        short,
        default_value = "",
        value_name = "NAMES",
        hide_default_value = true
    )]
    profiles: String,
    /// The namespace
    #[arg(long, short, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// The label
    #[arg(long, short, default_value = "main", value_name = "NAME")]
    label: String,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: Output,
}

/// `sinew config history`.
#[derive(clap::Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    item: ItemArgs,
    #[command(flatten)]
    output: Output,
}

/// `sinew config diff`.
#[derive(clap::Args)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    item: ItemArgs,
    /// A version; 0 is none
    from: u64,
    /// Another one [default: the newest]
    to: Option<u64>,
    #[command(flatten)]
    output: Output,
}

/// `sinew config audit`.
#[derive(clap::Args)]
pub(super) struct AuditArgs {
    /// From so long back
    #[arg(long, default_value = "168h", value_name = "TIME")]
    back: String,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

pub(super) fn list(args: &ListArgs) -> Result<ExitCode> {
    let mut path = "/v1/config/items?".to_owned();
    for (name, value) in [
        ("namespace", &args.namespace),
        ("application", &args.application),
    ] {
        if let Some(value) = value {
            let _ = write!(path, "{name}={}&", encoded(value));
        }
    }
    let found: ConfigItems = args.output.target.get(path.trim_end_matches(['&', '?']))?;
    if args.output.print_json(&found)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = found.items.iter().map(item_row).collect();
    let header = [
        "ITEM", "VERSION", "FORMAT", "BYTES", "TIME", "AUTHOR", "GRAY",
    ];
    table::print(&table::render(header, &rows))?;
    if found.is_stale {
        eprintln!("warning: the store is out of reach; there may be newer versions");
    }
    Ok(ExitCode::SUCCESS)
}

fn item_row(item: &ConfigItem) -> [String; 7] {
    let gray = item.gray.as_ref().map_or_else(String::new, |gray| {
        let rule = serde_json::to_string(&gray.rule).unwrap_or_default();
        table::one_line(&format!("version {} to {rule}", gray.version.version))
    });
    let of = |say: fn(&ConfigVersion) -> String| item.current.as_ref().map_or("-".to_owned(), say);
    [
        item.item.clone(),
        of(|version| version.version.to_string()),
        of(|version| name(version.format).to_owned()),
        of(|version| version.bytes.to_string()),
        of(|version| moment(version.time_ms)),
        of(|version| table::one_line(&version.author)),
        gray,
    ]
}

pub(super) fn get(args: &GetArgs) -> Result<ExitCode> {
    let content = match args.number {
        Some(number) => {
            let path = args.item.path(&format!("/versions/{number}"))?;
            let found: ConfigVersionContent = args.output.target.get(&path)?;
            if args.output.print_json(&found)? {
                return Ok(ExitCode::SUCCESS);
            }
            found.content
        }
        None => {
            let path = args.item.path(&args.client.query())?;
            let found: ConfigContent = args.output.target.get(&path)?;
            if args.output.print_json(&found)? {
                return Ok(ExitCode::SUCCESS);
            }
            found.content
        }
    };
    table::print(&content)?;
    if !content.is_empty() && !content.ends_with('\n') {
        table::print("\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show(args: &ShowArgs) -> Result<ExitCode> {
    let (namespace, application) = (encoded(&args.namespace), encoded(&args.application));
    let query = args.client.query();
    let (profiles, label) = (encoded(&args.profiles), encoded(&args.label));
    let path = format!(
        "/v1/config/effective/{namespace}/{application}{query}&profiles={profiles}&label={label}"
    );
    let found: ConfigEffective = args.output.target.get(&path)?;
    if args.output.print_json(&found)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = found
        .settings
        .iter()
        .map(|(setting, value)| {
            let text = match &value.value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let origin = found
                .sources
                .get(value.source)
                .map_or_else(String::new, |source| {
                    let gray = if source.is_gray { ", gray" } else { "" };
                    format!("{} (version {}{gray})", source.item, source.version)
                });
            [table::one_line(setting), table::one_line(&text), origin]
        })
        .collect();
    table::print(&table::render(["SETTING", "VALUE", "FROM"], &rows))?;
    if found.is_stale {
        eprintln!("warning: the store is out of reach; there may be newer versions");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn history(args: &HistoryArgs) -> Result<ExitCode> {
    let found: ConfigVersions = args.output.target.get(&args.item.path("/versions")?)?;
    if args.output.print_json(&found)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = found.versions.iter().map(version_row).collect();
    let header = [
        "VERSION", "TIME", "AUTHOR", "FORMAT", "BYTES", "HASH", "NOTE",
    ];
    table::print(&table::render(header, &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn version_row(version: &ConfigVersion) -> [String; 7] {
    let what = match (version.is_deletion, version.is_gray, version.restores) {
        (true, ..) => "deleted".to_owned(),
        (_, true, _) => "gray".to_owned(),
        (.., Some(old)) => format!("back to {old}"),
        _ => String::new(),
    };
    let note = match (what.as_str(), version.note.as_str()) {
        ("", note) => note.to_owned(),
        (what, "") => what.to_owned(),
        (what, note) => format!("{what}: {note}"),
    };
    [
        version.version.to_string(),
        moment(version.time_ms),
        table::one_line(&version.author),
        name(version.format).to_owned(),
        version.bytes.to_string(),
        version.hash.chars().take(12).collect(),
        table::one_line(&note),
    ]
}

pub(super) fn diff(args: &DiffArgs) -> Result<ExitCode> {
    let target = &args.output.target;
    let to = match args.to {
        Some(to) => to,
        None => {
            let found: ConfigVersions = target.get(&args.item.path("/versions")?)?;
            found.versions.first().map_or(0, |version| version.version)
        }
    };
    let path = args
        .item
        .path(&format!("/diff?from={}&to={to}", args.from))?;
    let found: ConfigComparison = target.get(&path)?;
    if args.output.print_json(&found)? {
        return Ok(ExitCode::SUCCESS);
    }
    let same = format!("versions {} and {} say the same\n", found.from, found.to);
    table::print(if found.lines.is_empty() {
        &same
    } else {
        &found.lines
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn audit(args: &AuditArgs) -> Result<ExitCode> {
    let path = format!(
        "/v1/config/audit?back={}&limit={}",
        encoded(&args.back),
        args.limit
    );
    let found: ConfigAudit = args.output.target.get(&path)?;
    if args.output.print_json(&found)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = found
        .entries
        .iter()
        .map(|entry| {
            let version = entry.version.filter(|version| *version > 0);
            [
                moment(entry.time_ms),
                table::one_line(&entry.author),
                entry.action.clone(),
                entry.item.clone().unwrap_or_default(),
                version.map_or_else(String::new, |version| version.to_string()),
                table::one_line(&entry.note),
            ]
        })
        .collect();
    let header = ["TIME", "AUTHOR", "ACTION", "ITEM", "VERSION", "NOTE"];
    table::print(&table::render(header, &rows))?;
    Ok(ExitCode::SUCCESS)
}
