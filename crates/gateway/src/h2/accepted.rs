use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Response, StatusCode, header, request::Parts};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    allowance::Allowance,
    failed,
    incoming::Incoming,
    outgoing::{Outgoing, push_end_to_end},
    request::{self, Framing},
};
use crate::{
    fault::Fault,
    grpc,
    h1::{Body, HeadScan, ResponseHead, Scanned, push_chunk},
    server::StreamHead,
    timer::Millis,
};

/// A client's stream. Reading gives the body of its request, framed as the head declares that
/// [`super::request::render`] wrote; writing takes a response, whose heads come whole.
///
/// Dropped before the response's end it resets the stream.
#[derive(Debug)]
pub(crate) struct Accepted {
    incoming: Incoming,
    answer: Answer,
    to_head: bool,
    /// When the call must be over, if it is one of gRPC.
    call: Option<Millis>,
    allowance: Rc<Allowance>,
}

/// More than this of a body is not waited for in one piece.
const MOST_GATHERED: usize = 16 << 10;

#[derive(Debug)]
enum Answer {
    /// Its head is yet to come; interim ones may have gone.
    Expected(SendResponse<Bytes>),
    Begun(Outgoing),
}

impl Accepted {
    pub(super) fn new(
        respond: SendResponse<Bytes>,
        to_head: bool,
        call: Option<Millis>,
        allowance: Rc<Allowance>,
    ) -> Self {
        Self {
            incoming: Incoming::default(),
            answer: Answer::Expected(respond),
            to_head,
            call,
            allowance,
        }
    }

    pub(crate) fn is_call(&self) -> bool {
        self.call.is_some()
    }

    /// Takes the request. A short body of unknown length that came with its head gets a length, so
    /// that it can be sent again.
    pub(super) async fn take_request(
        &mut self,
        head: &Parts,
        mut body: RecvStream,
    ) -> Result<StreamHead, Fault> {
        if declares_body(head) {
            let framing = if body.is_end_stream() {
                Framing::None
            } else {
                self.incoming.set_body(body, false);
                Framing::Declared
            };
            return request::render(head, framing).map(StreamHead::new);
        }
        if body.is_end_stream() {
            return request::render(head, Framing::None).map(StreamHead::new);
        }
        let data = gather(&mut body).await;
        if body.is_end_stream() {
            let bytes = request::render(head, Framing::Length(data.len()))?;
            let mut whole = StreamHead::new(bytes);
            whole.bytes.extend_from_slice(&data);
            return Ok(whole);
        }
        push_chunk(&data, self.incoming.stage());
        self.incoming.set_body(body, true);
        request::render(head, Framing::Chunked).map(StreamHead::new)
    }

    /// Whether the client has taken its request back, or is gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.answer {
            Answer::Expected(respond) => respond.poll_reset(cx),
            Answer::Begun(outgoing) => outgoing.stream().poll_reset(cx),
        };
        reset.map(drop)
    }

    /// Takes a whole head.
    fn take_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let Answer::Expected(respond) = &mut self.answer else {
            return Err(invalid());
        };
        let Scanned::End(length) = HeadScan::default().next(bytes) else {
            return Err(invalid());
        };
        let mut head = ResponseHead::default();
        head.parse(&bytes[..length]).map_err(|_| invalid())?;
        let mut fields = HeaderMap::with_capacity(16);
        for field in head.fields() {
            push_end_to_end(field, &mut fields)?;
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| invalid())?;
        *response.headers_mut() = fields;
        if response.status().is_informational() {
            respond.send_informational(response).map_err(failed)?;
            return Ok(length);
        }
        let body: Body = head.body(self.to_head).map_err(|_| invalid())?;
        let ended = body.is_done();
        let send = respond.send_response(response, ended).map_err(failed)?;
        self.answer = Answer::Begun(Outgoing::new(
            send,
            body,
            ended,
            Some(self.allowance.clone()),
        ));
        Ok(length)
    }
}

/// Whether the head says that a body follows, and how long it is. Of none that is declared the end
/// has to be seen too: data behind it would make the request malformed, and it must not pass.
fn declares_body(head: &Parts) -> bool {
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (Some(length), None) => length.as_bytes().iter().any(|digit| *digit != b'0'),
        (length, _) => length.is_some(),
    }
}

/// What there is of a body already.
async fn gather(body: &mut RecvStream) -> Vec<u8> {
    let mut data = Vec::new();
    std::future::poll_fn(|cx| {
        while data.len() < MOST_GATHERED
            && let Poll::Ready(Some(Ok(more))) = body.poll_data(cx)
        {
            // An error means that the stream is over, which whoever reads on hears.
            let _ = body.flow_control().release_capacity(more.len());
            data.extend_from_slice(&more);
        }
        Poll::Ready(())
    })
    .await;
    data
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.incoming.poll_read(cx, to) {
            Poll::Ready(Ok(true)) => Poll::Ready(Ok(())),
            // The request is whole: that is no end of the client.
            Poll::Ready(Ok(false)) => {
                std::task::ready!(this.poll_gone(cx));
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match &mut this.answer {
            Answer::Expected(_) => Poll::Ready(this.take_head(bytes)),
            Answer::Begun(outgoing) => outgoing.poll_write(bytes, cx),
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

impl Drop for Accepted {
    fn drop(&mut self) {
        match &mut self.answer {
            Answer::Expected(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            // A request that is not all there is reset by the `h2` crate, with NO_ERROR.
            Answer::Begun(outgoing) if outgoing.has_ended() => self.allowance.answered(),
            Answer::Begun(outgoing) => {
                let stream = outgoing.stream();
                let told = self.call.is_some_and(|due| {
                    let late = self.allowance.now() >= due;
                    stream.send_trailers(grpc::broken_off(late)).is_ok()
                });
                if !told {
                    stream.send_reset(Reason::INTERNAL_ERROR);
                }
            }
        }
    }
}
