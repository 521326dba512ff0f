//! Sends a request, as often as it takes and may be.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use sinew_core::{Backoff, Error, InstanceId, Kind, Result, Retry, least_loaded_of_two};
use tokio::time::Instant;

use super::{Inner, Response, request::Parts};
use crate::{
    context::{self, Context},
    discovery::{Busy, Instance, Instances},
};

/// So long the first call to a service waits for the list of its instances.
const FIRST_LIST: Duration = Duration::from_secs(2);
/// Tries in all, for whatever reason.
const MAX_TRIES: u32 = 3;

pub(super) async fn send(client: &Inner, parts: Parts) -> Result<Response> {
    let started = client.clock.monotonic();
    let context = Context::current();
    let own = Instant::now() + parts.timeout;
    let deadline = context.deadline.map_or(own, |inherited| inherited.min(own));
    let service = parts.service.clone();
    let call = Call {
        client,
        parts,
        context,
        deadline,
        tried: Vec::new(),
    };
    let result = call.run().await;
    let outcome = match &result {
        Ok(response) => match response.status().as_u16() {
            500.. => "server_error",
            400.. => "refused",
            _ => "ok",
        },
        Err(error) => match error.code() {
            "sdk.call_timeout" => "timeout",
            "sdk.service_unavailable" => "unavailable",
            _ => "failed",
        },
    };
    let labels = [("service", service.as_str()), ("outcome", outcome)];
    client
        .metrics
        .counter(
            "sinew_client_requests_total",
            "Calls to other services.",
            &labels,
        )
        .add(1);
    client
        .metrics
        .histogram(
            "sinew_client_request_duration_seconds",
            "Time of calls.",
            &labels[..1],
        )
        .observe(client.clock.monotonic().saturating_sub(started));
    result
}

struct Call<'a> {
    client: &'a Inner,
    parts: Parts,
    context: Context,
    deadline: Instant,
    tried: Vec<InstanceId>,
}

/// Why a try did not end with an answer.
enum Failure {
    /// Nothing was sent.
    Connect(Box<dyn std::error::Error + Send + Sync>),
    /// It may have been carried out.
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// It may have been carried out.
    Timeout,
    /// It was, and there is no use in asking again.
    Final(Error),
}

impl Call<'_> {
    async fn run(mut self) -> Result<Response> {
        let service = self.parts.service.clone();
        let budget = self.client.budget(&service);
        budget.earn();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(250));
        let mut tries = 0;
        // Each wait below ends at the deadline by itself, so that a try that runs into it is held
        // against its instance. The list is read anew for each try: it may have changed because of
        // what went wrong.
        loop {
            if self.remaining().is_zero() {
                return Err(self.timed_out());
            }
            let patience = FIRST_LIST.min(self.remaining());
            let Some(instances) = self.client.discovery.instances(&service, patience).await else {
                return Err(self.unavailable("its instances are not known"));
            };
            let Some(instance) = self.choose(&instances) else {
                return Err(self.unavailable("no instance is up"));
            };
            tries += 1;
            self.tried.push(instance.id.clone());
            let last = tries >= MAX_TRIES;
            let repeat = self.parts.idempotent && !last;
            match self.try_once(&instance).await {
                // A 503 speaks for one instance, so only another one is asked.
                Ok(response)
                    if response.status() == StatusCode::SERVICE_UNAVAILABLE
                        && repeat
                        && self.untried(&instances)
                        && budget.take() => {}
                Ok(response) => return Ok(response),
                Err(Failure::Connect(error)) => {
                    tracing::debug!(instance = %instance.id, %error, "cannot connect");
                    if last {
                        return Err(self
                            .unavailable("cannot be connected to")
                            .with_source(error));
                    }
                    if self.untried(&instances) {
                        self.count_retry();
                        continue;
                    }
                }
                Err(Failure::Broken(error)) => {
                    tracing::debug!(instance = %instance.id, %error, "the connection broke");
                    if !(repeat && budget.take()) {
                        return Err(self.failed(error));
                    }
                }
                Err(Failure::Timeout) => {
                    tracing::debug!(instance = %instance.id, "no answer in time");
                    if !(repeat && budget.take()) {
                        return Err(self.timed_out());
                    }
                }
                Err(Failure::Final(error)) => return Err(error),
            }
            self.count_retry();
            tokio::time::sleep(backoff.next_delay().min(self.remaining())).await;
        }
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// One of those not tried yet and not set aside; then of those not tried; then of all.
    fn choose(&self, instances: &Instances) -> Option<Arc<Instance>> {
        let now = self.client.clock.monotonic();
        let fresh = |instance: &&Arc<Instance>| !self.tried.contains(&instance.id);
        let mut candidates: Vec<&Arc<Instance>> = instances
            .iter()
            .filter(fresh)
            .filter(|instance| !instance.is_aside(now))
            .collect();
        if candidates.is_empty() {
            candidates = instances.iter().filter(fresh).collect();
        }
        if candidates.is_empty() {
            candidates = instances.iter().collect();
        }
        let index = least_loaded_of_two(candidates.len(), rand::random, |index| {
            candidates[index].load()
        })?;
        candidates.get(index).map(|instance| Arc::clone(instance))
    }

    fn untried(&self, instances: &Instances) -> bool {
        instances
            .iter()
            .any(|instance| !self.tried.contains(&instance.id))
    }

    async fn try_once(&self, instance: &Arc<Instance>) -> Result<Response, Failure> {
        let _busy = Busy::with(instance);
        let limit = self
            .parts
            .try_timeout
            .unwrap_or(match self.parts.idempotent {
                true => self.parts.timeout / 2,
                false => self.parts.timeout,
            });
        let limit = limit.min(self.remaining());
        let request = self.build(instance, limit).map_err(Failure::Final)?;
        let result = tokio::time::timeout(limit, self.exchange(request)).await;
        let now = self.client.clock.monotonic();
        match &result {
            Ok(Ok(_) | Err(Failure::Final(_))) => instance.succeeded(),
            Ok(Err(_)) => instance.failed(now),
            Err(_) => instance.timed_out(now),
        }
        result.unwrap_or(Err(Failure::Timeout))
    }

    fn build(&self, instance: &Instance, limit: Duration) -> Result<http::Request<Full<Bytes>>> {
        let mut request = http::Request::builder()
            .method(self.parts.method.clone())
            .uri(format!("http://{}{}", instance.authority, self.parts.path))
            .body(Full::new(self.parts.body.clone()))
            .map_err(|error| {
                Error::new(
                    Kind::Internal,
                    "sdk.request_invalid",
                    "a call cannot be made",
                )
                .with_source(error)
            })?;
        let headers = request.headers_mut();
        *headers = self.parts.headers.clone();
        self.context.trace.put(headers);
        if let Ok(id) = HeaderValue::from_str(&self.context.request_id) {
            headers.insert(context::REQUEST_ID, id);
        }
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        headers.insert(context::TIMEOUT, millis.into());
        Ok(request)
    }

    async fn exchange(&self, request: http::Request<Full<Bytes>>) -> Result<Response, Failure> {
        let response = self
            .client
            .transport
            .request(request)
            .await
            .map_err(|error| match error.is_connect() {
                true => Failure::Connect(error.into()),
                false => Failure::Broken(error.into()),
            })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.parts.max_response)
            .collect()
            .await
            .map_err(|error| match error.is::<LengthLimitError>() {
                true => Failure::Final(self.too_large()),
                false => Failure::Broken(error),
            })?;
        let (status, headers): (_, HeaderMap) = (head.status, head.headers);
        let service = self.parts.service.as_str().to_owned();
        Ok(Response::new(service, status, headers, body.to_bytes()))
    }

    fn count_retry(&self) {
        let labels = [("service", self.parts.service.as_str())];
        self.client
            .metrics
            .counter("sinew_client_retries_total", "Calls sent again.", &labels)
            .add(1);
    }

    fn unavailable(&self, why: &str) -> Error {
        Error::new(
            Kind::Unavailable,
            "sdk.service_unavailable",
            format!("the service {} is not available now", self.parts.service),
        )
        .with_context(why)
        .with_retry(Retry::After(Duration::from_secs(1)))
    }

    fn failed(&self, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error::new(
            Kind::Unavailable,
            "sdk.call_failed",
            format!(
                "the connection to {} broke before it answered",
                self.parts.service
            ),
        )
        .with_source(source)
    }

    fn timed_out(&self) -> Error {
        Error::new(
            Kind::DeadlineExceeded,
            "sdk.call_timeout",
            format!("{} did not answer in time", self.parts.service),
        )
    }

    fn too_large(&self) -> Error {
        Error::new(
            Kind::Internal,
            "sdk.response_too_large",
            format!("the answer of {} is too large", self.parts.service),
        )
    }
}
