//! Copies of requests for another service, whose answers nobody waits for. A copy costs the original
//! one draw and, when it is drawn, one copy in memory; everything else happens in a task of its own.

use std::{rc::Rc, time::Duration};

use serde::{Deserialize, Serialize};
use sinew_core::{Name, units};
use tokio::io::AsyncWriteExt;

use crate::{
    backend::TargetKey,
    h1::{Body, Buffer, HeadScan, Piece, ResponseHead, Scanned},
    server::READ,
    stream::Stream,
    timer::{Millis, Timer, millis},
    upstream::{Draw, Lease, Service},
    worker::Worker,
};

/// Sends copies of requests to another service, and drops its answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The service that gets the copies.
    pub service: Name,
    /// Of how many requests in a hundred; all when absent.
    #[serde(default = "all")]
    pub percent: u8,
    /// How long a copy may take, connecting included.
    #[serde(default = "timeout", with = "units::duration")]
    pub timeout: Duration,
}

fn all() -> u8 {
    100
}

fn timeout() -> Duration {
    Duration::from_secs(5)
}

/// Copies on their way, per thread; more are not made. Each holds its request, up to the head's limit
/// and 64 KiB of body.
const MOST_COPIES: usize = 64;
const LONGEST_HEAD: usize = 64 << 10;
/// What is read of an answer's body before the connection is closed.
const MOST_READ: usize = 1 << 20;
/// What tells a copy from the original. Clients cannot send it.
const MARK: &[u8] = b"x-sinew-mirror: 1\r\nconnection: close\r\n";

impl Mirror {
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !(1..=100).contains(&self.percent) {
            return Err("mirror.percent is 1 to 100");
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_secs(60) {
            return Err("mirror.timeout is 1ms to 60s");
        }
        Ok(())
    }

    pub(crate) fn key(&self) -> TargetKey {
        TargetKey::service(self.service.clone())
    }
}

/// A copy that counts as long as it is on its way.
struct Copy {
    worker: Rc<Worker>,
    lease: Lease,
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.worker.mirrors.set(self.worker.mirrors.get() - 1);
    }
}

/// Sends a copy of `request`, head and body, if it is drawn and there is room. Never waits.
pub(crate) fn send(worker: &Rc<Worker>, service: &Rc<Service>, mirror: &Mirror, request: &[u8]) {
    if worker.random.next() % 100 >= u64::from(mirror.percent) {
        return;
    }
    let Some(line) = memchr::memmem::find(request, b"\r\n").map(|end| end + 2) else {
        return;
    };
    if worker.mirrors.get() >= MOST_COPIES {
        service.counters().mirrors_dropped.add(1);
        return;
    }
    let timer = worker.ticker.timer();
    service.refresh(timer.now());
    let draw = Draw {
        now: timer.now(),
        key: None,
        random: &worker.random,
    };
    let Some(lease) = service.pick(&[], draw) else {
        service.counters().mirror_failures.add(1);
        return;
    };
    worker.mirrors.set(worker.mirrors.get() + 1);
    let copy = Copy {
        worker: worker.clone(),
        lease,
    };
    let bytes = [&request[..line], MARK, &request[line..]].concat();
    let due = timer.now() + millis(mirror.timeout);
    tokio::task::spawn_local(async move {
        let counters = copy.lease.counters();
        counters.mirrored.add(1);
        let answered = timer.before(due, deliver(&copy, &timer, &bytes)).await;
        if !answered.unwrap_or(false) {
            counters.mirror_failures.add(1);
        }
    });
}

/// Whether the copy was answered in whole, and not with a server's error.
async fn deliver(copy: &Copy, timer: &Timer, request: &[u8]) -> bool {
    let lease = &copy.lease;
    let Ok(mut stream) = lease.connect(&copy.worker, None, Millis::MAX).await else {
        lease.connect_failed(timer.now(), copy.worker.random.next());
        return false;
    };
    lease.connected(timer.now());
    if stream.write_all(request).await.is_err() {
        return false;
    }
    let mut input = Buffer::default();
    let mut head = ResponseHead::default();
    loop {
        let Some(length) = read_head(&mut stream, &mut input).await else {
            return false;
        };
        if head.parse(&input.unread()[..length]).is_err() {
            return false;
        }
        input.consume(length);
        if head.status >= 200 {
            break;
        }
    }
    let whole = match head.body(request.starts_with(b"HEAD ")) {
        Ok(body) => skip(body, &mut stream, &mut input).await,
        Err(_) => false,
    };
    whole && head.status < 500
}

/// The length of a head that is there now.
async fn read_head(stream: &mut Stream, input: &mut Buffer) -> Option<usize> {
    let mut scan = HeadScan::default();
    loop {
        match scan.next(input.unread()) {
            Scanned::End(length) => return Some(length),
            Scanned::BareLineFeed => return None,
            Scanned::Partial if input.len() > LONGEST_HEAD => return None,
            Scanned::Partial => fill(stream, input).await?,
        }
    }
}

/// Reads a body and drops it. One that is longer than anybody wants to drop is as good as whole.
async fn skip(mut body: Body, stream: &mut Stream, input: &mut Buffer) -> bool {
    let mut read = 0;
    while !body.is_done() && read < MOST_READ {
        match body.next(input.unread()) {
            Ok(Piece::Data { skip, length }) => {
                input.consume(skip + length);
                read += length;
            }
            Ok(Piece::End { skip, .. }) => input.consume(skip),
            Ok(Piece::Wait { skip }) => {
                input.consume(skip);
                if fill(stream, input).await.is_none() {
                    return body.end_of_stream();
                }
            }
            Err(_) => return false,
        }
    }
    true
}

async fn fill(stream: &mut Stream, input: &mut Buffer) -> Option<()> {
    let read = std::future::poll_fn(|cx| input.poll_fill(stream, READ, cx)).await;
    read.ok().filter(|count| *count > 0).map(drop)
}
