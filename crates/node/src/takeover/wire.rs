//! What two processes say to each other when one takes over from the other: words of one byte, and sockets (`SCM_RIGHTS`,
//! unix(7)).

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::Sockets;

/// Comes first: what is spoken, and its version.
const GREETING: &[u8; 8] = b"sinew\0\0\x01";
/// Sockets in one message; the system takes at most 253.
const AT_ONCE: usize = 64;
/// More of one kind than any gateway has threads is no honest offer.
const MOST: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The successor takes over.
    Take = 1,
    /// The data folder is free.
    Free = 2,
    /// The successor serves.
    Serving = 3,
}

/// A connection between the two.
#[derive(Debug)]
pub(super) struct Wire(UnixStream);

impl Wire {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self(stream))
    }

    /// Speaks on a thread where it may wait.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        speak: impl FnOnce(&mut Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let mut wire = Self(self.0.try_clone()?);
        let spoken = tokio::task::spawn_blocking(move || speak(&mut wire));
        spoken.await.map_err(io::Error::other)?
    }

    pub(super) fn say(&mut self, word: Word) -> io::Result<()> {
        self.0.set_write_timeout(Some(super::PROMPT))?;
        self.0.write_all(&[word as u8])
    }

    /// Waits for this word and no other.
    pub(super) fn hear(&mut self, word: Word, limit: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(limit))?;
        let mut heard = [0];
        self.0.read_exact(&mut heard).map_err(explained)?;
        if heard == [word as u8] {
            Ok(())
        } else {
            Err(io::Error::other("it says something else than expected"))
        }
    }

    pub(super) fn send_sockets(&mut self, sockets: &Sockets) -> io::Result<()> {
        self.0.set_write_timeout(Some(super::PROMPT))?;
        self.0.write_all(GREETING)?;
        let kinds = [
            &sockets.gateway.plain[..],
            &sockets.gateway.tls,
            sockets.control.as_slice(),
        ];
        for kind in kinds {
            let count = u32::try_from(kind.len()).map_err(io::Error::other)?;
            self.0.write_all(&count.to_be_bytes())?;
            for some in kind.chunks(AT_ONCE) {
                let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
                self.send_some(&some)?;
            }
        }
        Ok(())
    }

    fn send_some(&self, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other("too many sockets in one message"));
        }
        // A message has at least a byte.
        sendmsg(
            &self.0,
            &[IoSlice::new(&[0])],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    pub(super) fn receive_sockets(&mut self, limit: Duration) -> io::Result<Sockets> {
        self.0.set_read_timeout(Some(limit))?;
        let mut greeting = [0; GREETING.len()];
        self.0.read_exact(&mut greeting).map_err(explained)?;
        if greeting != *GREETING {
            return Err(io::Error::other(
                "its version hands over in another way; stop it and start this one",
            ));
        }
        let mut sockets = Sockets::default();
        sockets.gateway.plain = self.receive_kind()?;
        sockets.gateway.tls = self.receive_kind()?;
        sockets.control = self.receive_kind()?.pop();
        Ok(sockets)
    }

    fn receive_kind(&mut self) -> io::Result<Vec<TcpListener>> {
        let mut count = [0; 4];
        self.0.read_exact(&mut count).map_err(explained)?;
        let count = u32::from_be_bytes(count) as usize;
        if count > MOST {
            return Err(io::Error::other("it has more sockets than can be"));
        }
        let mut sockets = Vec::with_capacity(count);
        while sockets.len() < count {
            let before = sockets.len();
            self.receive_some(&mut sockets)?;
            if sockets.len() == before {
                return Err(explained(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(sockets)
    }

    fn receive_some(&self, to: &mut Vec<TcpListener>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                to.extend(sockets.map(|socket: OwnedFd| TcpListener::from(socket)));
            }
        }
        Ok(())
    }
}

/// In the words of whoever reads the log.
fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("it hung up"),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::other("it does not answer in time")
        }
        _ => error,
    }
}
