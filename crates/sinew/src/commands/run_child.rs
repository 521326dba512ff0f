use std::{ffi::OsString, process::ExitCode};

/// `sinew run-child -- PROGRAM ARGS…`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The program and its arguments
    #[arg(last = true)]
    words: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    sinew_launcher::run_child(args.words)
}
