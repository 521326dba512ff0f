//! A client's connection: its streams run at once, each in a task of its own.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{Method, Request};
use tokio::io::AsyncWrite;

use super::{accepted::Accepted, allowance::Allowance, watched::Watched};
use crate::{
    grpc,
    h1::Buffer,
    server::{self, Client},
    stream::Stream,
    timer::{Elapsed, Millis, Timer, millis},
    worker::Worker,
};

/// What waits to be sent per stream.
const MOST_WAITING: usize = 32 << 10;
/// Streams that the client takes back before anyone looked at them, and streams that have to be reset
/// because of what the client sent: more of either end the connection.
const MOST_PENDING_RESETS: usize = 32;
const MOST_ERRORS: usize = 128;
/// How long a connection that has nothing more to do may take to end.
const CLOSING: Millis = 2_000;

/// A connection while it is served.
struct Served {
    worker: Rc<Worker>,
    client: Rc<RefCell<Client>>,
    timer: Timer,
    allowance: Rc<Allowance>,
    /// Streams whose tasks run.
    streams: Rc<Cell<usize>>,
    /// When there was last one.
    busy: Millis,
    /// The client was told to open no more streams.
    told: bool,
    /// When the connection ends whatever happens, once nothing is left to be done.
    closing: Option<Millis>,
}

/// Answers the requests of a client until the connection ends. `first` are the bytes of the
/// connection that were read already.
pub(crate) async fn serve(worker: &Rc<Worker>, client: Client, first: &[u8]) {
    let allowance = Allowance::new(worker.ticker.clone());
    let client = Rc::new(RefCell::new(client));
    let watched = Watched::new(client.clone(), first, allowance.clone());
    let limits = &worker.shared.config.limits;
    let handshake = Builder::new()
        .max_concurrent_streams(limits.streams)
        .initial_window_size(window(limits.stream_window))
        .initial_connection_window_size(window(limits.connection_window))
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(MOST_WAITING)
        .max_concurrent_reset_streams(limits.streams as usize)
        .max_pending_accept_reset_streams(MOST_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MOST_ERRORS))
        .handshake::<_, Bytes>(watched);
    let timer = worker.ticker.timer();
    let due = timer.now() + millis(limits.head_timeout);
    let mut served = Served {
        worker: worker.clone(),
        client,
        busy: timer.now(),
        timer,
        allowance,
        streams: Rc::default(),
        told: false,
        closing: None,
    };
    match served.timer.before(due, handshake).await {
        Ok(Ok(mut connection)) => {
            std::future::poll_fn(|cx| served.poll(&mut connection, cx)).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a client's HTTP/2 connection does not begin"),
        Err(Elapsed) => {}
    }
    served.linger().await;
}

impl Served {
    /// Ready when the connection is over.
    fn poll(
        &mut self,
        connection: &mut Connection<Watched, Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            while let Poll::Ready(accepted) = connection.poll_accept(cx) {
                match accepted {
                    Some(Ok((request, respond))) => self.begin(request, respond),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a client's HTTP/2 connection failed");
                        return Poll::Ready(());
                    }
                    None => return Poll::Ready(()),
                }
            }
            if !self.end_in_time(connection) {
                break;
            }
        }
        let now = self.timer.now();
        let due = match self.closing {
            Some(due) => due,
            None if self.streams.get() > 0 => {
                self.busy = now;
                now + self.idle_timeout()
            }
            None if self.told => *self.closing.insert(now + CLOSING),
            None => self.busy + self.idle_timeout(),
        };
        match self.timer.arm(due, cx) {
            Ok(()) => Poll::Pending,
            Err(Elapsed) => Poll::Ready(()),
        }
    }

    /// Begins the connection's end when it is time to. Whether that is now.
    fn end_in_time(&mut self, connection: &mut Connection<Watched, Bytes>) -> bool {
        let now = self.timer.now();
        if self.allowance.exceeded() && self.closing.is_none() {
            self.worker.counters().malformed.add(1);
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.closing = Some(now + CLOSING);
            return true;
        }
        let idle = self.streams.get() == 0 && now >= self.busy + self.idle_timeout();
        if !self.told && (self.worker.draining() || idle) {
            self.told = true;
            connection.graceful_shutdown();
            return true;
        }
        false
    }

    fn idle_timeout(&self) -> Millis {
        millis(self.worker.shared.config.limits.idle_timeout)
    }

    /// Answers a request, beside all others.
    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (head, body) = request.into_parts();
        let call = grpc::call_due(&head.headers, self.timer.now());
        let to_head = head.method == Method::HEAD;
        let stream = Accepted::new(respond, to_head, call, self.allowance.clone());
        let (client, timer) = (self.client.clone(), self.worker.ticker.timer());
        let (worker, running) = (self.worker.clone(), Running::new(&self.streams));
        tokio::task::spawn_local(async move {
            let _running = running;
            let mut stream = Box::new(stream);
            let head = stream.take_request(&head, body).await;
            let mut client = client.borrow().of_stream(Stream::Accepted(stream), timer);
            server::answer_stream(&worker, &mut client, head).await;
        });
    }

    /// Ends the connection so that the client hears why: bytes that nobody read would reset it.
    async fn linger(self) {
        let due = self.timer.now() + CLOSING;
        let mut dropped = Buffer::default();
        let ended = std::future::poll_fn(|cx| {
            let stream = &mut self.client.borrow_mut().stream;
            if std::task::ready!(Pin::new(&mut *stream).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            while self.timer.now() < due {
                dropped.clear();
                match dropped.poll_fill(stream, server::READ, cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        });
        let _ = self.timer.before(due, ended).await;
    }
}

/// Windows were checked to be far smaller when the gateway began.
fn window(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(1 << 30)
}

/// Counts a stream for as long as its task runs.
struct Running(Rc<Cell<usize>>);

impl Running {
    fn new(streams: &Rc<Cell<usize>>) -> Self {
        streams.set(streams.get() + 1);
        Self(streams.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
