//! Sends a request to an instance, to another one where that is safe, and the response back.

use std::{rc::Rc, time::Duration};

use crate::{
    exchange::{Exchange, Failure, Relayed},
    fault::Fault,
    prepare::Plan,
    record::Record,
    scratch::Scratch,
    server::Client,
    stream::Stream,
    timer::millis,
    tunnel::Upgraded,
    upstream::{Instance, Lease},
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
    worker: &Worker,
    client: &mut Client,
    scratch: &mut Scratch,
    plan: &mut Plan,
    record: &mut Record,
) -> Outcome {
    let service = plan.service().clone();
    let route = plan.route();
    let (mut retries, connect_timeout) = (route.retries, route.connect_timeout);
    let idempotent = plan.idempotent;
    service.refresh();
    service.budget.deposit();
    let mut tried: Vec<Rc<Instance>> = Vec::new();
    // After a kept connection failed the next is a new one, or every kept one might be tried.
    // One that is going to speak another protocol is of no use to the pool afterwards anyway.
    let mut only_new = plan.upgrade;
    let mut exchange = Exchange::new(worker, client, scratch, plan);
    let mut last = None;
    let outcome = loop {
        let Some(lease) = service.pick(&tried, exchange.now(), &worker.random) else {
            break Outcome::Fault(last.unwrap_or_else(|| {
                let none = service.nobody_up();
                let name = service.name.as_str();
                if none {
                    Fault::no_instance(name)
                } else {
                    Fault::unreachable(name)
                }
            }));
        };
        let replayable = idempotent && !exchange.streamed();
        let kept = if only_new {
            None
        } else {
            lease.reuse(!replayable)
        };
        let reused = kept.is_some();
        let stream = match kept {
            Some(stream) => Some(stream),
            None => connect(&exchange, &lease, connect_timeout).await,
        };
        let (fault, safe) = match stream {
            None => (Fault::unreachable(service.name.as_str()), true),
            Some(mut stream) => match exchange.response_head(&mut stream).await {
                Ok(()) => {
                    record.instance = Some(lease.instance.id.clone());
                    if exchange.has_switched() {
                        record.answered(exchange.status(), None);
                        break Outcome::Upgraded(Box::new(Upgraded {
                            first: exchange.begin_upgrade(),
                            instance: stream,
                            lease,
                        }));
                    }
                    break relay(worker, &mut exchange, &lease, stream, record).await;
                }
                Err(Failure::Client(fault)) => break Outcome::Fault(fault),
                Err(Failure::ClientGone) => break Outcome::Broken,
                Err(Failure::Timeout) => {
                    lease.counters().timeouts.add(1);
                    break Outcome::Fault(Fault::upstream_timeout(service.name.as_str()));
                }
                Err(Failure::Nonsense(why)) => {
                    lease.counters().failures.add(1);
                    break Outcome::Fault(Fault::upstream_failed(service.name.as_str(), why));
                }
                Err(Failure::HungUp { heard }) => {
                    let safe = idempotent && !heard && !exchange.streamed();
                    if reused && safe {
                        // The instance closed a kept connection as the request went out: that says
                        // nothing about the instance, so it costs no retry.
                        only_new = true;
                        record.retries += 1;
                        lease.counters().retries.add(1);
                        continue;
                    }
                    lease.counters().failures.add(1);
                    (
                        Fault::upstream_failed(service.name.as_str(), "it hung up"),
                        safe,
                    )
                }
            },
        };
        if !safe || retries == 0 || service.nobody_else(&tried, &lease) {
            break Outcome::Fault(fault);
        }
        if !service.budget.withdraw(exchange.now()) {
            lease.counters().retries_refused.add(1);
            break Outcome::Fault(fault);
        }
        retries -= 1;
        record.retries += 1;
        lease.counters().retries.add(1);
        tried.push(lease.instance.clone());
        last = Some(fault);
    };
    record.body_in = exchange.taken();
    outcome
}

async fn connect(exchange: &Exchange<'_>, lease: &Lease, limit: Duration) -> Option<Stream> {
    let due = exchange.now() + millis(limit);
    let connect = Stream::connect(lease.instance.address);
    match exchange.timer().before(due, connect).await {
        Ok(Ok(stream)) => {
            lease.connected();
            Some(stream)
        }
        Ok(Err(error)) => {
            tracing::debug!(instance = %lease.instance.id, %error, "cannot connect to an instance");
            lease.connect_failed(exchange.now());
            None
        }
        Err(_) => {
            tracing::debug!(instance = %lease.instance.id, "connecting to an instance took too long");
            lease.connect_failed(exchange.now());
            None
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
            record.failed("gateway.upstream_timeout");
            Outcome::Broken
        }
        Relayed::ClientGone => Outcome::Broken,
    }
}
