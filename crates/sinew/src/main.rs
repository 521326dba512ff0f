//! The command line of Sinew. Each subcommand is one file; this one only parses, runs and maps what
//! went wrong to an exit code (see [`exit`]).

mod author;
mod client;
mod commands;
mod demo;
mod exit;
mod logging;
mod table;
mod time;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A microservice platform in one binary: gateway, registry and the services around them.
#[derive(Parser)]
#[command(
    name = "sinew",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// Each command builds the runtime it needs, so that a small command stays a small process.
#[derive(Subcommand)]
enum Command {
    /// Run a whole shop behind the gateway, with simulated shoppers and an audit at the end.
    Demo(demo::Args),
    /// Run a node: gateway, registry and control API.
    Serve(commands::serve::Args),
    /// List the registered services and their instances.
    Services(commands::services::Args),
    /// List, register and change single instances of services.
    Instances(commands::instances::Args),
    /// List the gateway's routes in the order they are tried, and change those that are stored.
    Routes(commands::routes::Args),
    /// Read and change what applications are to know.
    Config(commands::config::Args),
    /// Show how the node is doing.
    Status(commands::status::Args),
    /// Watch what the gateway does: rates, errors and latencies of routes and upstreams.
    Top(commands::top::Args),
    /// Back up the key-value store of a running node into a folder.
    Backup(commands::backup::Args),
    /// Bring backups back into a new data folder or an empty engine.
    Restore(commands::restore::Args),
    /// Show what lies in the data folder of a node that does not run.
    Inspect(commands::inspect::Args),
    /// Save what is whole of a damaged data folder, and say what is not.
    Repair(commands::repair::Args),
    /// Run one service of the shop in this process.
    #[command(hide = true)]
    Shop(commands::shop::Args),
    /// Become another program that does not outlive its parent.
    #[command(hide = true)]
    RunChild(commands::run_child::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Services(args) => commands::services::run(&args),
        Command::Instances(args) => commands::instances::run(&args),
        Command::Routes(args) => commands::routes::run(&args),
        Command::Config(args) => commands::config::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Top(args) => commands::top::run(&args),
        Command::Backup(args) => commands::backup::run(&args),
        Command::Restore(args) => commands::restore::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Repair(args) => commands::repair::run(&args),
        Command::Shop(args) => Ok(commands::shop::run(&args)),
        Command::RunChild(args) => Ok(commands::run_child::run(args)),
    };
    outcome.unwrap_or_else(|error| exit::report(&error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
