//! A client's connection, from its first request to its last.

use std::{
    net::SocketAddr,
    rc::Rc,
    task::{Poll, ready},
};

use tokio::io::AsyncWriteExt;

use crate::{
    fault::Fault,
    forward::{self, Outcome},
    h1::{self, HeadScan, Scanned},
    h2, prepare,
    record::Record,
    scratch::Scratch,
    stream::Stream,
    timer::{Elapsed, Millis, Timer, millis},
    tunnel::{self, Ended},
    worker::Worker,
};

/// The client's side of a connection.
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) peer: SocketAddr,
    pub(crate) timer: Timer,
    /// The header lines that are the same for all requests of this client: who it is, if it has shown
    /// that, and where it came from.
    pub(crate) forwarding: String,
    /// It has shown a certificate that is good.
    pub(crate) certified: bool,
}

/// What becomes of a connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    KeepAlive,
    Close,
    /// The client may still be sending: read on for a moment, because closing a socket with unread
    /// bytes resets it and can take the response away from the client.
    Linger,
    /// The client speaks HTTP/2 from here on.
    Http2,
}

/// What comes in on a connection.
enum Next {
    /// A whole head of this many bytes.
    Head { length: usize },
    /// Not a byte yet: the event loop was wrong, or hoped that the first bytes came at once.
    Nothing,
    /// The client ended.
    End,
}

/// How much is read at once from a client.
pub(crate) const READ: usize = 8 << 10;
/// How long that may take: as a whole, between two reads, and as a whole while the gateway drains.
const LINGER: Millis = 30_000;
const LINGER_BETWEEN: Millis = 5_000;
const LINGER_DRAINING: Millis = 1_000;

impl Client {
    fn new(worker: &Worker, stream: Stream, peer: SocketAddr) -> Self {
        let ip = peer.ip().to_canonical();
        let node = if ip.is_ipv6() {
            format!("\"[{ip}]\"")
        } else {
            ip.to_string()
        };
        let forwarding = match stream.tls() {
            None => format!(
                "x-forwarded-for: {ip}\r\nx-forwarded-proto: http\r\nforwarded: for={node};proto=http"
            ),
            Some(tls) => format!(
                "{}x-forwarded-for: {ip}\r\nx-forwarded-proto: https\r\nx-forwarded-port: {}\r\n\
                 forwarded: for={node};proto=https",
                tls.identity().unwrap_or_default(),
                worker.shared.tls_port,
            ),
        };
        Self {
            certified: stream.tls().is_some_and(|tls| tls.identity().is_some()),
            timer: worker.ticker.timer(),
            stream,
            peer,
            forwarding,
        }
    }

    /// What it speaks, as ALPN calls it, given the minor version of a request's head.
    pub(crate) fn protocol(&self, minor: u8) -> &'static str {
        match (&self.stream, minor) {
            (Stream::Accepted(_), _) => "h2",
            (_, 0) => "http/1.0",
            _ => "http/1.1",
        }
    }

    /// The same client, as far as one stream of its connection goes.
    pub(crate) fn of_stream(&self, stream: Stream, timer: Timer) -> Self {
        Self {
            stream,
            peer: self.peer,
            timer,
            forwarding: self.forwarding.clone(),
            certified: self.certified,
        }
    }
}

/// Answers requests until the connection ends.
pub(crate) async fn serve(worker: &Rc<Worker>, stream: Stream, peer: SocketAddr) {
    let mut client = Client::new(worker, stream, peer);
    if client.stream.alpn() == Some(b"h2") {
        return Box::pin(h2::serve(worker, client, &[])).await;
    }
    let mut first = true;
    while wait(worker, &mut client).await {
        let mut scratch = worker.scratch();
        let after = answer_all(worker, &mut client, &mut scratch, &mut first).await;
        if after == After::Http2 {
            let first = scratch.input.unread().to_vec();
            worker.give_back(scratch);
            return Box::pin(h2::serve(worker, client, &first)).await;
        }
        worker.give_back(scratch);
        match after {
            After::KeepAlive => {}
            // Nothing tells the client that this was meant: half a response must not seem whole.
            After::Close | After::Http2 => return,
            After::Linger => return linger(worker, client).await,
        }
    }
    client.stream.end();
}

/// Waits for the first byte of a request. `false` when the connection should end instead.
async fn wait(worker: &Worker, client: &mut Client) -> bool {
    let due = client.timer.now() + millis(worker.shared.config.limits.idle_timeout);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(ready) = client.stream.poll_read_ready(cx) {
            return Poll::Ready(ready.is_ok());
        }
        if worker.hurries() || client.timer.arm(due, cx).is_err() {
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await
}

/// Answers the request that is coming in, and those that follow on its heels.
/// `first` is set until a head was read.
async fn answer_all(
    worker: &Rc<Worker>,
    client: &mut Client,
    scratch: &mut Scratch,
    first: &mut bool,
) -> After {
    loop {
        match read_head(worker, client, scratch).await {
            Ok(Next::Nothing) => return After::KeepAlive,
            Ok(Next::End) => return After::Close,
            Ok(Next::Head { .. }) if *first && scratch.input.unread().starts_with(h2::PREFACE) => {
                return After::Http2;
            }
            Ok(Next::Head { .. }) if *first && h1::is_foreign(scratch.input.unread()) => {
                // A status line would be one more thing that whoever speaks it does not understand.
                worker.counters().malformed.add(1);
                tracing::debug!(peer = %client.peer.ip(), "a client speaks no HTTP");
                return After::Linger;
            }
            Ok(Next::Head { length }) => {
                *first = false;
                match answer(worker, client, scratch, length).await {
                    After::KeepAlive if scratch.input.is_empty() => return After::KeepAlive,
                    After::KeepAlive => {}
                    after => return after,
                }
            }
            Err(fault) => return refuse(worker, client, scratch, &fault).await,
        }
    }
}

/// The head of a stream's request in the form of HTTP/1.1, and what there is of its body behind it.
pub(crate) struct StreamHead {
    pub(crate) bytes: Vec<u8>,
    length: usize,
}

impl StreamHead {
    pub(crate) fn new(head: Vec<u8>) -> Self {
        Self {
            length: head.len(),
            bytes: head,
        }
    }
}

/// Answers the one request of an HTTP/2 stream.
pub(crate) async fn answer_stream(
    worker: &Rc<Worker>,
    client: &mut Client,
    head: Result<StreamHead, Fault>,
) {
    let mut scratch = worker.scratch();
    let after = match head {
        Ok(head) => {
            scratch.input.tail().extend_from_slice(&head.bytes);
            // What there is of the body already: a request that is all there can be sent again.
            let Client { stream, .. } = &mut *client;
            std::future::poll_fn(|cx| {
                let _ = scratch.input.poll_fill(stream, READ, cx);
                Poll::Ready(())
            })
            .await;
            answer(worker, client, &mut scratch, head.length).await
        }
        Err(fault) => refuse(worker, client, &mut scratch, &fault).await,
    };
    debug_assert_ne!(after, After::Http2);
    worker.give_back(scratch);
}

/// Answers what is no request.
async fn refuse(
    worker: &Rc<Worker>,
    client: &mut Client,
    scratch: &mut Scratch,
    fault: &Fault,
) -> After {
    worker.counters().malformed.add(1);
    scratch.forget();
    let mut record = Record::new(worker);
    let after = reply(worker, client, scratch, fault, false, &mut record).await;
    record.finish(worker, client, scratch);
    after
}

/// Reads until a whole head is there.
async fn read_head(
    worker: &Worker,
    client: &mut Client,
    scratch: &mut Scratch,
) -> Result<Next, Fault> {
    let limits = &worker.shared.config.limits;
    let most = usize::try_from(limits.head_bytes).unwrap_or(usize::MAX);
    let due = client.timer.now() + millis(limits.head_timeout);
    let mut scan = HeadScan::default();
    let mut begun = false;
    std::future::poll_fn(|cx| {
        loop {
            if !begun {
                // RFC 9112 §2.2: one empty line before a request is forgiven, as old clients send
                // one after a body.
                if scratch.input.unread().starts_with(b"\r\n") {
                    scratch.input.consume(2);
                    begun = true;
                } else if scratch.input.len() >= 2 {
                    begun = true;
                }
            }
            if begun {
                match scan.next(scratch.input.unread()) {
                    Scanned::End(length) if length > most => return too_long(),
                    Scanned::End(length) => return Poll::Ready(Ok(Next::Head { length })),
                    Scanned::BareLineFeed => {
                        return Poll::Ready(Err(Fault::malformed(
                            "a line of the head does not end with CR LF",
                        )));
                    }
                    Scanned::Partial if scratch.input.len() >= most => return too_long(),
                    Scanned::Partial => {}
                }
            }
            match scratch.input.poll_fill(&mut client.stream, READ, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(Next::End)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending if scratch.input.is_empty() => return Poll::Ready(Ok(Next::Nothing)),
                Poll::Pending => {
                    return match client.timer.arm(due, cx) {
                        Ok(()) => Poll::Pending,
                        Err(Elapsed) => Poll::Ready(Err(Fault::request_timeout())),
                    };
                }
            }
        }
    })
    .await
}

fn too_long() -> Poll<Result<Next, Fault>> {
    Poll::Ready(Err(Fault::head_too_large("the request's head is too long")))
}

/// Answers one request, whose head of `length` bytes is there.
async fn answer(
    worker: &Rc<Worker>,
    client: &mut Client,
    scratch: &mut Scratch,
    length: usize,
) -> After {
    let mut record = Record::new(worker);
    let after = match prepare::prepare(worker, client, scratch, length, &mut record) {
        Ok(mut plan) => {
            match forward::forward(worker, client, scratch, &mut plan, &mut record).await {
                Outcome::Answered { keep_alive: true } => After::KeepAlive,
                Outcome::Answered { keep_alive: false }
                    if plan.request_left()
                        || plan.upgrade
                        || !scratch.input.is_empty()
                        // The end that TLS knows must get there before the socket's.
                        || client.stream.tls().is_some() =>
                {
                    After::Linger
                }
                Outcome::Answered { keep_alive: false } | Outcome::Broken => After::Close,
                Outcome::Upgraded(upgraded) => {
                    match tunnel::run(worker, client, scratch, upgraded, &mut record).await {
                        Ended::Whole | Ended::InstanceBroke => After::Linger,
                        Ended::ClientBroke | Ended::Idle | Ended::Stopped => After::Close,
                    }
                }
                Outcome::Fault(fault) => {
                    let keep_alive =
                        plan.framing.keep_alive && !plan.request_left() && !plan.upgrade;
                    reply(worker, client, scratch, &fault, keep_alive, &mut record).await
                }
            }
        }
        Err(fault) => {
            if fault.close {
                worker.counters().malformed.add(1);
            }
            let keep_alive =
                !fault.close && prepare::skip_body(scratch) && !scratch.head.asks_for_upgrade();
            reply(worker, client, scratch, &fault, keep_alive, &mut record).await
        }
    };
    record.finish(worker, client, scratch);
    after
}

/// Sends an answer of the gateway's own.
async fn reply(
    worker: &Worker,
    client: &mut Client,
    scratch: &mut Scratch,
    fault: &Fault,
    keep_alive: bool,
    record: &mut Record,
) -> After {
    let close = fault.close || !keep_alive || worker.draining();
    let to_head = scratch.head.method() == "HEAD";
    let Scratch {
        output,
        request_id,
        head,
        ..
    } = &mut *scratch;
    let common = |to: &mut Vec<u8>| {
        worker.push_date(to);
        if !request_id.is_empty() {
            to.extend_from_slice(b"x-request-id: ");
            to.extend_from_slice(request_id.as_bytes());
            to.extend_from_slice(b"\r\n");
        }
        if !close && head.minor == 0 {
            to.extend_from_slice(b"connection: keep-alive\r\n");
        }
    };
    let sent = if client.stream.is_call() && fault.logged_code().is_some() {
        fault.render_to_call(output.tail(), common);
        0
    } else {
        fault.render(to_head, close, output.tail(), common)
    };
    record.answered(fault.status, fault.logged_code());
    record.body_out = sent as u64;
    let due = client.timer.now() + millis(worker.shared.config.limits.body_timeout);
    let flush = std::future::poll_fn(|cx| {
        let flushed = ready!(scratch.output.poll_flush(&mut client.stream, cx));
        Poll::Ready(flushed.is_ok())
    });
    match client.timer.before(due, flush).await {
        Ok(true) if close => After::Linger,
        Ok(true) => After::KeepAlive,
        Ok(false) | Err(Elapsed) => After::Close,
    }
}

/// Ends the connection in both directions, gently and within bounds: what the client still sends is
/// read and dropped.
async fn linger(worker: &Worker, mut client: Client) {
    let begun = client.timer.now();
    let Client { stream, timer, .. } = &mut client;
    let shut = timer.before(begun + LINGER_BETWEEN, stream.shutdown());
    if !matches!(shut.await, Ok(Ok(()))) {
        return;
    }
    let mut scratch = worker.scratch();
    let mut heard = begun;
    std::future::poll_fn(|cx| {
        loop {
            let whole = if worker.draining() {
                LINGER_DRAINING
            } else {
                LINGER
            };
            let due = (begun + whole).min(heard + LINGER_BETWEEN);
            match scratch.input.poll_fill(stream, READ, cx) {
                Poll::Ready(Ok(1..)) if timer.now() < due => heard = timer.now(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    return match timer.arm(due, cx) {
                        Ok(()) => Poll::Pending,
                        Err(Elapsed) => Poll::Ready(()),
                    };
                }
            }
            scratch.input.clear();
        }
    })
    .await;
    worker.give_back(scratch);
}
