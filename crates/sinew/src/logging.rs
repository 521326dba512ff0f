//! Logs go to standard error: for people on a terminal, JSON lines otherwise. `SINEW_LOG` filters
//! (`info,sinew_gateway=debug`).

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Starts logging at `default` level unless `SINEW_LOG` says otherwise.
pub(crate) fn start(default: &str) {
    let filter = std::env::var("SINEW_LOG")
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would say on standard error that nothing can be said there, and panic over it: a node must not
        // end because its terminal or its log's reader did.
        .log_internal_errors(false)
        .with_writer(stderr);
    // A second start, as in tests, leaves the first one's subscriber in place.
    let _ = if stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}
