//! Drafts and gray releases.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sinew_node::model::{ConfigDraft, ConfigDrafts};

use super::{Change, ItemArgs, Output, content::ContentArgs, usage};
use crate::{client::Ask, table, time::moment};

/// `sinew config draft`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct DraftArgs {
    #[command(subcommand)]
    action: DraftAction,
}

#[derive(clap::Subcommand)]
enum DraftAction {
    /// Write the draft of an item; nobody sees it until it is published.
    Set(DraftSetArgs),
    /// Print the draft of an item.
    Get(DraftGetArgs),
    /// List all drafts.
    List(DraftListArgs),
    /// Throw the draft of an item away.
    Discard(EndArgs),
}

#[derive(clap::Args)]
struct DraftSetArgs {
    #[command(flatten)]
    item: ItemArgs,
    #[command(flatten)]
    content: ContentArgs,
    #[command(flatten)]
    change: Change,
}

#[derive(clap::Args)]
struct DraftGetArgs {
    #[command(flatten)]
    item: ItemArgs,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
struct DraftListArgs {
    #[command(flatten)]
    output: Output,
}

/// Who sees a version in gray release: whoever any of these names.
#[derive(clap::Args)]
struct RuleArgs {
    /// This instance; may be repeated
    #[arg(long, value_name = "ID")]
    instance: Vec<String>,
    /// Those who ask from here, such as 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<String>,
    /// Those who say this of themselves; may be repeated, and then they must say all
    #[arg(long, value_name = "KEY=VALUE")]
    with: Vec<String>,
    /// So many of a hundred instances
    #[arg(long, value_name = "N")]
    percent: Option<f64>,
}

impl RuleArgs {
    /// `None` when nobody is named.
    fn rule(&self) -> Result<Option<Value>> {
        let mut labels = json!({});
        for pair in &self.with {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| usage(format!("{pair:?} is not KEY=VALUE, such as zone=a")))?;
            labels[key] = value.into();
        }
        let names_nobody = self.instance.is_empty()
            && self.address.is_empty()
            && self.with.is_empty()
            && self.percent.is_none();
        if names_nobody {
            return Ok(None);
        }
        let mut rule =
            json!({ "instances": self.instance, "addresses": self.address, "labels": labels });
        if let Some(percent) = self.percent {
            rule["percent"] = percent.into();
        }
        Ok(Some(rule))
    }
}

/// `sinew config publish`.
#[derive(clap::Args)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    item: ItemArgs,
    #[command(flatten)]
    rule: RuleArgs,
    #[command(flatten)]
    change: Change,
}

/// `sinew config gray`.
#[derive(clap::Args)]
pub(super) struct GrayArgs {
    #[command(flatten)]
    item: ItemArgs,
    #[command(flatten)]
    content: ContentArgs,
    #[command(flatten)]
    rule: RuleArgs,
    #[command(flatten)]
    change: Change,
}

/// `sinew config promote`, `abort` and `draft discard`.
#[derive(clap::Args)]
pub(super) struct EndArgs {
    #[command(flatten)]
    item: ItemArgs,
    #[command(flatten)]
    change: Change,
}

pub(super) fn draft(args: &DraftArgs) -> Result<ExitCode> {
    match &args.action {
        DraftAction::Set(args) => {
            let change = &args.change;
            let target = &change.who.output.target;
            let (body, based_on) = args.content.body(target, &args.item)?;
            let path = args.item.path("/draft")?;
            let expected = change.expect.or(based_on);
            let draft: ConfigDraft = change.send("PUT", &path, expected, Some(&body))?;
            if !change.who.output.print_json(&draft)? {
                let based_on = draft.based_on;
                table::print(&format!(
                    "a draft on version {based_on}; `sinew config publish` publishes it\n"
                ))?;
            }
        }
        DraftAction::Get(args) => {
            let draft: ConfigDraft = args.output.target.get(&args.item.path("/draft")?)?;
            if !args.output.print_json(&draft)? {
                table::print(&draft.change.content)?;
            }
        }
        DraftAction::List(args) => {
            let found: ConfigDrafts = args.output.target.get("/v1/config/drafts")?;
            if !args.output.print_json(&found)? {
                let rows: Vec<_> = found.drafts.iter().map(row).collect();
                table::print(&table::render(
                    ["ITEM", "ON", "TIME", "AUTHOR", "NOTE"],
                    &rows,
                ))?;
            }
        }
        DraftAction::Discard(args) => {
            let query = args.change.who.query();
            args.change.who.output.target.tell(&Ask {
                method: "DELETE",
                path: &format!("{}{query}", args.item.path("/draft")?),
                if_match: None,
                body: None,
            })?;
            table::print("the draft is gone\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(draft: &ConfigDraft) -> [String; 5] {
    [
        draft.item.clone(),
        draft.based_on.to_string(),
        moment(draft.time_ms),
        table::one_line(&draft.author),
        table::one_line(&draft.note),
    ]
}

pub(super) fn publish(args: &PublishArgs) -> Result<ExitCode> {
    let change = &args.change;
    let rule = args.rule.rule()?;
    let what = match rule {
        Some(_) => "in gray release as",
        None => "published as",
    };
    let body = rule.map_or_else(|| json!({}), |rule| json!({ "rule": rule }));
    let path = args.item.path("/publish")?;
    let written = change.send("POST", &path, change.expect, Some(&body))?;
    change.tell(&written, what)
}

pub(super) fn gray(args: &GrayArgs) -> Result<ExitCode> {
    let change = &args.change;
    let nobody = || usage("say who sees it: --instance, --address, --with or --percent".to_owned());
    let rule = args.rule.rule()?.ok_or_else(nobody)?;
    let mut body = json!({ "rule": rule });
    let mut expected = change.expect;
    if !args.content.is_empty() {
        let target = &change.who.output.target;
        let (content, based_on) = args.content.body(target, &args.item)?;
        body["change"] = content;
        expected = expected.or(based_on);
    }
    let written = change.send("PUT", &args.item.path("/gray")?, expected, Some(&body))?;
    change.tell(&written, "in gray release as")
}

pub(super) fn end(args: &EndArgs, how: &str) -> Result<ExitCode> {
    let change = &args.change;
    let path = args.item.path(&format!("/{how}"))?;
    let written = change.send("POST", &path, change.expect, None)?;
    let what = match how {
        "promote" => "everybody sees",
        _ => "nobody sees any more",
    };
    change.tell(&written, what)
}
