use std::process::ExitCode;

/// `sinew shop SERVICE`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which of its services
    #[arg(value_parser = ["users", "products", "carts", "orders", "payments"])]
    service: String,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    shop::run(&args.service)
}
