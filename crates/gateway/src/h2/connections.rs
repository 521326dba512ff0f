//! The HTTP/2 connections of a thread to one instance, which requests share.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, Connection, SendRequest},
};
use http::uri::Scheme;
use tokio::sync::Notify;

use super::opened::Opened;
use crate::{
    stream::Stream,
    timer::{Elapsed, Millis, Timer},
    worker::Worker,
};

/// More connections to one instance do not help: what exceeds their streams waits for one.
const MOST: usize = 8;
/// What an instance may send before the gateway has passed it on, per stream and connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
const MOST_WAITING: usize = 64 << 10;
const MOST_HEAD: u32 = 64 << 10;
/// How often a connection that has requests is asked whether it is alive. gRPC servers take more
/// than this for an attack.
const PING_EVERY: Millis = 300_000;
/// After a request that was never answered it is asked sooner, but not more often than this.
const PING_AFTER_SILENCE: Millis = 10_000;
const PONG_WITHIN: Millis = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Connections {
    list: RefCell<Vec<Rc<Shared>>>,
    opening: Cell<bool>,
    /// Told when opening is over.
    opened: Notify,
    failures: Cell<u64>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Shared {
    sender: SendRequest<Bytes>,
    /// TLS carries it.
    secure: bool,
    life: Rc<Life>,
}

/// What the task that drives a connection and those who use it tell one another.
#[derive(Debug)]
struct Life {
    timer: Timer,
    streams: Cell<usize>,
    /// When it was last used.
    used: Cell<Millis>,
    /// It takes no new streams.
    ended: Cell<bool>,
    /// A request got no answer, and nothing was heard since.
    doubtful: Cell<bool>,
}

impl Connections {
    /// A stream on the least used connection, or on a new one, which `connect` makes, if there is
    /// none with room.
    pub(crate) async fn open(
        &self,
        worker: &Worker,
        connect: impl Future<Output = io::Result<Stream>>,
        due: Millis,
    ) -> io::Result<Stream> {
        let opened = |shared: Rc<Shared>, reused| {
            Ok(Stream::Opened(Box::new(Opened::new(shared, reused, due))))
        };
        loop {
            if let Some(shared) = self.least_used() {
                return opened(shared, true);
            }
            if !self.opening.replace(true) {
                let opening = Opening(self);
                let connected = match connect.await {
                    Ok(stream) => begin(worker, stream).await,
                    Err(error) => Err(error),
                };
                if connected.is_err() {
                    self.failures.set(self.failures.get() + 1);
                }
                drop(opening);
                let shared = Rc::new(connected?);
                self.list.borrow_mut().push(shared.clone());
                return opened(shared, false);
            }
            // Requests that come together share what the first of them opens.
            let failures = self.failures.get();
            self.opened.notified().await;
            if self.failures.get() != failures {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
        }
    }

    fn least_used(&self) -> Option<Rc<Shared>> {
        let mut list = self.list.borrow_mut();
        list.retain(|shared| !shared.life.ended.get());
        let least = list.iter().min_by_key(|one| one.life.streams.get())?;
        let room = least.life.streams.get() < least.sender.current_max_send_streams();
        (room || list.len() >= MOST).then(|| least.clone())
    }

    /// Closes those that nobody used for a while.
    pub(crate) fn sweep(&self, now: Millis, idle_timeout: Millis) {
        self.list.borrow_mut().retain(|shared| {
            let life = &shared.life;
            !life.ended.get()
                && (life.streams.get() > 0 || now.saturating_sub(life.used.get()) < idle_timeout)
        });
    }

    /// Lets all end when their streams have.
    pub(crate) fn clear(&self) {
        self.list.borrow_mut().clear();
    }
}

/// Opening is over when this is dropped, however it ends.
struct Opening<'a>(&'a Connections);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.opened.notify_waiters();
    }
}

async fn begin(worker: &Worker, stream: Stream) -> io::Result<Shared> {
    let secure = stream.tls().is_some();
    let handshake = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MOST_HEAD)
        .max_send_buffer_size(MOST_WAITING)
        .handshake::<_, Bytes>(stream)
        .await;
    let (sender, mut connection) = handshake.map_err(super::failed)?;
    let timer = worker.ticker.timer();
    let life = Rc::new(Life {
        used: Cell::new(timer.now()),
        timer,
        streams: Cell::new(0),
        ended: Cell::new(false),
        doubtful: Cell::new(false),
    });
    let driven = life.clone();
    tokio::task::spawn_local(async move {
        let mut pulse = connection.ping_pong().map(|pings| Pulse {
            pings,
            next: driven.timer.now() + PING_EVERY,
            last: None,
            waiting: false,
        });
        std::future::poll_fn(|cx| drive(&mut connection, &driven, pulse.as_mut(), cx)).await;
        driven.ended.set(true);
    });
    Ok(Shared {
        sender,
        secure,
        life,
    })
}

/// Whether the other end lives.
struct Pulse {
    pings: PingPong,
    /// When it is asked next, or given up when it is `waiting`.
    next: Millis,
    last: Option<Millis>,
    waiting: bool,
}

fn drive(
    connection: &mut Connection<Stream, Bytes>,
    life: &Life,
    pulse: Option<&mut Pulse>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if Pin::new(&mut *connection).poll(cx).is_ready() {
        return Poll::Ready(());
    }
    let Some(pulse) = pulse else {
        return Poll::Pending;
    };
    loop {
        let now = life.timer.now();
        if pulse.waiting && pulse.pings.poll_pong(cx).is_ready() {
            life.doubtful.set(false);
            (pulse.waiting, pulse.next) = (false, now + PING_EVERY);
        }
        let doubtful = life.doubtful.get() && !pulse.waiting;
        let due = if doubtful {
            pulse.last.map_or(now, |last| last + PING_AFTER_SILENCE)
        } else {
            pulse.next
        };
        if life.timer.arm(due, cx) != Err(Elapsed) {
            return Poll::Pending;
        }
        if pulse.waiting {
            tracing::debug!("an instance's HTTP/2 connection does not answer");
            return Poll::Ready(());
        }
        if life.streams.get() > 0 || doubtful {
            if pulse.pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            (pulse.waiting, pulse.last, pulse.next) = (true, Some(now), now + PONG_WITHIN);
        } else {
            pulse.next = now + PING_EVERY;
        }
        // What was just asked is sent with the next turn of the connection.
        if Pin::new(&mut *connection).poll(cx).is_ready() {
            return Poll::Ready(());
        }
    }
}

impl Shared {
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    pub(super) fn scheme(&self) -> Scheme {
        if self.secure {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        }
    }

    pub(super) fn now(&self) -> Millis {
        self.life.timer.now()
    }

    pub(super) fn begin(&self) {
        self.life.streams.set(self.life.streams.get() + 1);
    }

    pub(super) fn heard(&self) {
        self.life.doubtful.set(false);
    }

    pub(super) fn end(&self) {
        self.life.ended.set(true);
    }

    /// A stream is over; `unanswered` when it was given up.
    pub(super) fn finish(&self, unanswered: bool) {
        let life = &self.life;
        life.streams.set(life.streams.get() - 1);
        life.used.set(life.timer.now());
        if unanswered {
            life.doubtful.set(true);
        }
    }
}
