//! A second instance is asked when the first takes too long to answer, and whoever answers first is
//! heard ("The Tail at Scale", Dean, Barroso 2013).

use std::{io, pin::pin, time::Duration};

use tokio::io::AsyncWriteExt;

use crate::{
    exchange::{DOWNLOAD, Exchange, Failure},
    h1::Buffer,
    policy::Cause,
    protocol::Protocol,
    stream::Stream,
    timer::{Millis, millis},
    upstream::{Draw, Lease},
    worker::Worker,
};

/// Who was heard first.
enum First {
    Asked(Result<(), Failure>),
    Second(io::Result<(Stream, Buffer)>),
}

/// Reads the head of a response; from another instance, if the one of `lease` says nothing for so long
/// and another one is faster then. `lease` and `stream` are the winner's afterwards.
pub(crate) async fn race(
    worker: &Worker,
    exchange: &mut Exchange<'_>,
    (lease, stream): (&mut Lease, &mut Stream),
    after: Duration,
    key: Option<u64>,
) -> Result<(), Failure> {
    exchange.begin_try();
    tokio::select! {
        biased;
        head = exchange.await_head(stream) => return head,
        () = tokio::time::sleep(after) => {}
    }
    let draw = Draw {
        now: exchange.now(),
        key,
        random: &worker.random,
    };
    let other = if exchange.heard() {
        None
    } else {
        exchange.service().second(lease, draw)
    };
    let Some(other) = other else {
        return exchange.await_head(stream).await;
    };
    other.counters().resilience.hedges.add(1);
    let limit = exchange.connect_timeout();
    let request = (exchange.request().to_vec(), exchange.protocol());
    let (new_stream, said) = {
        let mut second = pin!(ask(worker, &other, request, limit));
        let first = tokio::select! {
            biased;
            head = exchange.await_head(stream) => First::Asked(head),
            said = &mut second => First::Second(said),
        };
        match first {
            First::Asked(Err(Failure::HungUp { heard: false })) => {
                lease.failed(Cause::Reset, exchange.now());
                match exchange.timer().before(exchange.due(), second).await {
                    Ok(Ok(said)) => said,
                    _ => return Err(Failure::HungUp { heard: false }),
                }
            }
            First::Asked(head) => return head,
            First::Second(Err(error)) => {
                tracing::debug!(instance = %other.instance.id, %error, "the second instance does not answer");
                return exchange.await_head(stream).await;
            }
            First::Second(Ok(said)) => {
                // One that loses again and again is as ill as one that times out, and nobody would ever
                // see it time out.
                lease.failed(Cause::Timeout, exchange.now());
                said
            }
        }
    };
    other.counters().resilience.hedges_won.add(1);
    exchange.adopt(said);
    *stream = new_stream;
    *lease = other;
    exchange.await_head(stream).await
}

/// Sends a request without a body and waits for the first bytes of its answer. The caller limits the
/// time.
async fn ask(
    worker: &Worker,
    lease: &Lease,
    (request, protocol): (Vec<u8>, Option<Protocol>),
    limit: Duration,
) -> io::Result<(Stream, Buffer)> {
    let mut stream = match lease.reuse(false) {
        Some(stream) => stream,
        None => {
            let timer = worker.ticker.timer();
            let connect = lease.connect(worker, protocol, Millis::MAX);
            let connected = timer.before(timer.now() + millis(limit), connect).await;
            match connected {
                Ok(Ok(stream)) => {
                    if !stream.is_reused() {
                        lease.connected(timer.now());
                    }
                    stream
                }
                Ok(Err(error)) => {
                    lease.connect_failed(timer.now(), worker.random.next());
                    return Err(error);
                }
                Err(_) => {
                    lease.connect_failed(timer.now(), worker.random.next());
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    };
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut said = Buffer::default();
    let read = std::future::poll_fn(|cx| said.poll_fill(&mut stream, DOWNLOAD, cx));
    if read.await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((stream, said))
}
