//! A connection's bytes, whatever carries them: the one type of socket behind `worker` and
//! `forward`, for clients and instances alike.

mod tls;

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub(crate) use tls::TlsStream;

use crate::tls::UpstreamTls;

/// A connection to a client or an instance.
///
/// Writing hands bytes over, and only [`AsyncWrite::poll_flush`] says that the system has them all:
/// whoever writes last flushes. What a stream still holds goes on its way with every read, too, so
/// that a task which waits for the other side's answer never holds back what it asked.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Connects to an instance. The caller limits the time.
    pub(crate) async fn connect(
        address: SocketAddr,
        tls: Option<&UpstreamTls>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match tls {
            None => Ok(Self::Plain(stream)),
            // On the heap, or every request would have to keep room for a handshake.
            Some(tls) => Box::pin(tls.connect(stream)).await.map(Self::Tls),
        }
    }

    /// The protocol that both sides chose for what is inside TLS (ALPN, RFC 7301), if they did.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.tls()?.alpn()
    }

    /// The TLS that carries it, if one does.
    pub(crate) fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream),
        }
    }

    /// Tells the other side that the end of what it got is the end that was meant, as far as that
    /// goes without waiting. A plain connection has no such word.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(stream) => stream.end(),
        }
    }

    /// Ready when a read may find something: bytes, the end, or an error. It may find nothing
    /// nevertheless.
    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Whether nothing was heard on a connection that waits for use: neither its end nor bytes that
    /// nobody asked for. Costs a system call only when the event loop has heard something.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(stream) => would_block(&stream.try_read(&mut [0])),
            Self::Tls(stream) => stream.is_quiet(),
        }
    }

    /// Asks the system whether anything was heard.
    pub(crate) fn has_news(&mut self) -> bool {
        match self {
            Self::Plain(stream) => {
                let mut byte = [MaybeUninit::uninit()];
                !would_block(&socket2::SockRef::from(&*stream).peek(&mut byte))
            }
            Self::Tls(stream) => stream.has_news(),
        }
    }
}

fn would_block<T>(outcome: &io::Result<T>) -> bool {
    matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, to),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, to),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // The system has what was written.
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
