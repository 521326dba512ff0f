//! The head of the response and what comes before it: interim responses (1xx), which go on to a
//! client that knows them.

use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::{DOWNLOAD, Exchange, Failure, download::push_status_and_fields};
use crate::{
    h1::{HeadScan, Scanned},
    scratch::Scratch,
};

/// What the instance it is connected to has said before its response.
#[derive(Debug, Default)]
pub(super) struct Interims {
    pub(super) count: usize,
    bytes: usize,
}

/// More interim responses before one response are no HTTP any more.
const MOST: usize = 32;

impl Exchange<'_> {
    /// Reads the response's head, past any interim one.
    pub(super) fn poll_head(
        &mut self,
        instance: &mut TcpStream,
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
                        101 => {
                            let why = "it switched protocols though nobody asked it to";
                            return Poll::Ready(Err(Failure::Nonsense(why)));
                        }
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
}
