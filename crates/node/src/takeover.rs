//! A new process goes on where a running one is, without a connection lost: it gets the sockets that the running one
//! listens on, over a socket in the data folder.
//!
//! 1. The successor connects, and gets duplicates of all listening sockets. Nothing has changed yet: if it does not like
//!    them it goes, and that was all.
//! 2. It says that it takes over. The predecessor ends its control plane and lets go of the store and the folder, which
//!    one process at a time may have. Its gateway goes on from what it has in memory; who connects to the control API
//!    waits.
//! 3. The successor opens both, starts on the sockets, and says that it serves. Both gateways accept for a moment.
//! 4. The predecessor accepts no more, finishes what is in flight, and ends.
//!
//! A successor that dies between 2 and 3 leaves the predecessor to start its control plane anew, on the same sockets.

mod wire;

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use sinew_core::{Error, Kind, Result};
use sinew_gateway::Listeners;
use tokio::net::{UnixListener, UnixStream};

use crate::Config;
use wire::{Wire, Word};

/// How long the other side may take for what needs no work.
const PROMPT: Duration = Duration::from_secs(30);
/// How long one may take to close the store, or to open it and start.
const PATIENT: Duration = Duration::from_secs(600);

/// What a node listens on.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) gateway: Listeners,
    pub(crate) control: Option<TcpListener>,
}

impl Sockets {
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(
                Kind::Unavailable,
                "node.listen",
                format!("the sockets cannot be duplicated: {error}"),
            )
        };
        Ok(Self {
            gateway: self.gateway.try_clone().map_err(failed)?,
            control: self
                .control
                .as_ref()
                .map(TcpListener::try_clone)
                .transpose()
                .map_err(failed)?,
        })
    }

    /// Whether a node with this configuration can go on with them.
    fn check(&self, config: &Config) -> Result<()> {
        self.gateway.check(&config.gateway)?;
        let control = self.control.as_ref().map(TcpListener::local_addr);
        let fits = |found: &SocketAddr| {
            let wanted = config.control;
            wanted.ip() == found.ip() && [0, found.port()].contains(&wanted.port())
        };
        match control {
            Some(Ok(found)) if !fits(&found) => Err(Error::new(
                Kind::FailedPrecondition,
                "gateway.listeners_differ",
                format!(
                    "the node that runs has its control API on {found}, and [control] address says {}: configure the \
                     same, or stop it and start this one",
                    config.control
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Where successors knock.
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Opens it in a data folder that this process has locked. Must be called within a runtime.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let path = door(folder);
        // Of a process that is gone, or of the predecessor, which has been heard.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Waits for a process of the same user. Cancel safe.
    pub(crate) async fn knock(&self) -> Successor {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match Successor::greet(stream, &self.path) {
                    Ok(successor) => return successor,
                    Err(error) => tracing::warn!(%error, "who asked to take over was sent away"),
                },
                Err(error) => {
                    // Out of file descriptors, most likely.
                    tracing::warn!(%error, "nobody can ask to take over");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// At a clean stop, when nobody takes over.
    pub(crate) fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn door(folder: &Path) -> PathBuf {
    folder.join("take-over.sock")
}

/// The process that asks to take over, as the one that runs sees it.
pub struct Successor {
    wire: Wire,
}

impl Successor {
    fn greet(stream: UnixStream, door: &Path) -> io::Result<Self> {
        // Whoever made the socket is us; the folder may let in more than us.
        let own = std::os::unix::fs::MetadataExt::uid(&fs::metadata(door)?);
        let peer = stream.peer_cred()?.uid();
        if peer != own && peer != 0 {
            return Err(io::Error::other(format!(
                "it runs as user {peer}, not {own}"
            )));
        }
        Ok(Self {
            wire: Wire::new(stream.into_std()?)?,
        })
    }

    /// Shows it the sockets. Ready when it takes over; until then nothing has happened.
    pub(crate) async fn offer(&mut self, sockets: Sockets) -> io::Result<()> {
        self.wire
            .run(move |wire| {
                wire.send_sockets(&sockets)?;
                wire.hear(Word::Take, PROMPT)
            })
            .await
    }

    /// Tells it that the folder is free. Ready when it serves.
    pub(crate) async fn release(&mut self) -> io::Result<()> {
        self.wire
            .run(|wire| {
                wire.say(Word::Free)?;
                wire.hear(Word::Serving, PATIENT)
            })
            .await
    }
}

/// The process that runs, as the one that takes over sees it.
pub(crate) struct Predecessor {
    wire: Wire,
}

impl Predecessor {
    /// Asks for its sockets; none when no node runs on the folder.
    ///
    /// `gateway.listeners_differ` (FailedPrecondition) when this configuration listens elsewhere,
    /// `node.take_over` (Unavailable) when it does not answer.
    pub(crate) async fn meet(config: &Config) -> Result<Option<(Self, Sockets)>> {
        let stream = match UnixStream::connect(door(&config.data)).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(unanswered(error)),
        };
        let meet = async {
            let mut wire = Wire::new(stream.into_std()?)?;
            let sockets = wire.run(|wire| wire.receive_sockets(PROMPT)).await?;
            Ok((wire, sockets))
        };
        let (wire, sockets) = meet.await.map_err(unanswered)?;
        sockets.check(config)?;
        Ok(Some((Self { wire }, sockets)))
    }

    /// Takes over. Ready when the data folder is free; dropped from here on, the predecessor goes on.
    pub(crate) async fn take(&mut self) -> Result<()> {
        let take = self.wire.run(|wire| {
            wire.say(Word::Take)?;
            wire.hear(Word::Free, PATIENT)
        });
        take.await.map_err(unanswered)
    }

    /// Tells it that everything is served, so that it ends.
    pub(crate) async fn relieve(mut self) {
        if let Err(error) = self.wire.run(|wire| wire.say(Word::Serving)).await {
            // The folder is ours, so it cannot go on either.
            tracing::warn!(%error, "the node before does not hear that this one serves");
        }
    }
}

fn unanswered(error: io::Error) -> Error {
    Error::new(
        Kind::Unavailable,
        "node.take_over",
        format!("the node that runs does not hand over: {error}; see its log"),
    )
}

#[cfg(test)]
mod tests;
