//! A connection that goes on in another protocol: bytes in both directions, at the pace of the
//! slower side, until both sides have ended or nothing moves any more.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

use crate::{
    exchange::MOST_ROUNDS,
    h1::Buffer,
    record::Record,
    scratch::Scratch,
    server::Client,
    stream::Stream,
    timer::{Elapsed, Millis, millis},
    upstream::Lease,
    worker::Worker,
};

/// An instance has agreed to the protocol. The client's next bytes are in the input, and the head
/// that tells it, with the instance's first bytes, in the output.
pub(crate) struct Upgraded {
    pub(crate) instance: Stream,
    pub(crate) lease: Lease,
    /// How many bytes of the instance's are behind the head already.
    pub(crate) first: usize,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both sides have said all they had to say, or one takes no more.
    Whole,
    ClientBroke,
    InstanceBroke,
    /// Nothing moved for too long.
    Idle,
    /// The gateway stops.
    Stopped,
}

/// How much is read at once.
const READ: usize = 16 << 10;
/// How much may wait to be written in one direction.
const MOST_WAITING: usize = 32 << 10;

/// What one side says to the other.
#[derive(Debug)]
struct Direction {
    /// The source has ended.
    ended: bool,
    /// The target was told, or takes no more.
    shut: bool,
    /// Bytes read.
    read: u64,
    /// When the target last took something, or nothing waited for it.
    taken: Millis,
}

/// The source failed: what it had still to say is lost.
struct SourceBroke;

impl Direction {
    fn new(read: usize, now: Millis) -> Self {
        Self {
            ended: false,
            shut: false,
            read: read as u64,
            taken: now,
        }
    }

    /// Moves what there is. Whether anything moved.
    fn poll(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        buffer: &mut Buffer,
        now: Millis,
        cx: &mut Context<'_>,
    ) -> Result<bool, SourceBroke> {
        let (mut moved, mut rounds) = (false, 0);
        while !self.shut {
            let before = buffer.len();
            let flushed = buffer.poll_flush(to, cx);
            if before == 0 || buffer.len() < before {
                self.taken = now;
                moved |= before > 0;
            }
            if matches!(flushed, Poll::Ready(Err(_))) {
                // It has closed, but what it said before is still to be passed on.
                (self.ended, self.shut) = (true, true);
                buffer.clear();
                break;
            }
            if self.ended {
                self.shut = flushed.is_ready() && Pin::new(to).poll_shutdown(cx).is_ready();
                break;
            }
            if buffer.len() >= MOST_WAITING {
                break;
            }
            match buffer.poll_fill(from, READ, cx) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(count)) => {
                    self.read += count as u64;
                    moved = true;
                    rounds += 1;
                    if rounds == MOST_ROUNDS {
                        cx.waker().wake_by_ref();
                        break;
                    }
                }
                Poll::Ready(Err(_)) => return Err(SourceBroke),
                Poll::Pending => break,
            }
        }
        // Most of these connections wait most of the time: one that waits holds no buffer.
        buffer.trim(0);
        Ok(moved)
    }

    /// When what waits for the target has waited too long.
    fn due(&self, waiting: &Buffer, timeout: Millis) -> Millis {
        if waiting.is_empty() {
            Millis::MAX
        } else {
            self.taken + timeout
        }
    }
}

/// Carries the bytes until the end, and tells how it came. On the heap, because every connection
/// would have to keep room for it otherwise.
pub(crate) fn run<'a>(
    worker: &'a Worker,
    client: &'a mut Client,
    scratch: &'a mut Scratch,
    upgraded: Box<Upgraded>,
    record: &'a mut Record,
) -> Pin<Box<dyn Future<Output = Ended> + 'a>> {
    Box::pin(carry(worker, client, scratch, upgraded, record))
}

async fn carry(
    worker: &Worker,
    client: &mut Client,
    scratch: &mut Scratch,
    upgraded: Box<Upgraded>,
    record: &mut Record,
) -> Ended {
    let Upgraded {
        mut instance,
        lease,
        first,
    } = *upgraded;
    let limits = &worker.shared.config.limits;
    let (idle, stuck) = (
        millis(limits.upgraded_idle_timeout),
        millis(limits.body_timeout),
    );
    record.upgraded();
    let counters = lease.counters();
    counters.upgrades.add(1);
    counters.upgraded.add(1);
    for buffer in [&mut scratch.upload, &mut scratch.download] {
        buffer.clear();
        buffer.trim(0);
    }
    let Client { stream, timer, .. } = client;
    let Scratch { input, output, .. } = scratch;
    let mut last = timer.now();
    let mut up = Direction::new(input.len(), last);
    let mut down = Direction::new(first, last);
    let (mut counted, body_in) = ((0, 0), record.body_in);
    let ended = std::future::poll_fn(|cx| {
        if worker.stopping() {
            return Poll::Ready(Ended::Stopped);
        }
        let now = timer.now();
        let said = up.poll(stream, &mut instance, input, now, cx);
        let answered = down.poll(&mut instance, stream, output, now, cx);
        counters.upgraded_in.add(up.read - counted.0);
        counters.upgraded_out.add(down.read - counted.1);
        counted = (up.read, down.read);
        (record.body_in, record.body_out) = (body_in + up.read, down.read);
        match (said, answered) {
            (Err(SourceBroke), _) => return Poll::Ready(Ended::ClientBroke),
            (_, Err(SourceBroke)) => return Poll::Ready(Ended::InstanceBroke),
            (Ok(false), Ok(false)) => {}
            _ => last = now,
        }
        if up.shut && down.shut {
            return Poll::Ready(Ended::Whole);
        }
        // One side has ended: the other has time to finish, but not as long as two that talk.
        let quiet = if up.ended || down.ended {
            stuck.min(idle)
        } else {
            idle
        };
        let due = (last + quiet)
            .min(up.due(input, stuck))
            .min(down.due(output, stuck));
        match timer.arm(due, cx) {
            Ok(()) => Poll::Pending,
            Err(Elapsed) => Poll::Ready(Ended::Idle),
        }
    })
    .await;
    counters.upgraded.sub(1);
    match ended {
        Ended::InstanceBroke => {
            counters.failures.add(1);
            record.failed("gateway.upstream_failed");
        }
        Ended::Idle => record.failed("gateway.upgraded_idle"),
        Ended::Whole | Ended::ClientBroke | Ended::Stopped => {}
    }
    ended
}
