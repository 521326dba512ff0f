//! TLS over a socket, for both roles: ciphertext is read through one buffer per thread, so that a
//! connection that waits holds none, and written as far as the system takes it.

use std::{
    cell::RefCell,
    fmt,
    io::{self, BufRead, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{Connection, HandshakeKind, ProtocolVersion, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// One end of a TLS connection.
pub(crate) struct TlsStream {
    socket: TcpStream,
    session: Connection,
    /// Ciphertext for which the session had no room: it holds only so much plaintext.
    carry: Vec<u8>,
    /// The other side was told that nothing more comes.
    ended: bool,
    identity: Option<Box<str>>,
}

/// Two of the longest records, nearly.
const CIPHERTEXT: usize = 32 << 10;
/// Plaintext that is taken at once for encryption; what waits for the socket is as much, and only
/// then more is taken.
const MOST_WRITTEN: usize = 32 << 10;
/// With this much plaintext unread a session takes no ciphertext.
const MOST_UNREAD: usize = 16 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CIPHERTEXT]);
}

impl TlsStream {
    /// Shakes hands. The caller limits the time. An error of TLS is the [`rustls::Error`] inside.
    pub(crate) async fn handshake(
        socket: TcpStream,
        session: impl Into<Connection>,
    ) -> io::Result<Box<Self>> {
        let mut stream = Box::new(Self {
            socket,
            session: session.into(),
            carry: Vec::new(),
            ended: false,
            identity: None,
        });
        std::future::poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Where it waits for the socket, that wakes the task.
            let _: Poll<()> = self.poll_send(cx)?;
            if !self.session.is_handshaking() {
                // What is left of the own side's last flight goes out with the first bytes.
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    pub(crate) fn version(&self) -> Option<ProtocolVersion> {
        self.session.protocol_version()
    }

    pub(crate) fn resumed(&self) -> bool {
        self.session.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What the other side proved itself with, its own certificate first.
    pub(crate) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.session.peer_certificates()
    }

    /// What services are told of the client, as header lines, if it has shown a certificate.
    pub(crate) fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    pub(crate) fn set_identity(&mut self, lines: String) {
        self.identity = Some(lines.into_boxed_str());
    }

    /// Hands everything that is encrypted to the system.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut socket = Socket {
                socket: &mut self.socket,
                cx,
            };
            match self.session.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads from the socket once. 0 is its end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let received = BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
            Poll::Ready(self.accept(buffer.filled()).map(|()| buffer.filled().len()))
        });
        if matches!(received, Poll::Ready(Err(_))) {
            // The other side learns what was wrong, if its socket takes it at once.
            let _ = self.poll_send(cx);
        }
        received
    }

    /// Gives the session ciphertext; nothing is the end.
    fn accept(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let taken = self.session.read_tls(&mut bytes)?;
            let state = self
                .session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // It takes nothing more once the other side has said that nothing more comes.
            if bytes.is_empty() || taken == 0 {
                return Ok(());
            }
            if state.plaintext_bytes_to_read() >= MOST_UNREAD {
                self.carry.extend_from_slice(bytes);
                return Ok(());
            }
        }
    }

    fn accept_carried(&mut self) -> io::Result<()> {
        let carried = std::mem::take(&mut self.carry);
        self.accept(&carried)
    }

    /// Whether a read would find something without asking the socket.
    fn has_unread(&mut self) -> bool {
        let unread = self.session.reader().fill_buf().map(|_| ());
        !super::would_block(&unread) || !self.carry.is_empty()
    }

    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.poll_send(cx);
        if self.has_unread() {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    /// Like [`super::Stream::is_quiet`]. What TLS says for itself, such as a new session ticket, is
    /// taken in and is no news.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.is_quiet_after(|socket, buffer| socket.try_read(buffer))
    }

    /// Like [`super::Stream::has_news`].
    pub(crate) fn has_news(&mut self) -> bool {
        !self.is_quiet_after(|socket, buffer| {
            let socket = socket2::SockRef::from(socket);
            (&*socket).read(buffer)
        })
    }

    fn is_quiet_after(
        &mut self,
        mut read: impl FnMut(&TcpStream, &mut [u8]) -> io::Result<usize>,
    ) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            while !self.has_unread() {
                match read(&self.socket, buffer) {
                    Ok(count @ 1..) if self.accept(&buffer[..count]).is_ok() => {}
                    outcome => return super::would_block(&outcome),
                }
            }
            false
        })
    }

    /// Tells the other side that nothing more comes, as far as the socket takes it at once.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.session.send_close_notify();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = self.poll_send(&mut cx);
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever waits for an answer must not hold back the question. That the other side takes
        // nothing is for who writes to find out: it may have said something before.
        let _ = this.poll_send(cx);
        loop {
            let mut reader = this.session.reader();
            let before = to.filled().len();
            while to.remaining() > 0 {
                match reader.fill_buf() {
                    Ok([]) => return Poll::Ready(Ok(())),
                    Ok(bytes) => {
                        let count = bytes.len().min(to.remaining());
                        to.put_slice(&bytes[..count]);
                        reader.consume(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The connection broke off; what came before that counts.
                    Err(_) if to.filled().len() > before => break,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if to.filled().len() > before || to.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.carry.is_empty() {
                ready!(this.poll_receive(cx))?;
            } else {
                this.accept_carried()?;
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let most = bytes.len().min(MOST_WRITTEN);
        let count = this.session.writer().write(&bytes[..most])?;
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the socket does not take yet goes out before anything else does.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.ended, true) {
            this.session.send_close_notify();
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Lets a session write to the socket. "Would block" has told the event loop to wake the task.
struct Socket<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        written(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        written(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, parts))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(outcome: Poll<io::Result<usize>>) -> io::Result<usize> {
    match outcome {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
