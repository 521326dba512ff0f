//! One request and its response on their way between a client and an instance, both directions at
//! once, within bounded memory: what one side sends is only read as fast as the other side takes it.

mod download;
mod interim;

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, UNIX_EPOCH},
};

use sinew_core::Timestamp;
use tokio::io::AsyncWrite;

use crate::{
    fault::Fault,
    h1::{Body, Buffer, HeadScan, Piece, push_chunk, push_last_chunk},
    mirror,
    prepare::Plan,
    protocol::Protocol,
    scratch::Scratch,
    server::{Client, READ},
    stream::Stream,
    timer::{Elapsed, Millis, Timer, millis},
    upstream::Service,
    worker::Worker,
};

use interim::Interims;

pub(crate) use download::Relayed;

pub(crate) struct Exchange<'a> {
    worker: &'a Worker,
    client: &'a mut Client,
    scratch: &'a mut Scratch,
    plan: &'a mut Plan,
    upload: Upload,
    /// How much of `scratch.request` this instance was sent.
    sent: usize,
    /// Bytes of the request's body read from the client.
    taken: u64,
    /// Part of the body is gone: the request cannot be sent again.
    streamed: bool,
    /// Interim responses wait in the output.
    interim: bool,
    interims: Interims,
    /// When a client that waits for `100 Continue` hears it from the gateway, if from nobody else.
    continue_due: Millis,
    /// When the response's head must be there, given that the request is sent.
    answer_due: Millis,
    timeout: Millis,
    /// When this try must have its answer.
    try_due: Millis,
    /// When the response must be whole.
    total_due: Millis,
    body_timeout: Millis,
    /// How long the response may stand still.
    idle_timeout: Millis,
    /// When anything last moved.
    moved: Millis,
}

/// How far the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// Going on; `starved` while the client owes the next bytes.
    Running {
        starved: bool,
    },
    Done,
    /// The instance takes no more. It may have answered, though.
    Stopped,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client's request turned out wrong, or late.
    Client(Fault),
    ClientGone,
    /// The instance closed the connection; `heard` when it had begun to answer.
    HungUp {
        heard: bool,
    },
    /// The instance's answer is no HTTP.
    Nonsense(&'static str),
    /// No answer in time; `heard` when it had begun to answer.
    Timeout {
        heard: bool,
    },
}

enum Halt {
    Client(Fault),
    ClientGone,
    Instance,
}

/// How much is read at once from an instance.
pub(crate) const DOWNLOAD: usize = 16 << 10;
/// How much may wait to be written in one direction.
const MOST_WAITING: usize = 32 << 10;
/// A body of this size that came with its head can be sent again to another instance.
const MOST_WHOLE: u64 = 64 << 10;
/// How often a direction reads before the other one gets its turn, however much there is to read.
pub(crate) const MOST_ROUNDS: usize = 16;
/// How long an instance may take to say `100 Continue`. Many servers never do, and some clients wait
/// for it without end.
const CONTINUE_WAIT: Millis = 1_000;

impl<'a> Exchange<'a> {
    pub(crate) fn new(
        worker: &'a Worker,
        client: &'a mut Client,
        scratch: &'a mut Scratch,
        plan: &'a mut Plan,
    ) -> Self {
        let now = client.timer.now();
        let (route, limits) = (plan.route(), &worker.shared.config.limits);
        let timeout = millis(route.timeout);
        let total_due = route
            .total_timeout
            .map_or(Millis::MAX, |limit| now + millis(limit))
            .min(plan.call.as_ref().map_or(Millis::MAX, |call| call.due));
        // Calls that wait for news are silent for long, like upgraded connections.
        let still = if plan.call.is_some() {
            limits.upgraded_idle_timeout.max(limits.body_timeout)
        } else {
            limits.body_timeout
        };
        let idle_timeout = millis(route.idle_timeout.unwrap_or(still));
        let mut taken = 0;
        if let Some(length @ 1..=MOST_WHOLE) = plan.framing.body.left()
            && length <= scratch.input.len() as u64
        {
            scratch
                .request
                .extend_from_slice(&scratch.input.unread()[..length as usize]);
            scratch.input.consume(length as usize);
            plan.framing.body = Body::none();
            taken = length;
        }
        scratch.upload.clear();
        scratch.output.clear();
        Self {
            upload: Upload::Running { starved: false },
            sent: 0,
            taken,
            streamed: false,
            interim: false,
            interims: Interims::default(),
            continue_due: now + CONTINUE_WAIT,
            answer_due: now + timeout,
            timeout,
            try_due: Millis::MAX,
            total_due,
            body_timeout: millis(still),
            idle_timeout,
            moved: now,
            worker,
            client,
            scratch,
            plan,
        }
    }

    /// Sends a copy to whom the route's mirror names, if all of the request is there.
    pub(crate) fn mirror(&self, worker: &Rc<Worker>) {
        if self.plan.framing.body.is_done()
            && let Some((mirror, service)) = self.plan.mirror(worker)
        {
            mirror::send(worker, service, mirror, &self.scratch.request);
        }
    }

    pub(crate) fn timer(&self) -> &Timer {
        &self.client.timer
    }

    pub(crate) fn now(&self) -> Millis {
        self.client.timer.now()
    }

    /// Whether part of the request's body cannot be sent again.
    pub(crate) fn streamed(&self) -> bool {
        self.streamed
    }

    /// Bytes of the request's body read from the client.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    pub(crate) fn request_sent(&self) -> bool {
        self.upload == Upload::Done
    }

    /// Whether the instance has the whole request and owes nothing, nor sent more than it owed.
    pub(crate) fn instance_is_done(&self) -> bool {
        self.upload == Upload::Done && self.scratch.download.is_empty()
    }

    /// When the head of a response must be there, whoever sends it.
    pub(crate) fn due(&self) -> Millis {
        self.answer_due.min(self.total_due)
    }

    /// When the response must be whole.
    pub(crate) fn total_due(&self) -> Millis {
        self.total_due
    }

    /// What the route says that the instances speak.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        self.plan.route().protocol
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.plan.route().connect_timeout
    }

    /// What the client is told when there is no head of a response in time.
    pub(crate) fn timeout_fault(&self) -> Fault {
        let service = self.service_name();
        if self.now() >= self.total_due {
            Fault::total_timeout(service)
        } else {
            Fault::upstream_timeout(service)
        }
    }

    /// How long the instance wants to be left alone (RFC 9110 §10.2.3), if it says so.
    pub(crate) fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let mut fields = self.scratch.response.fields();
        let named = |name: &[u8]| name.eq_ignore_ascii_case(b"retry-after");
        let (_, _, value) = fields.find(|(_, name, _)| named(name))?;
        let text = std::str::from_utf8(value).ok()?;
        match text.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                let moment = httpdate::parse_http_date(text).ok()?;
                let since = moment.duration_since(UNIX_EPOCH).ok()?;
                Some(since.saturating_sub(Duration::from_millis(now.as_millis())))
            }
        }
    }

    pub(crate) fn status(&self) -> u16 {
        self.scratch.response.status
    }

    pub(crate) fn service(&self) -> &Rc<Service> {
        self.plan.service()
    }

    pub(crate) fn service_name(&self) -> &str {
        self.plan.service().name.as_str()
    }

    /// Sends the request and reads the head of the response, from a connection that is new to this
    /// exchange.
    pub(crate) async fn response_head(&mut self, instance: &mut Stream) -> Result<(), Failure> {
        self.begin_try();
        self.await_head(instance).await
    }

    /// Nothing was sent on the next connection, nor heard.
    pub(crate) fn begin_try(&mut self) {
        self.upload = Upload::Running { starved: false };
        self.sent = 0;
        self.interims = Interims::default();
        self.scratch.download.clear();
        let try_timeout = self.plan.route().try_timeout;
        self.try_due = try_timeout.map_or(Millis::MAX, |limit| self.now() + millis(limit));
    }

    /// Whether the instance has said anything.
    pub(crate) fn heard(&self) -> bool {
        !self.scratch.download.is_empty() || self.interims.heard()
    }

    /// The request as an instance is sent it.
    pub(crate) fn request(&self) -> &[u8] {
        &self.scratch.request
    }

    /// Goes on with another instance, which was sent the request and began to answer with this.
    pub(crate) fn adopt(&mut self, said: Buffer) {
        self.scratch.download = said;
        self.sent = self.scratch.request.len();
        self.upload = Upload::Done;
        self.moved = self.now();
    }

    /// What is left of [`response_head`](Self::response_head), which may have been given up in the
    /// middle.
    pub(crate) async fn await_head(&mut self, instance: &mut Stream) -> Result<(), Failure> {
        let mut scan = HeadScan::default();
        std::future::poll_fn(|cx| {
            if let Err(halt) = self.continue_upload(instance, cx) {
                return Poll::Ready(Err(halt));
            }
            if let Poll::Ready(outcome) = self.poll_head(instance, &mut scan, cx) {
                return Poll::Ready(outcome);
            }
            let starved = self.upload == Upload::Running { starved: true };
            if self.plan.framing.expects_continue && starved {
                self.continue_in_time(cx);
            }
            if (self.interim && self.flush_interims(cx).is_err()) || self.client_left(cx) {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            let starved_due = self.moved + self.body_timeout;
            let due = if starved {
                starved_due.min(self.total_due)
            } else {
                self.due().min(self.try_due)
            };
            match self.client.timer.arm(due, cx) {
                Ok(()) => Poll::Pending,
                // The client is late, not the instance.
                Err(Elapsed) if starved && self.now() >= starved_due => {
                    Poll::Ready(Err(Failure::Client(Fault::request_timeout())))
                }
                Err(Elapsed) if starved => Poll::Ready(Err(Failure::Client(self.timeout_fault()))),
                Err(Elapsed) => Poll::Ready(Err(Failure::Timeout {
                    heard: self.heard(),
                })),
            }
        })
        .await
    }

    /// Says `100 Continue` in the instance's place, when it was waited for long enough.
    fn continue_in_time(&mut self, cx: &mut Context<'_>) {
        if self.taken == 0 && self.client.timer.arm(self.continue_due, cx).is_err() {
            self.plan.framing.expects_continue = false;
            self.interim = true;
            let to = self.scratch.output.tail();
            to.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    fn flush_interims(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        let flushed = self.scratch.output.poll_flush(&mut self.client.stream, cx);
        self.interim = flushed.is_pending();
        match flushed {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    fn continue_upload(
        &mut self,
        instance: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if !matches!(self.upload, Upload::Running { .. }) {
            return Ok(());
        }
        match self.poll_upload(instance, cx) {
            Poll::Ready(Ok(())) => self.upload = Upload::Done,
            Poll::Ready(Err(Halt::Instance)) => self.upload = Upload::Stopped,
            Poll::Ready(Err(Halt::Client(fault))) => return Err(Failure::Client(fault)),
            Poll::Ready(Err(Halt::ClientGone)) => return Err(Failure::ClientGone),
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Sends on; ready when the whole request is sent.
    fn poll_upload(
        &mut self,
        instance: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Halt>> {
        self.upload = Upload::Running { starved: false };
        let mut rounds = 0;
        loop {
            while self.sent < self.scratch.request.len() {
                let rest = &self.scratch.request[self.sent..];
                match ready!(Pin::new(&mut *instance).poll_write(cx, rest)) {
                    Ok(count) if count > 0 => self.sent += count,
                    _ => return Poll::Ready(Err(Halt::Instance)),
                }
            }
            while !self.scratch.upload.is_empty() {
                let before = self.scratch.upload.len();
                let flushed = self.scratch.upload.poll_flush(instance, cx);
                if self.scratch.upload.len() < before {
                    self.progress();
                }
                if ready!(flushed).is_err() {
                    return Poll::Ready(Err(Halt::Instance));
                }
            }
            if self.plan.framing.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            if self.take_body()? {
                continue;
            }
            self.upload = Upload::Running { starved: true };
            let Client { stream, .. } = &mut *self.client;
            match ready!(self.scratch.input.poll_fill(stream, READ, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Halt::ClientGone)),
                Ok(_) => {
                    self.progress();
                    self.upload = Upload::Running { starved: false };
                    rounds += 1;
                    if rounds == MOST_ROUNDS {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// A body that is being sent gives the instance more time to answer.
    fn progress(&mut self) {
        self.moved = self.now();
        self.answer_due = self.moved + self.timeout;
        if let Some(limit) = self.plan.route().try_timeout {
            self.try_due = self.moved + millis(limit);
        }
    }

    /// Moves what there is of the request's body from the input to the upload. `false` when there
    /// is nothing.
    fn take_body(&mut self) -> Result<bool, Halt> {
        let Scratch {
            input,
            upload,
            head,
            ..
        } = &mut *self.scratch;
        let (limit, chunked) = (self.plan.route().max_body, self.plan.chunked);
        let body = &mut self.plan.framing.body;
        let mut moved = false;
        while !body.is_done() && upload.len() < MOST_WAITING {
            let piece = body
                .next(input.unread())
                .map_err(|fault| Halt::Client(Fault::malformed(fault.0)))?;
            match piece {
                Piece::Data { skip, length } => {
                    self.taken += length as u64;
                    if self.taken > limit {
                        return Err(Halt::Client(Fault::body_too_large(limit)));
                    }
                    let data = &input.unread()[skip..skip + length];
                    if chunked {
                        push_chunk(data, upload.tail());
                    } else {
                        upload.tail().extend_from_slice(data);
                    }
                    input.consume(skip + length);
                    self.streamed = true;
                    moved = true;
                }
                Piece::Wait { skip } => {
                    input.consume(skip);
                    self.streamed |= skip > 0;
                    return Ok(moved);
                }
                Piece::End { skip, trailers } => {
                    if chunked {
                        let section = &input.unread()[skip - trailers..skip];
                        let ends_here = |name: &[u8]| head.connection_names(name);
                        push_last_chunk(section, ends_here, upload.tail())
                            .map_err(|fault| Halt::Client(Fault::malformed(fault.0)))?;
                    }
                    input.consume(skip);
                    self.streamed = true;
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Notices a client that hung up while it waits. What it sends meanwhile is its next request.
    fn client_left(&mut self, cx: &mut Context<'_>) -> bool {
        if self.upload != Upload::Done || !self.scratch.input.is_empty() {
            return self.client.stream.has_left(cx);
        }
        let read = self
            .scratch
            .input
            .poll_fill(&mut self.client.stream, READ, cx);
        matches!(read, Poll::Ready(Ok(0) | Err(_)))
    }
}
