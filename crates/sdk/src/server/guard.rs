//! What stands around every handler: context, limits, metrics, log.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Limited;
use sinew_core::{Clock, Error, Kind, Retry};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::{
    Metrics, Problem,
    auth::Auth,
    context::{self, Context},
    metrics::Gauge,
    service_key::Secret,
};

/// The bounds of a service's requests.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) body: usize,
    pub(crate) time: Duration,
    pub(crate) at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1024 * 1024,
            time: Duration::from_secs(10),
            at_once: 1024,
        }
    }
}

/// Everything that a request passes through.
pub(crate) struct Guard {
    limits: Limits,
    places: Semaphore,
    clock: Clock,
    metrics: Metrics,
    in_flight: Gauge,
    auth: Option<Auth>,
    secret: Option<Secret>,
}

impl Guard {
    pub(crate) fn new(
        limits: Limits,
        clock: Clock,
        metrics: Metrics,
        auth: Option<Auth>,
        secret: Option<Secret>,
    ) -> Arc<Self> {
        Arc::new(Self {
            places: Semaphore::new(limits.at_once),
            in_flight: metrics.gauge(
                "sinew_service_requests_in_flight",
                "Requests being handled.",
                &[],
            ),
            limits,
            clock,
            metrics,
            auth,
            secret,
        })
    }

    /// The middleware.
    pub(crate) async fn around(
        State(guard): State<Arc<Self>>,
        mut request: Request,
        next: Next,
    ) -> Response {
        let started = guard.clock.monotonic();
        let context = Context::arrived(request.headers(), guard.limits.time);
        let request_id = context.request_id.clone();
        let route = request.extensions().get::<MatchedPath>().cloned();
        let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
        let method = request.method().clone();
        let span = tracing::info_span!(
            "request",
            method = method.as_str(),
            path = request.uri().path(),
            request_id = &*request_id,
            trace_id = %context.trace.trace_id(),
        );
        if let Some(auth) = &guard.auth {
            request.extensions_mut().insert(auth.clone());
        }
        if let Some(secret) = &guard.secret {
            request.extensions_mut().insert(secret.clone());
        }

        let matched = route != "unmatched";
        let handled = async {
            let response = guard.handle(context, request, next).await;
            let response = plain_refusals(response, matched);
            guard.record(&method, route, &response, started);
            response
        };
        let mut response = handled.instrument(span).await;
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(context::REQUEST_ID, id);
        }
        response
    }

    async fn handle(&self, context: Context, request: Request, next: Next) -> Response {
        let Ok(_place) = self.places.try_acquire() else {
            return overloaded();
        };
        let request = match self.bound_body(request) {
            Ok(request) => request,
            Err(problem) => return problem.into_response(),
        };
        let _in_flight = InFlight::one_more(&self.in_flight);
        let deadline = context.deadline;
        let work = context.scope(AssertUnwindSafe(next.run(request)).catch_unwind());
        let result = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, work).await,
            None => Ok(work.await),
        };
        match result {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => panicked(&*panic),
            Err(_) => Problem::new(
                Kind::DeadlineExceeded,
                "sdk.handler_timeout",
                "the request took too long and was given up",
            )
            .into_response(),
        }
    }

    fn bound_body(&self, request: Request) -> Result<Request, Problem> {
        let limit = self.limits.body;
        if request.body().size_hint().lower() > limit as u64 {
            return Err(Problem::new(
                Kind::InvalidArgument,
                "sdk.body_too_large",
                format!("the body is larger than {limit} bytes"),
            )
            .with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Ok(request.map(|body| Body::new(Limited::new(body, limit))))
    }

    fn record(&self, method: &Method, route: &str, response: &Response, started: Duration) {
        let took = self.clock.monotonic().saturating_sub(started);
        let status = response.status();
        // A made-up method must not make a series.
        let method = match *method {
            Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE => {
                method.as_str()
            }
            Method::HEAD | Method::OPTIONS => method.as_str(),
            _ => "other",
        };
        let labels = [
            ("method", method),
            ("route", route),
            ("status", status.as_str()),
        ];
        self.metrics
            .counter(
                "sinew_service_requests_total",
                "Requests answered.",
                &labels,
            )
            .add(1);
        self.metrics
            .histogram(
                "sinew_service_request_duration_seconds",
                "Time to the head of the answer.",
                &labels[..2],
            )
            .observe(took);
        let took_ms = took.as_secs_f64() * 1000.0;
        tracing::debug!(route, status = status.as_u16(), took_ms, "request");
    }
}

/// axum answers an unknown route or method with a bare status; people are told more.
fn plain_refusals(response: Response, matched: bool) -> Response {
    let bare = response.body().size_hint().exact() == Some(0)
        && !response.headers().contains_key(header::CONTENT_TYPE);
    let problem = match (response.status(), matched) {
        (StatusCode::NOT_FOUND, false) if bare => Problem::new(
            Kind::NotFound,
            "sdk.route_unknown",
            "there is nothing at this path",
        ),
        (StatusCode::METHOD_NOT_ALLOWED, true) if bare => Problem::new(
            Kind::InvalidArgument,
            "sdk.method_not_allowed",
            "this path does not answer to this method; see the header Allow",
        )
        .with_status(StatusCode::METHOD_NOT_ALLOWED),
        _ => return response,
    };
    let mut told = problem.into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        told.headers_mut().insert(header::ALLOW, allow.clone());
    }
    told
}

fn overloaded() -> Response {
    let error = Error::new(
        Kind::Unavailable,
        "sdk.overloaded",
        "the service has too many requests at once; try again",
    );
    Problem::from(error.with_retry(Retry::After(Duration::from_secs(1)))).into_response()
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let error = Error::new(
        Kind::Internal,
        "sdk.handler_panicked",
        "the request met a defect",
    );
    Problem::from(error.with_context(text)).into_response()
}

struct InFlight<'a>(&'a Gauge);

impl<'a> InFlight<'a> {
    fn one_more(gauge: &'a Gauge) -> Self {
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}
