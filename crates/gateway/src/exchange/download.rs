//! The way back: the response's head, and its body piece by piece.

use std::task::{Context, Poll};

use super::{DOWNLOAD, Exchange, MOST_WAITING, Upload};
use crate::{
    h1::{
        Body, FieldKind, Piece, ResponseHead, push_announcement, push_chunk, push_last_chunk,
        push_number, push_protocols,
    },
    scratch::Scratch,
    stream::Stream,
    timer::Elapsed,
};

/// How the response's body went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relayed {
    Whole,
    /// The instance hung up in the middle, or sent what is no body.
    InstanceBroke,
    /// Nothing moved for too long.
    Stalled,
    /// It took longer than the whole request may.
    OutOfTime,
    ClientGone,
}

/// The body of a response, and what becomes of the connections after it.
pub(crate) struct Response {
    body: Body,
    /// The client gets it in chunks.
    chunked: bool,
    pub(crate) keep_alive: bool,
    /// The instance's connection can carry another request.
    pub(crate) reusable: bool,
}

impl Exchange<'_> {
    /// Decides how the response goes on to the client, and writes its head. The error says what is
    /// wrong with the response.
    pub(crate) fn begin_response(&mut self) -> Result<Response, &'static str> {
        // From here on the output is the response's to flush: the request's body must not wait for a
        // client that reads only when it has sent everything.
        self.interim = false;
        let Scratch {
            response,
            output,
            request_id,
            ..
        } = &mut *self.scratch;
        let body = response.body(self.plan.to_head)?;
        let unframed = body.left().is_none();
        let chunked = unframed && self.plan.minor == 1;
        // After an upgrade that was not agreed to, whoever stands between the client and here may
        // believe that it was: what comes next on the connection is better never read.
        let keep_alive = self.plan.framing.keep_alive
            && !self.plan.upgrade
            && !self.worker.draining()
            && self.upload == Upload::Done
            && (chunked || !unframed);
        let reusable = response.keep_alive() && !body.is_until_close() && !self.plan.upgrade;

        let to = output.tail();
        push_status_and_fields(response, to);
        if !response.has(FieldKind::Date) {
            self.worker.push_date(to);
        }
        to.extend_from_slice(b"x-request-id: ");
        to.extend_from_slice(request_id.as_bytes());
        to.extend_from_slice(b"\r\n");
        to.extend_from_slice(self.plan.own_line());
        // A response to HEAD and a 304 declare the length of a body that they do not have.
        let declared = if response.status == 204 {
            None
        } else {
            response.content_length()?
        };
        match declared {
            Some(length) => {
                to.extend_from_slice(b"content-length: ");
                push_number(length, to);
                to.extend_from_slice(b"\r\n");
            }
            None if chunked => {
                to.extend_from_slice(b"transfer-encoding: chunked\r\n");
                if response.has(FieldKind::Trailer) && body.is_chunked() {
                    push_announcement(response.values(FieldKind::Trailer), to);
                }
            }
            None => {}
        }
        let upgrade = response.status == 426 && response.protocols().next().is_some();
        if upgrade {
            // It must say to what (RFC 9110 §15.5.22).
            push_protocols(response.protocols(), to);
            to.extend_from_slice(b"connection: upgrade\r\n");
        }
        if !keep_alive {
            to.extend_from_slice(b"connection: close\r\n");
        } else if self.plan.minor == 0 {
            to.extend_from_slice(b"connection: keep-alive\r\n");
        }
        to.extend_from_slice(b"\r\n");
        Ok(Response {
            body,
            chunked,
            keep_alive,
            reusable,
        })
    }

    /// Sends the response on, while the rest of the request goes the other way.
    pub(crate) async fn relay(
        &mut self,
        instance: &mut Stream,
        mut response: Response,
        body_out: &mut u64,
    ) -> Relayed {
        self.moved = self.now();
        let mut end = None;
        std::future::poll_fn(|cx| {
            if self.continue_upload(instance, cx).is_err() {
                // The response is on its way, so an error has no place left to go.
                self.upload = Upload::Stopped;
            }
            loop {
                if end.is_none() {
                    end = self.poll_download(instance, &mut response, body_out, cx);
                }
                let before = self.scratch.output.len();
                let flushed = self.scratch.output.poll_flush(&mut self.client.stream, cx);
                if self.scratch.output.len() < before {
                    self.moved = self.now();
                }
                match (flushed, end) {
                    (Poll::Ready(Err(_)), _) => return Poll::Ready(Relayed::ClientGone),
                    (Poll::Ready(Ok(())), Some(end)) => return Poll::Ready(end),
                    (Poll::Ready(Ok(())), None) if before >= MOST_WAITING => continue,
                    _ => break,
                }
            }
            if self.client_left(cx) {
                return Poll::Ready(Relayed::ClientGone);
            }
            let stalled = self.moved + self.idle_timeout;
            match self.client.timer.arm(stalled.min(self.total_due), cx) {
                Ok(()) => Poll::Pending,
                Err(Elapsed) if self.now() >= self.total_due => Poll::Ready(Relayed::OutOfTime),
                Err(Elapsed) => Poll::Ready(Relayed::Stalled),
            }
        })
        .await
    }

    /// Moves what there is of the response's body to the output. How it ended, once it has.
    fn poll_download(
        &mut self,
        instance: &mut Stream,
        response: &mut Response,
        body_out: &mut u64,
        cx: &mut Context<'_>,
    ) -> Option<Relayed> {
        let Scratch {
            download,
            output,
            response: head,
            ..
        } = &mut *self.scratch;
        while output.len() < MOST_WAITING {
            match response.body.next(download.unread()) {
                Ok(Piece::Data { skip, length }) => {
                    *body_out += length as u64;
                    if response.chunked {
                        push_chunk(&download.unread()[skip..skip + length], output.tail());
                        download.consume(skip + length);
                    } else if output.is_empty() && skip == 0 && length == download.len() {
                        std::mem::swap(output, download);
                    } else {
                        output
                            .tail()
                            .extend_from_slice(&download.unread()[skip..skip + length]);
                        download.consume(skip + length);
                    }
                    if response.body.is_done() {
                        return Some(Relayed::Whole);
                    }
                }
                Ok(Piece::End { skip, trailers }) => {
                    if response.chunked {
                        let section = &download.unread()[skip - trailers..skip];
                        let ends_here = |name: &[u8]| head.connection_names(name);
                        if push_last_chunk(section, ends_here, output.tail()).is_err() {
                            return Some(Relayed::InstanceBroke);
                        }
                    }
                    download.consume(skip);
                    return Some(Relayed::Whole);
                }
                Ok(Piece::Wait { skip }) => {
                    download.consume(skip);
                    match download.poll_fill(instance, DOWNLOAD, cx) {
                        Poll::Pending => return None,
                        Poll::Ready(Ok(0)) => {
                            if !response.body.end_of_stream() {
                                return Some(Relayed::InstanceBroke);
                            }
                        }
                        Poll::Ready(Ok(_)) => self.moved = self.client.timer.now(),
                        Poll::Ready(Err(_)) => return Some(Relayed::InstanceBroke),
                    }
                }
                Err(_) => return Some(Relayed::InstanceBroke),
            }
        }
        None
    }
}

/// Appends the status line and the fields that pass. Framing, and what concerns the connection, is
/// the caller's to add.
pub(super) fn push_status_and_fields(response: &ResponseHead, to: &mut Vec<u8>) {
    to.extend_from_slice(b"HTTP/1.1 ");
    push_number(u64::from(response.status), to);
    to.push(b' ');
    to.extend_from_slice(response.reason());
    to.extend_from_slice(b"\r\n");
    let connection = response.has(FieldKind::Connection);
    for (kind, name, value) in response.fields() {
        let passes = match kind {
            FieldKind::Other => !(connection && response.connection_names(name)),
            FieldKind::TransferEncoding
            | FieldKind::ContentLength
            | FieldKind::Connection
            | FieldKind::Upgrade
            | FieldKind::Te
            | FieldKind::Trailer
            | FieldKind::HopByHop
            | FieldKind::RequestId => false,
            _ => true,
        };
        if passes {
            to.extend_from_slice(name);
            to.extend_from_slice(b": ");
            to.extend_from_slice(value);
            to.extend_from_slice(b"\r\n");
        }
    }
}
