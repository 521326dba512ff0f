//! `sinew routes`: what the gateway serves, and the stored routes that all nodes share.

mod change;
mod document;
mod list;
mod read;

use std::process::ExitCode;

use crate::client::Target;

/// `sinew routes`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: list::ListArgs,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print a stored version, as TOML, for a file that `apply` takes.
    // Its `--version` is another one.
    #[command(disable_version_flag = true)]
    Get(read::GetArgs),
    /// Replace the stored routes by those of a file, and show what that changes.
    Apply(change::ApplyArgs),
    /// Add a stored route, or change fields of one.
    Set(change::SetArgs),
    /// Take a stored route out.
    Delete(change::DeleteArgs),
    /// List the stored versions.
    History(read::HistoryArgs),
    /// Show what is different between two stored versions.
    Diff(read::DiffArgs),
    /// Make an earlier version the current one again.
    Rollback(change::RollbackArgs),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        None => list::run(&args.list),
        Some(Action::Get(args)) => read::get(args),
        Some(Action::Apply(args)) => change::apply(args),
        Some(Action::Set(args)) => change::set(args),
        Some(Action::Delete(args)) => change::delete(args),
        Some(Action::History(args)) => read::history(args),
        Some(Action::Diff(args)) => read::diff(args),
        Some(Action::Rollback(args)) => change::roll_back(args),
    }
}

/// What every action but a change takes.
#[derive(clap::Args)]
struct Output {
    /// Print JSON, as the control API answers it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}
