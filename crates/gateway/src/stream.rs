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

use crate::{h2, protocol::Protocol, tls::UpstreamTls};

/// A connection to a client or an instance.
///
/// Writing hands bytes over, and only [`AsyncWrite::poll_flush`] says that the system has them all:
/// whoever writes last flushes. What a stream still holds goes on its way with every read, too, so
/// that a task which waits for the other side's answer never holds back what it asked.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
    /// A client's HTTP/2 stream, which looks like a connection with one request.
    Accepted(Box<h2::Accepted>),
    /// An HTTP/2 stream to an instance.
    Opened(Box<h2::Opened>),
}

impl Stream {
    /// Connects to an instance. The caller limits the time.
    pub(crate) async fn connect(
        address: SocketAddr,
        tls: Option<&UpstreamTls>,
        protocol: Protocol,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match tls {
            None => Ok(Self::Plain(stream)),
            // On the heap, or every request would have to keep room for a handshake.
            Some(tls) => Box::pin(tls.connect(stream, protocol)).await.map(Self::Tls),
        }
    }

    /// The protocol that both sides chose for what is inside TLS (ALPN, RFC 7301), if they did.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.tls()?.alpn()
    }

    /// The TLS that carries it, if one does.
    pub(crate) fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Tls(stream) => Some(stream),
            Self::Plain(_) | Self::Accepted(_) | Self::Opened(_) => None,
        }
    }

    /// Tells the other side that the end of what it got is the end that was meant, as far as that
    /// goes without waiting. A plain connection has no such word.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Tls(stream) => stream.end(),
            Self::Plain(_) | Self::Accepted(_) | Self::Opened(_) => {}
        }
    }

    /// Ready when a read may find something: bytes, the end, or an error. It may find nothing
    /// nevertheless.
    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_read_ready(cx),
            Self::Accepted(_) | Self::Opened(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether nothing was heard on a connection that waits for use: neither its end nor bytes that
    /// nobody asked for. Costs a system call only when the event loop has heard something.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(stream) => would_block(&stream.try_read(&mut [0])),
            Self::Tls(stream) => stream.is_quiet(),
            // It carries nothing after its one request.
            Self::Accepted(_) | Self::Opened(_) => false,
        }
    }

    /// Whether the client has taken back its request, though the gateway does not read from it now.
    pub(crate) fn has_left(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Accepted(stream) => stream.poll_gone(cx).is_ready(),
            Self::Plain(_) | Self::Tls(_) | Self::Opened(_) => false,
        }
    }

    /// Whether it carries a gRPC call of a client's.
    pub(crate) fn is_call(&self) -> bool {
        matches!(self, Self::Accepted(stream) if stream.is_call())
    }

    /// Whether it is a stream of a connection that others use, too.
    pub(crate) fn is_one_of_many(&self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Opened(_))
    }

    /// Whether its connection has carried requests before.
    pub(crate) fn is_reused(&self) -> bool {
        matches!(self, Self::Opened(stream) if stream.is_reused())
    }

    /// Whether the instance has not even begun to look at the request that it failed.
    pub(crate) fn was_refused(&self) -> bool {
        matches!(self, Self::Opened(stream) if stream.was_refused())
    }

    /// Asks the system whether anything was heard.
    pub(crate) fn has_news(&mut self) -> bool {
        match self {
            Self::Plain(stream) => {
                let mut byte = [MaybeUninit::uninit()];
                !would_block(&socket2::SockRef::from(&*stream).peek(&mut byte))
            }
            Self::Tls(stream) => stream.has_news(),
            Self::Accepted(_) | Self::Opened(_) => true,
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
            Self::Accepted(stream) => Pin::new(&mut **stream).poll_read(cx, to),
            Self::Opened(stream) => Pin::new(&mut **stream).poll_read(cx, to),
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
            Self::Accepted(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
            Self::Opened(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // The system has what was written.
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Accepted(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Opened(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Accepted(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Opened(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
