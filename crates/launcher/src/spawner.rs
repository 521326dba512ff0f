//! The one thread whose children all services are. See the crate's text for why it is one thread,
//! and why it must not end before the last of them should.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use sinew_core::{Error, Kind, Result};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

struct Request {
    command: Command,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// A handle to the thread. The thread ends when the last handle is dropped, and with it, by the
/// kernel's hand, every child that still runs.
#[derive(Clone)]
pub(crate) struct Spawner {
    requests: SyncSender<Request>,
}

impl Spawner {
    /// Starts the thread. Children are awaited on the current tokio runtime.
    pub(crate) fn start() -> Result<Self> {
        // Starting a process takes about a millisecond; who finds the queue full tries again later.
        let (requests, queue) = sync_channel(64);
        let runtime = Handle::current();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || run(&runtime, &queue))
            .map_err(|error| spawn_failed("cannot start a thread", error))?;
        Ok(Self { requests })
    }

    /// Starts a process.
    pub(crate) async fn spawn(&self, command: Command) -> Result<Child> {
        let gone = || {
            Error::new(
                Kind::Internal,
                "launcher.spawn_failed",
                "the spawner is gone",
            )
        };
        let (answer, child) = oneshot::channel();
        self.requests
            .try_send(Request { command, answer })
            .map_err(|error| match error {
                std::sync::mpsc::TrySendError::Full(_) => Error::new(
                    Kind::Unavailable,
                    "launcher.spawn_failed",
                    "too many services are being started at once",
                ),
                std::sync::mpsc::TrySendError::Disconnected(_) => gone(),
            })?;
        let child = child.await.map_err(|_| gone())?;
        child.map_err(|error| spawn_failed("cannot start the process", error))
    }
}

fn run(runtime: &Handle, queue: &Receiver<Request>) {
    // `spawn` registers the child with the runtime it finds in its context.
    let _context = runtime.enter();
    while let Ok(mut request) = queue.recv() {
        let child = request.command.spawn();
        // Nobody waits any more: the child is dropped, and `kill_on_drop` ends it.
        let _ = request.answer.send(child);
    }
}

fn spawn_failed(what: &str, error: io::Error) -> Error {
    Error::new(
        Kind::Unavailable,
        "launcher.spawn_failed",
        format!("{what}: {error}"),
    )
    .with_source(error)
}
