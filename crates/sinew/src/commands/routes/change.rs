use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sinew_core::{Error, Kind, Name};
use sinew_node::model::{RoutesCheck, RoutesWritten};

use super::{document, read};
use crate::{
    author::author,
    client::{Ask, Target},
    table,
};

/// How often a change of fields is made anew because somebody else changed the routes.
const ATTEMPTS: usize = 5;

/// What every change takes.
#[derive(clap::Args)]
struct Change {
    /// Change nothing unless this version is the current one; 0: unless none is stored
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
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
    /// Print JSON, as the control API answers it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// `sinew routes apply`.
#[derive(clap::Args)]
pub(super) struct ApplyArgs {
    /// TOML or JSON with all routes; - reads standard input
    file: PathBuf,
    /// Only show what would change, and what is wrong
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    change: Change,
}

/// `sinew routes set`.
#[derive(clap::Args)]
pub(super) struct SetArgs {
    /// The route's name
    name: String,
    /// Such as path=/api/orders/** service=orders 'auth=["jwt"]'; FIELD= takes a field out
    #[arg(required = true, value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    #[command(flatten)]
    change: Change,
}

/// `sinew routes delete`.
#[derive(clap::Args)]
pub(super) struct DeleteArgs {
    /// The route's name
    name: String,
    #[command(flatten)]
    change: Change,
}

/// `sinew routes rollback`.
#[derive(clap::Args)]
pub(super) struct RollbackArgs {
    /// The version whose content comes back; 0 for no routes
    #[arg(value_name = "VERSION")]
    number: u64,
    #[command(flatten)]
    change: Change,
}

pub(super) fn apply(args: &ApplyArgs) -> Result<ExitCode> {
    let change = &args.change;
    let routes = document::read(&args.file)?;
    if args.dry_run {
        return dry_run(change, &routes);
    }
    let path = format!("/v1/routes{}", change.query());
    let written = change.send("PUT", &path, change.expect, Some(&routes))?;
    change.tell(&written)
}

pub(super) fn set(args: &SetArgs) -> Result<ExitCode> {
    let change = &args.change;
    let path = format!("/v1/routes/{}{}", name(&args.name)?, change.query());
    let fields = fields(&args.fields)?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let current = read::version(&change.target, None)?;
        let expected = change.expect.unwrap_or(current.version.version);
        let mut route = named(&current.document, &args.name);
        for (field, value) in &fields {
            match value {
                Some(value) => route[field] = value.clone(),
                None => {
                    route.as_object_mut().and_then(|route| route.remove(field));
                }
            }
        }
        match change.send("PUT", &path, Some(expected), Some(&route)) {
            Err(error) if change.expect.is_none() && is_late(&error) && attempts < ATTEMPTS => {}
            written => return change.tell(&written?),
        }
    }
}

pub(super) fn delete(args: &DeleteArgs) -> Result<ExitCode> {
    let change = &args.change;
    let path = format!("/v1/routes/{}{}", name(&args.name)?, change.query());
    let written = change.send("DELETE", &path, change.expect, None)?;
    change.tell(&written)
}

pub(super) fn roll_back(args: &RollbackArgs) -> Result<ExitCode> {
    let change = &args.change;
    let path = format!("/v1/routes/rollback{}", change.query());
    let body = json!({ "version": args.number });
    let written = change.send("POST", &path, change.expect, Some(&body))?;
    change.tell(&written)
}

fn dry_run(change: &Change, routes: &Value) -> Result<ExitCode> {
    let check: RoutesCheck = change.target.ask(&Ask {
        method: "POST",
        path: "/v1/routes/check",
        if_match: None,
        body: Some(routes),
    })?;
    if change.json {
        table::print(&format!("{}\n", serde_json::to_string_pretty(&check)?))?;
    } else {
        let version = check.version;
        table::print(&match check.changes.is_empty() {
            true => format!("nothing would change against version {version}\n"),
            false => format!(
                "this would change version {version}:\n{}",
                document::render(&check.changes)
            ),
        })?;
    }
    if let Some(expected) = change.expect.filter(|expected| *expected != check.version) {
        eprintln!(
            "error: version {} is current, and not {expected} as expected",
            check.version
        );
        return Ok(ExitCode::FAILURE);
    }
    if check.fits {
        return Ok(ExitCode::SUCCESS);
    }
    let code = check.code.unwrap_or_default();
    eprintln!("error: {} ({code})", check.fault.unwrap_or_default());
    Ok(ExitCode::from(2))
}

impl Change {
    fn query(&self) -> String {
        let author = self.author.clone().unwrap_or_else(author);
        let mut query = format!("?author={}", utf8_percent_encode(&author, NON_ALPHANUMERIC));
        if !self.note.is_empty() {
            query.push_str("&note=");
            query.extend(utf8_percent_encode(&self.note, NON_ALPHANUMERIC));
        }
        query
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        if_match: Option<u64>,
        body: Option<&Value>,
    ) -> Result<RoutesWritten> {
        self.target.ask(&Ask {
            method,
            path,
            if_match,
            body,
        })
    }

    fn tell(&self, written: &RoutesWritten) -> Result<ExitCode> {
        let version = written.version.version;
        if self.json {
            table::print(&format!("{}\n", serde_json::to_string_pretty(written)?))?;
        } else if written.is_new {
            let changes = document::render(&written.changes);
            table::print(&format!("stored as version {version}\n{changes}"))?;
        } else {
            table::print(&format!("version {version} says this already\n"))?;
        }
        if !written.is_served {
            eprintln!("warning: the node does not serve it; `sinew routes` tells why");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The stored route of this name, to be changed, or an empty one.
fn named(document: &Value, name: &str) -> Value {
    let routes = document["routes"].as_array().into_iter().flatten();
    let mut named = routes.filter(|route| route["name"].as_str() == Some(name));
    named.next().cloned().unwrap_or_else(|| json!({}))
}

fn fields(texts: &[String]) -> Result<Vec<(String, Option<Value>)>> {
    texts
        .iter()
        .map(|text| match text.split_once('=') {
            Some((field, "")) if !field.is_empty() => Ok((field.to_owned(), None)),
            Some((field, value)) if !field.is_empty() => {
                Ok((field.to_owned(), Some(document::value(value))))
            }
            _ => Err(Error::new(
                Kind::InvalidArgument,
                "config.invalid",
                format!("{text:?} is not FIELD=VALUE, such as service=orders"),
            )
            .into()),
        })
        .collect()
}

fn name(text: &str) -> Result<Name> {
    Ok(Name::new(text)?)
}

fn is_late(error: &anyhow::Error) -> bool {
    let known = error.downcast_ref::<Error>();
    known.is_some_and(|error| error.code() == "documents.changed_meanwhile")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_or_taken_out() {
        let texts = ["path=/a=b", "retries=2", "host="].map(str::to_owned);
        let expected = [
            ("path".to_owned(), Some(json!("/a=b"))),
            ("retries".to_owned(), Some(json!(2))),
            ("host".to_owned(), None),
        ];
        assert_eq!(fields(&texts).unwrap(), expected);
        for bad in ["path", "=x", ""] {
            assert!(fields(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
