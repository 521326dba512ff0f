use std::time::Duration;

/// Why the service is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody asked for it: take the time to do it well.
    Asked,
    /// The process that started this one is gone: nobody waits for an orderly end.
    Orphaned,
}

const PARENT_INTERVAL: Duration = Duration::from_millis(250);

/// Returns when the process is asked to stop, by SIGTERM, SIGINT (Ctrl-C) or its parent's death.
#[cfg(unix)]
pub(crate) async fn wait(parent: Option<u32>) -> Stop {
    use tokio::signal::unix::{SignalKind, signal};
    // Without handlers the signals would end the process the hard way, which still ends it.
    let (terminate, interrupt) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        tracing::warn!("signals cannot be heard");
        return orphaned(parent).await;
    };
    tokio::select! {
        _ = terminate.recv() => Stop::Asked,
        _ = interrupt.recv() => Stop::Asked,
        stop = orphaned(parent) => stop,
    }
}

/// Returns when the process is asked to stop, by Ctrl-C.
#[cfg(not(unix))]
pub(crate) async fn wait(_parent: Option<u32>) -> Stop {
    let _ = tokio::signal::ctrl_c().await;
    Stop::Asked
}

#[cfg(unix)]
async fn orphaned(parent: Option<u32>) -> Stop {
    let Some(parent) = parent else {
        return std::future::pending().await;
    };
    // A direct child notices by its own parent's id, which no new process can fake. Behind a
    // wrapper (a shell, a tracer) all there is to ask is whether the id is still in use.
    let direct = std::os::unix::process::parent_id() == parent;
    let alive = || match direct {
        true => std::os::unix::process::parent_id() == parent,
        false => i32::try_from(parent).is_ok_and(|pid| {
            use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
            !matches!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH))
        }),
    };
    while alive() {
        tokio::time::sleep(PARENT_INTERVAL).await;
    }
    Stop::Orphaned
}
