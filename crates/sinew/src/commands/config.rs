//! `sinew config`: what applications are to know, with history, drafts and gray releases.

mod change;
mod content;
mod read;
mod release;
mod transfer;

use std::process::ExitCode;

use anyhow::Result;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sinew_core::{Error, Kind};
use sinew_node::model::ConfigWritten;

use crate::{
    author::author,
    client::{Ask, Target},
    table,
};

/// `sinew config`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the items.
    List(read::ListArgs),
    /// Print the content of an item.
    // Its `--version` is another one.
    #[command(disable_version_flag = true)]
    Get(read::GetArgs),
    /// Show what an instance of an application sees, and where each setting comes from.
    Show(read::ShowArgs),
    /// Write a content, or change settings of one.
    Set(change::SetArgs),
    /// Change a content in an editor.
    Edit(change::EditArgs),
    /// Delete an item; its history stays unless it is purged.
    Delete(change::DeleteArgs),
    /// List the versions of an item.
    History(read::HistoryArgs),
    /// Show what is different between two versions.
    Diff(read::DiffArgs),
    /// Make the content of an earlier version the current one again.
    Rollback(change::RollbackArgs),
    /// Write, show, list or throw away what is being prepared.
    Draft(release::DraftArgs),
    /// Make a draft a version, for everybody or for some.
    Publish(release::PublishArgs),
    /// Show a content to some, or change to whom one is shown.
    Gray(release::GrayArgs),
    /// Put the version in gray release in force for everybody.
    Promote(release::EndArgs),
    /// End a gray release; everybody sees the current version.
    Abort(release::EndArgs),
    /// Write the items of a file that `export` made.
    Import(transfer::ImportArgs),
    /// Print items as one file.
    Export(transfer::ExportArgs),
    /// Encrypt a value from standard input, for use in contents.
    Encrypt(transfer::EncryptArgs),
    /// Make a new key for encrypted values, and wrap the old ones anew.
    RotateKeys(transfer::RotateArgs),
    /// Show who did what.
    Audit(read::AuditArgs),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.action {
        Action::List(args) => read::list(args),
        Action::Get(args) => read::get(args),
        Action::Show(args) => read::show(args),
        Action::Set(args) => change::set(args),
        Action::Edit(args) => change::edit(args),
        Action::Delete(args) => change::delete(args),
        Action::History(args) => read::history(args),
        Action::Diff(args) => read::diff(args),
        Action::Rollback(args) => change::roll_back(args),
        Action::Draft(args) => release::draft(args),
        Action::Publish(args) => release::publish(args),
        Action::Gray(args) => release::gray(args),
        Action::Promote(args) => release::end(args, "promote"),
        Action::Abort(args) => release::end(args, "abort"),
        Action::Import(args) => transfer::import(args),
        Action::Export(args) => transfer::export(args),
        Action::Encrypt(args) => transfer::encrypt(args),
        Action::RotateKeys(args) => transfer::rotate(args),
        Action::Audit(args) => read::audit(args),
    }
}

/// Which item.
#[derive(clap::Args)]
struct ItemArgs {
    /// APPLICATION, APPLICATION/PROFILE, or NAMESPACE/APPLICATION/PROFILE/LABEL
    item: String,
    /// The namespace
    #[arg(long, short, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// The label
    #[arg(long, short, default_value = "main", value_name = "NAME")]
    label: String,
}

impl ItemArgs {
    /// The item's four parts.
    fn parts(&self) -> Result<[String; 4]> {
        let parts: Vec<&str> = self.item.splitn(4, '/').collect();
        let (namespace, label) = (self.namespace.as_str(), self.label.as_str());
        let parts = match parts[..] {
            [application] => [namespace, application, "default", label],
            [application, profile] => [namespace, application, profile, label],
            [namespace, application, profile, label] => [namespace, application, profile, label],
            _ => {
                return Err(usage(format!(
                    "{:?} is not an item: write APPLICATION, APPLICATION/PROFILE or \
                     NAMESPACE/APPLICATION/PROFILE/LABEL",
                    self.item
                )));
            }
        };
        Ok(parts.map(str::to_owned))
    }

    /// Its path at the control API, with what is below it.
    fn path(&self, below: &str) -> Result<String> {
        let parts = self.parts()?.map(|part| encoded(&part));
        Ok(format!("/v1/config/items/{}{below}", parts.join("/")))
    }

    /// Its name in full.
    fn name(&self) -> Result<String> {
        Ok(self.parts()?.join("/"))
    }
}

/// What every answer takes.
#[derive(clap::Args)]
struct Output {
    /// Print JSON, as the control API answers it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Output {
    /// Prints JSON when it is wanted; answers whether it was.
    fn print_json<T: Serialize>(&self, answer: &T) -> Result<bool> {
        if self.json {
            table::print(&format!("{}\n", serde_json::to_string_pretty(answer)?))?;
        }
        Ok(self.json)
    }
}

/// What every change takes.
#[derive(clap::Args)]
struct Change {
    /// Change nothing unless this version is the current one; 0: unless there is none
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    #[command(flatten)]
    who: Who,
}

/// Who makes a change, and why.
#[derive(clap::Args)]
struct Who {
    /// Why, for the history
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        hide_default_value = true
    )]
    note: String,
    /// Who, for the history; user@host unless said
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Who {
    fn query(&self) -> String {
        let author = self.author.clone().unwrap_or_else(author);
        let mut query = format!("?author={}", encoded(&author));
        if !self.note.is_empty() {
            query.push_str("&note=");
            query.push_str(&encoded(&self.note));
        }
        query
    }
}

impl Change {
    fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        expected: Option<u64>,
        body: Option<&Value>,
    ) -> Result<T> {
        self.who.output.target.ask(&Ask {
            method,
            path: &format!("{path}{}", self.who.query()),
            if_match: expected,
            body,
        })
    }

    /// Tells what became of a change.
    fn tell(&self, written: &ConfigWritten, what: &str) -> Result<ExitCode> {
        if self.who.output.print_json(written)? {
            return Ok(ExitCode::SUCCESS);
        }
        let version = written.version.version;
        table::print(&match written.is_new {
            true => format!("{what} version {version}\n"),
            false => format!("version {version} says this already\n"),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn usage(message: String) -> anyhow::Error {
    Error::new(Kind::InvalidArgument, "config.invalid", message).into()
}

/// Whether the error has this code.
fn is(error: &anyhow::Error, code: &str) -> bool {
    let known = error.downcast_ref::<Error>();
    known.is_some_and(|error| error.code() == code)
}
