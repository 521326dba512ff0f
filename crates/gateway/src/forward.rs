//! Sends a request to an instance, to another one where that is safe, and the response back.

use std::rc::Rc;

use crate::{
    exchange::{Exchange, Failure, Relayed},
    fault::Fault,
    hedge,
    policy::Cause,
    prepare::Plan,
    record::Record,
    scratch::Scratch,
    server::Client,
    stream::Stream,
    timer::millis,
    tries::{Failed, Tries},
    tunnel::Upgraded,
    upstream::{Draw, Lease},
    worker::Worker,
};

/// What became of a request.
pub(crate) enum Outcome {
    /// The client has its response.
    Answered { keep_alive: bool },
    /// Nothing was sent to the client yet.
    Fault(Fault),
    /// The client is gone, or has half a response.
    Broken,
    /// An instance has agreed to another protocol.
    Upgraded(Box<Upgraded>),
}

pub(crate) async fn forward(
    worker: &Rc<Worker>,
    client: &mut Client,
    scratch: &mut Scratch,
    plan: &mut Plan,
    record: &mut Record,
) -> Outcome {
    let service = plan.service().clone();
    let mut admission = match service.admit(worker, &client.timer).await {
        Ok(admission) => admission,
        Err(fault) => return Outcome::Fault(fault.or_fallback(plan.route().fallback.as_ref())),
    };
    let began = client.timer.now();
    service.refresh(began);
    service.budget.deposit();
    let mut tries = Tries::new(plan);
    let key = service.key(client, scratch);
    let mut exchange = Exchange::new(worker, client, scratch, plan);
    exchange.mirror(worker);
    let mut ended = |cause| {
        if let Some(admission) = &mut admission {
            admission.ended(worker, cause);
        }
    };
    let outcome = loop {
        let draw = Draw {
            now: exchange.now(),
            key,
            random: &worker.random,
        };
        let Some(mut lease) = service.pick(tries.tried(), draw) else {
            if service.has_full_instances() {
                match service.room(exchange.timer(), began).await {
                    Ok(()) => continue,
                    Err(fault) => break Outcome::Fault(fault),
                }
            }
            if !service.nobody_up() {
                ended(Some(Cause::Connect));
            }
            break Outcome::Fault(tries.nobody_left(&service));
        };
        let mut failed = match attempt(worker, &mut exchange, &mut lease, (&tries, key)).await {
            Attempt::Answered(stream) => {
                record.instance = Some(lease.instance.id.clone());
                let status = exchange.status();
                if exchange.has_switched() {
                    ended(None);
                    record.answered(status, None);
                    break Outcome::Upgraded(Box::new(Upgraded {
                        first: exchange.begin_upgrade(),
                        instance: stream,
                        lease,
                    }));
                }
                if !tries.minds(status) {
                    ended((status >= 400).then_some(Cause::Status(status)));
                    break relay(worker, &mut exchange, &lease, stream, record).await;
                }
                answered_badly(worker, &exchange, &tries, stream)
            }
            Attempt::Failed(failed) => failed,
            Attempt::KeptClosed => {
                tries.only_new = true;
                record.retries += 1;
                lease.counters().retries.add(1);
                continue;
            }
            Attempt::End(outcome) => break outcome,
        };
        let time = (exchange.now(), exchange.due());
        let Some(wait) = tries.again(&service, &lease, &failed, time, &worker.random) else {
            ended(Some(failed.cause));
            break match failed.answer.take() {
                Some(stream) => relay(worker, &mut exchange, &lease, stream, record).await,
                None => Outcome::Fault(failed.fault),
            };
        };
        record.retries += 1;
        drop((lease, failed));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    };
    record.body_in = exchange.taken();
    match outcome {
        Outcome::Fault(fault) => Outcome::Fault(fault.or_fallback(plan.route().fallback.as_ref())),
        outcome => outcome,
    }
}

/// What became of one try.
enum Attempt {
    /// The head of a response is there.
    Answered(Stream),
    /// The instance closed a kept connection as the request went out: that says nothing about the
    /// instance, so it costs no retry.
    KeptClosed,
    Failed(Failed),
    /// There is nothing to try again.
    End(Outcome),
}

/// Sends the request to an instance and reads the head of its response.
async fn attempt(
    worker: &Worker,
    exchange: &mut Exchange<'_>,
    lease: &mut Lease,
    (tries, key): (&Tries, Option<u64>),
) -> Attempt {
    let failed = |cause, fault, safe| {
        Attempt::Failed(Failed {
            cause,
            fault,
            safe,
            answer: None,
            retry_after: None,
        })
    };
    let replayable = tries.repeatable && !exchange.streamed();
    let kept = if tries.only_new {
        None
    } else {
        lease.reuse(!replayable)
    };
    let kept_one = kept.is_some();
    let mut stream = match kept {
        Some(stream) => stream,
        None => match connect(worker, exchange, lease).await {
            Ok(stream) => stream,
            Err(fault) => return failed(Cause::Connect, fault, true),
        },
    };
    let begun = lease.is_timed().then(|| worker.clock.monotonic());
    let head = match tries.hedge {
        None => exchange.response_head(&mut stream).await,
        Some(after) => {
            let connection = (&mut *lease, &mut stream);
            // On the heap, because every request would have to keep room for it otherwise.
            Box::pin(hedge::race(worker, exchange, connection, after, key)).await
        }
    };
    if let Some(begun) = begun
        && matches!(head, Ok(()) | Err(Failure::Timeout { .. }))
    {
        let took = worker.clock.monotonic().saturating_sub(begun);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        lease.took(micros, exchange.now());
    }
    let failure = match head {
        Ok(()) => {
            lease.answered(exchange.status(), exchange.now());
            return Attempt::Answered(stream);
        }
        Err(failure) => failure,
    };
    let service = exchange.service_name();
    let counters = lease.counters();
    match failure {
        Failure::Client(fault) => Attempt::End(Outcome::Fault(fault)),
        Failure::ClientGone => Attempt::End(Outcome::Broken),
        Failure::Timeout { heard } => {
            counters.timeouts.add(1);
            lease.failed(Cause::Timeout, exchange.now());
            let safe = tries.repeatable && !heard && !exchange.streamed();
            failed(Cause::Timeout, exchange.timeout_fault(), safe)
        }
        Failure::Nonsense(why) => {
            counters.failures.add(1);
            lease.failed(Cause::Reset, exchange.now());
            failed(Cause::Reset, Fault::upstream_failed(service, why), false)
        }
        Failure::HungUp { heard } => {
            let reused = kept_one || stream.is_reused();
            let repeatable = tries.repeatable || stream.was_refused();
            let safe = repeatable && !heard && !exchange.streamed();
            if reused && safe && !tries.only_new {
                return Attempt::KeptClosed;
            }
            counters.failures.add(1);
            lease.failed(Cause::Reset, exchange.now());
            let fault = Fault::upstream_failed(service, "it hung up");
            failed(Cause::Reset, fault, safe)
        }
    }
}

/// An answer whose status the route wants to be tried again, if that is possible.
fn answered_badly(
    worker: &Worker,
    exchange: &Exchange<'_>,
    tries: &Tries,
    stream: Stream,
) -> Failed {
    let status = exchange.status();
    let why = format!("it answered {status}");
    Failed {
        cause: Cause::Status(status),
        fault: Fault::upstream_failed(exchange.service_name(), &why),
        safe: tries.repeatable && !exchange.streamed(),
        answer: Some(stream),
        retry_after: exchange.retry_after(worker.clock.now()),
    }
}

async fn connect(worker: &Worker, exchange: &Exchange<'_>, lease: &Lease) -> Result<Stream, Fault> {
    let limit = exchange.connect_timeout();
    let due = (exchange.now() + millis(limit)).min(exchange.total_due());
    let connect = lease.connect(worker, exchange.protocol(), exchange.total_due());
    let (service, now) = (exchange.service_name(), || exchange.now());
    let random = || worker.random.next();
    match exchange.timer().before(due, connect).await {
        Ok(Ok(stream)) => {
            if !stream.is_reused() {
                lease.connected(now());
            }
            Ok(stream)
        }
        Ok(Err(error)) => {
            tracing::debug!(instance = %lease.instance.id, %error, "cannot connect to an instance");
            lease.connect_failed(now(), random());
            Err(Fault::unreachable(service))
        }
        Err(_) => {
            tracing::debug!(instance = %lease.instance.id, "connecting to an instance took too long");
            lease.connect_failed(now(), random());
            Err(if now() >= exchange.total_due() {
                Fault::total_timeout(service)
            } else {
                Fault::connect_timeout(service, limit)
            })
        }
    }
}

async fn relay(
    worker: &Worker,
    exchange: &mut Exchange<'_>,
    lease: &Lease,
    mut stream: Stream,
    record: &mut Record,
) -> Outcome {
    let response = match exchange.begin_response() {
        Ok(response) => response,
        Err(why) => {
            lease.counters().failures.add(1);
            let service = exchange.service_name();
            return Outcome::Fault(Fault::upstream_failed(service, why));
        }
    };
    record.answered(exchange.status(), None);
    let keep_alive = response.keep_alive;
    let reusable = response.reusable;
    let relayed = exchange
        .relay(&mut stream, response, &mut record.body_out)
        .await;
    match relayed {
        Relayed::Whole => {
            if reusable && exchange.instance_is_done() {
                let most = worker.shared.config.limits.upstream_idle_connections;
                lease.keep(stream, exchange.now(), most);
            }
            Outcome::Answered {
                keep_alive: keep_alive && exchange.request_sent(),
            }
        }
        Relayed::InstanceBroke => {
            lease.counters().failures.add(1);
            record.failed("gateway.upstream_failed");
            Outcome::Broken
        }
        Relayed::Stalled => {
            lease.counters().timeouts.add(1);
            record.failed("gateway.upstream_idle");
            Outcome::Broken
        }
        Relayed::OutOfTime => {
            lease.counters().timeouts.add(1);
            record.failed("gateway.total_timeout");
            Outcome::Broken
        }
        Relayed::ClientGone => Outcome::Broken,
    }
}
