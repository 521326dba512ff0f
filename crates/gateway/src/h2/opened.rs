use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use h2::{Reason, RecvStream, client::ResponseFuture};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header, uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    connections::Shared,
    failed,
    incoming::{Incoming, push_field},
    outgoing::{Outgoing, push_end_to_end},
};
use crate::{
    grpc,
    h1::{FieldKind, HeadScan, MOST_HEADERS, RequestHead, Scanned, push_number},
    timer::Millis,
};

/// A stream to an instance. Writing takes a request, whose head comes whole; reading gives the
/// response.
///
/// Dropped before the response's end it resets the stream.
#[derive(Debug)]
pub(crate) struct Opened {
    connection: Rc<Shared>,
    /// The connection has carried requests before.
    reused: bool,
    /// When the client wants an answer at the latest; the thread's time is the connection's.
    due: Millis,
    request: Option<Outgoing>,
    response: Option<ResponseFuture>,
    incoming: Incoming,
    to_head: bool,
    refused: bool,
}

impl Opened {
    pub(super) fn new(connection: Rc<Shared>, reused: bool, due: Millis) -> Self {
        connection.begin();
        Self {
            connection,
            reused,
            due,
            request: None,
            response: None,
            incoming: Incoming::default(),
            to_head: false,
            refused: false,
        }
    }

    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Whether the instance has said that it has not begun to look at the request, so that sending it
    /// again is safe whatever it asks (RFC 9113 §8.7).
    pub(crate) fn was_refused(&self) -> bool {
        self.refused
    }

    fn failed(&mut self, error: h2::Error) -> io::Error {
        if error.is_go_away() || error.is_io() {
            self.connection.end();
        }
        self.refused = error.is_remote()
            && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
        failed(error)
    }

    /// Takes a whole head and opens the stream.
    fn take_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let Scanned::End(length) = HeadScan::default().next(bytes) else {
            return Err(invalid());
        };
        let mut head = RequestHead::default();
        head.parse(&bytes[..length], MOST_HEADERS)
            .map_err(|_| invalid())?;
        let framing = head.framing().map_err(|_| invalid())?;
        let mut fields = HeaderMap::with_capacity(24);
        for (kind, name, value) in head.fields() {
            if name == grpc::TIMEOUT.as_bytes() && self.due < Millis::MAX {
                let left = grpc::timeout_text(self.due.saturating_sub(self.connection.now()));
                fields.insert(grpc::TIMEOUT, left);
            } else {
                push_end_to_end((kind, name, value), &mut fields)?;
            }
        }
        let mut request = Request::new(());
        *request.method_mut() = head.method().parse().map_err(|_| invalid())?;
        *request.uri_mut() = uri(&head, self.connection.scheme()).ok_or_else(invalid)?;
        *request.headers_mut() = fields;
        self.to_head = head.method() == "HEAD";
        let ended = framing.body.is_done();
        let sent = self.connection.sender().send_request(request, ended);
        let (response, send) = match sent {
            Ok(both) => both,
            Err(error) => {
                // Nothing was sent.
                self.connection.end();
                self.refused = true;
                return Err(failed(error));
            }
        };
        self.response = Some(response);
        self.request = Some(Outgoing::new(send, framing.body, ended, None));
        Ok(length)
    }

    /// Reads the head of the response, or one before it, into what is read next.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(response) = &mut self.response else {
            return Poll::Pending;
        };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let interim = interim.map_err(|error| self.failed(error))?;
            let to = self.incoming.stage();
            push_head(interim.status(), interim.headers(), to);
            to.extend_from_slice(b"\r\n");
            return Poll::Ready(Ok(()));
        }
        let response = ready!(Pin::new(response).poll(cx)).map_err(|error| self.failed(error))?;
        self.response = None;
        self.connection.heard();
        self.begin_response(response);
        Poll::Ready(Ok(()))
    }

    fn begin_response(&mut self, response: Response<RecvStream>) {
        let (head, body) = response.into_parts();
        let to = self.incoming.stage();
        push_head(head.status, &head.headers, to);
        let bodiless = self.to_head
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let declared = head.headers.contains_key(header::CONTENT_LENGTH);
        let chunked = !bodiless && !declared && !body.is_end_stream();
        if chunked {
            to.extend_from_slice(b"transfer-encoding: chunked\r\n");
        } else if !bodiless && !declared {
            to.extend_from_slice(b"content-length: 0\r\n");
        }
        to.extend_from_slice(b"\r\n");
        if !bodiless {
            self.incoming.set_body(body, chunked);
        }
    }
}

/// Where a request that we have written goes.
fn uri(head: &RequestHead, scheme: uri::Scheme) -> Option<Uri> {
    let host = head.values(FieldKind::Host).next()?;
    let mut parts = uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(uri::Authority::try_from(host).ok()?);
    parts.path_and_query = Some(uri::PathAndQuery::try_from(head.target()).ok()?);
    Uri::from_parts(parts).ok()
}

/// Appends a head but for the empty line at its end.
fn push_head(status: StatusCode, fields: &HeaderMap<HeaderValue>, to: &mut Vec<u8>) {
    to.extend_from_slice(b"HTTP/1.1 ");
    push_number(u64::from(status.as_u16()), to);
    to.push(b' ');
    to.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    to.extend_from_slice(b"\r\n");
    for (name, value) in fields {
        push_field(name.as_str(), value.as_bytes(), to);
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.response.is_none() || this.incoming.is_staged() {
                return this.incoming.poll_read(cx, to).map_ok(drop);
            }
            ready!(this.poll_head(cx))?;
        }
    }
}

impl AsyncWrite for Opened {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match &mut this.request {
            None => Poll::Ready(this.take_head(bytes)),
            Some(request) => request.poll_write(bytes, cx),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection sends what it was given.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(request) = &mut self.request
            && !request.has_ended()
        {
            request.stream().send_reset(Reason::CANCEL);
        }
        // Given up before it was answered: perhaps the connection is dead.
        self.connection.finish(self.response.is_some());
    }
}
