//! The project's own tasks, run as `cargo xtask …`. See `USAGE`.

mod bench;
mod check;
mod ci;
mod clients;
mod corpus;
mod engines;
mod fuzz;
mod run;
mod suites;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask check                 the rules of the house: who may depend on whom, error pages, links, file lengths
cargo xtask ci                    everything CI runs after the tests: format, clippy, docs, check, licences, engines, suites, the demo
cargo xtask engines list          what real software the benches and suites use, and what of it is installed
cargo xtask engines install NAME… install it from the system's packages (NAME may be `all`)
cargo xtask engines up NAME…      run servers for trying Sinew over them, and tell their URLs
cargo xtask engines conformance [--check]
                                  run the suites of all traits over all engines; writes docs/engines.md, or compares it
cargo xtask corpus                send the attack corpus through nginx and HAProxy too, and tell where they and the gateway differ
cargo xtask fuzz [TARGET] [--seconds N] [--seed S]
                                  the gateway's parsers under mutation, each for so long (10 s); TARGET is part of a name
cargo xtask suites [NAME…]        ask the gateway for what public suites say of HTTP/2 (h2spec) and WebSockets (websocket)
cargo xtask clients [NAME…]      run real clients of the dialects through their lives against a real node (all of tests/clients)
cargo xtask bench NAME [--quick] [--only PART] [--json FILE]
                                  measure Sinew beside its peers (gateway, registration)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["check"] => check::all(),
        ["ci"] => ci::run(),
        ["engines", "list"] => engines::list(),
        ["engines", "install", names @ ..] if !names.is_empty() => engines::install(names),
        ["engines", "up", names @ ..] if !names.is_empty() => engines::up(names),
        ["engines", "conformance"] => engines::conformance::run(false),
        ["engines", "conformance", "--check"] => engines::conformance::run(true),
        ["corpus"] => corpus::run(),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["suites", names @ ..] => suites::run(names),
        ["clients", names @ ..] => clients::run(names),
        ["bench", name, options @ ..] => bench::run(name, options),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
