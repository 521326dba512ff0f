//! The head of the response and what comes before it: interim responses (1xx), which go on to a
//! client that knows them, and the agreement to another protocol.

use std::task::{Context, Poll, ready};

use super::{DOWNLOAD, Exchange, Failure, Upload, download::push_status_and_fields};
use crate::{
    h1::{FieldKind, HeadScan, ResponseHead, Scanned, push_protocols},
    scratch::Scratch,
    stream::Stream,
};

/// What the instance it is connected to has said before its response.
#[derive(Debug, Default)]
pub(super) struct Interims {
    pub(super) count: usize,
    bytes: usize,
}

/// More interim responses before one response are no HTTP any more.
const MOST: usize = 32;

impl Interims {
    /// Whether the instance has said anything.
    pub(super) fn heard(&self) -> bool {
        self.count > 0
    }
}

impl Exchange<'_> {
    /// Reads the response's head, past any interim one.
    pub(super) fn poll_head(
        &mut self,
        instance: &mut Stream,
        scan: &mut HeadScan,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        let most =
            usize::try_from(self.worker.shared.config.limits.head_bytes).unwrap_or(usize::MAX);
        loop {
            let Scratch {
                download, response, ..
            } = &mut *self.scratch;
            match scan.next(download.unread()) {
                Scanned::End(length) => {
                    if let Err(why) = response.parse(&download.unread()[..length]) {
                        return Poll::Ready(Err(Failure::Nonsense(why)));
                    }
                    download.consume(length);
                    match response.status {
                        101 => return Poll::Ready(self.check_switch()),
                        100..=199 => {
                            self.interims.bytes += length;
                            self.take_interim(most)?;
                            *scan = HeadScan::default();
                            continue;
                        }
                        _ => return Poll::Ready(Ok(())),
                    }
                }
                Scanned::BareLineFeed => {
                    return Poll::Ready(Err(Failure::Nonsense("its head has a bare line feed")));
                }
                Scanned::Partial if download.len() >= most => {
                    return Poll::Ready(Err(Failure::Nonsense("its head is too long")));
                }
                Scanned::Partial => {}
            }
            match ready!(download.poll_fill(instance, DOWNLOAD, cx)) {
                Ok(0) | Err(_) => {
                    let heard = !download.is_empty() || self.interims.count > 0;
                    return Poll::Ready(Err(Failure::HungUp { heard }));
                }
                Ok(_) => self.moved = self.client.timer.now(),
            }
        }
    }

    /// Passes an interim response on. `100` goes to a client that waits for it and to no other:
    /// it says nothing to one that does not.
    fn take_interim(&mut self, most_bytes: usize) -> Result<(), Failure> {
        self.interims.count += 1;
        if self.interims.count > MOST || self.interims.bytes > most_bytes {
            return Err(Failure::Nonsense("it has too many interim responses"));
        }
        let Scratch {
            response, output, ..
        } = &mut *self.scratch;
        if self.plan.minor == 0 {
            return Ok(());
        }
        if response.status == 100 && !std::mem::take(&mut self.plan.framing.expects_continue) {
            return Ok(());
        }
        push_status_and_fields(response, output.tail());
        output.tail().extend_from_slice(b"\r\n");
        self.interim = true;
        Ok(())
    }

    /// Whether the instance may switch protocols now, and to what it says.
    fn check_switch(&self) -> Result<(), Failure> {
        let Scratch { response, head, .. } = &*self.scratch;
        if !self.plan.upgrade {
            let why = "it switched protocols though nobody asked it to";
            return Err(Failure::Nonsense(why));
        }
        if self.upload != Upload::Done {
            return Err(Failure::Nonsense(
                "it switched protocols before it had the whole request",
            ));
        }
        let offered = |protocol: &[u8]| {
            head.offered_protocols()
                .any(|offer| offer.eq_ignore_ascii_case(protocol))
        };
        if switches_to(response, offered) {
            Ok(())
        } else {
            Err(Failure::Nonsense(
                "it switched to a protocol that nobody offered",
            ))
        }
    }

    /// Writes the head that tells the client, and the instance's first bytes, of which there are as
    /// many as it answers.
    pub(crate) fn begin_upgrade(&mut self) -> usize {
        let Scratch {
            response,
            output,
            download,
            request_id,
            ..
        } = &mut *self.scratch;
        let to = output.tail();
        push_status_and_fields(response, to);
        if !response.has(FieldKind::Date) {
            self.worker.push_date(to);
        }
        to.extend_from_slice(b"x-request-id: ");
        to.extend_from_slice(request_id.as_bytes());
        to.extend_from_slice(b"\r\nconnection: upgrade\r\n");
        push_protocols(response.protocols(), to);
        to.extend_from_slice(b"\r\n");
        to.extend_from_slice(download.unread());
        download.len()
    }

    /// Whether the instance has agreed to another protocol.
    pub(crate) fn has_switched(&self) -> bool {
        self.scratch.response.status == 101
    }
}

fn switches_to(response: &ResponseHead, offered: impl Fn(&[u8]) -> bool) -> bool {
    response.connection_names(b"upgrade")
        && response.protocols().next().is_some()
        && response.protocols().all(offered)
}
