use std::{future::Future, process::ExitCode, time::Duration};

use sinew_core::{Error, Kind, Result};

/// Runs a service on a runtime of one thread, which suits most services and keeps them small:
/// blocking work (a database, a password hash) belongs into `tokio::task::spawn_blocking`, whose
/// threads come and go. For more threads, build a tokio runtime and run the service on it.
///
/// Errors: what the future answers; `sdk.runtime_failed` when there is no runtime to be had.
pub fn run_blocking<T>(service: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(32)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(|error| {
            Error::new(
                Kind::Internal,
                "sdk.runtime_failed",
                "the runtime cannot be started",
            )
            .with_source(error)
        })?;
    let result = runtime.block_on(service);
    // Blocking work that does not end must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// [`run_blocking`] for a `main` function: reports an error on standard error and turns it into an
/// exit code: 2 for wrong configuration, 3 when the port is taken, otherwise 1.
pub fn main(service: impl Future<Output = Result<()>>) -> ExitCode {
    let Err(error) = run_blocking(service) else {
        return ExitCode::SUCCESS;
    };
    tracing::error!(
        code = error.code(),
        error = error.detail(),
        "the service failed"
    );
    eprintln!("error: {}", error.detail());
    match (error.kind(), error.code()) {
        (_, "sdk.port_taken") => ExitCode::from(3),
        (Kind::InvalidArgument, _) => ExitCode::from(2),
        _ => ExitCode::from(1),
    }
}
