use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

use crate::Environment;

/// Sends logs to standard error: JSON lines, or readable ones on a terminal. A process that has set
/// up its logs already keeps them.
pub(crate) fn start(environment: &Environment) {
    let filter = environment.get("SINEW_LOG").unwrap_or("info");
    // A wrong filter must not keep a service from starting.
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if std::io::stderr().is_terminal() {
        builder.compact().finish().try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .try_init()
    };
}
