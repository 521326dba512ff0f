//! What the gateway itself answers when it does not forward.

use std::{borrow::Cow, sync::Arc, time::Duration};

use sinew_core::{Error, Kind, Problem, Retry};

use crate::{grpc, h1::push_number, policy::Fallback};

/// An answer of the gateway's own: problem details (RFC 9457) with a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    kind: Kind,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    /// The value of `WWW-Authenticate`.
    challenge: Option<Box<str>>,
    /// The methods that pass are said.
    says_methods: bool,
    /// What the client gets instead of the problem.
    fallback: Option<Box<Fallback>>,
    /// The value of `Location`.
    location: Option<Box<str>>,
    /// The request cannot be trusted to end where it seems to.
    pub(crate) close: bool,
    /// What a route's `reply` or `redirect` says instead of a problem.
    fixed: Option<Box<Fixed>>,
}

/// An answer that a route fixes: its own header lines and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fixed {
    lines: Vec<u8>,
    body: Arc<[u8]>,
}

impl Fault {
    fn new(
        status: u16,
        kind: Kind,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let detail = detail.into();
        let (retry_after, challenge, location) = (None, None, None);
        Self {
            status,
            code,
            kind,
            detail,
            retry_after,
            challenge,
            says_methods: false,
            fallback: None,
            location,
            close: false,
            fixed: None,
        }
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// No fault at all: a route's `reply` or `redirect`, with these lines of its own.
    pub(crate) fn reply(status: u16, lines: Vec<u8>, body: Arc<[u8]>) -> Self {
        let fixed = Some(Box::new(Fixed { lines, body }));
        Self {
            fixed,
            ..Self::new(status, Kind::Internal, "", "")
        }
    }

    /// What the log calls it; nothing when it is what a route asks for.
    pub(crate) fn logged_code(&self) -> Option<&'static str> {
        self.fixed.is_none().then_some(self.code)
    }

    /// The request's bytes are no unambiguous HTTP/1.1.
    pub(crate) fn malformed(detail: &'static str) -> Self {
        Self::new(
            400,
            Kind::InvalidArgument,
            "gateway.request_malformed",
            detail,
        )
        .closing()
    }

    pub(crate) fn path_refused(why: &'static str) -> Self {
        let detail = format!("the target is refused: {why}");
        Self::new(400, Kind::InvalidArgument, "gateway.path_refused", detail)
    }

    pub(crate) fn head_too_large(detail: &'static str) -> Self {
        Self::new(431, Kind::InvalidArgument, "gateway.head_too_large", detail).closing()
    }

    pub(crate) fn body_too_large(limit: u64) -> Self {
        let detail = format!("the request's body is longer than {limit} bytes");
        Self::new(413, Kind::InvalidArgument, "gateway.body_too_large", detail).closing()
    }

    /// The client did not send the rest of its request in time.
    pub(crate) fn request_timeout() -> Self {
        let detail = "the rest of the request did not arrive in time";
        Self::new(
            408,
            Kind::DeadlineExceeded,
            "gateway.request_timeout",
            detail,
        )
        .closing()
    }

    pub(crate) fn expectation() -> Self {
        let detail = "the only expectation met here is 100-continue";
        Self::new(
            417,
            Kind::InvalidArgument,
            "gateway.expectation_failed",
            detail,
        )
        .closing()
    }

    pub(crate) fn method_refused() -> Self {
        let detail = "CONNECT and TRACE do not pass the gateway";
        let fault = Self::new(405, Kind::InvalidArgument, "gateway.method_refused", detail);
        Self {
            says_methods: true,
            ..fault
        }
        .closing()
    }

    pub(crate) fn no_route() -> Self {
        Self::new(
            404,
            Kind::NotFound,
            "gateway.no_route",
            "no route takes this request",
        )
    }

    pub(crate) fn loop_detected() -> Self {
        let detail = "the request has passed this gateway too often; a route leads back to it";
        Self::new(
            508,
            Kind::FailedPrecondition,
            "gateway.loop_detected",
            detail,
        )
    }

    pub(crate) fn unauthenticated(error: Option<&Error>) -> Self {
        // RFC 6750 §3: no error code when the request had no credentials at all.
        let (detail, challenge) = match error {
            None => ("a bearer token is required".to_owned(), "Bearer".to_owned()),
            Some(error) => (
                format!("the token is refused: {}", error.message()),
                format!(
                    "Bearer error=\"invalid_token\", error_description=\"{}\"",
                    error.code()
                ),
            ),
        };
        let fault = Self::new(
            401,
            Kind::Unauthenticated,
            "gateway.unauthenticated",
            detail,
        );
        Self {
            challenge: Some(challenge.into()),
            ..fault
        }
    }

    /// The same URL over TLS is where it should have gone.
    pub(crate) fn tls_required(host: &str, port: u16, path: &str, query: &str) -> Self {
        let (detail, code) = (
            "only requests over TLS are answered",
            "gateway.tls_required",
        );
        let kind = Kind::FailedPrecondition;
        if host.is_empty() {
            return Self::new(403, kind, code, detail);
        }
        let location = if port == 443 {
            format!("https://{host}{path}{query}")
        } else {
            format!("https://{host}:{port}{path}{query}")
        };
        Self {
            location: Some(location.into()),
            ..Self::new(308, kind, code, detail)
        }
    }

    pub(crate) fn client_certificate_required() -> Self {
        let detail = "the connection needs a client certificate that is trusted here";
        let code = "gateway.client_certificate_required";
        Self::new(403, Kind::PermissionDenied, code, detail)
    }

    fn unavailable(status: u16, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let fault = Self::new(status, Kind::Unavailable, code, detail);
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..fault
        }
    }

    pub(crate) fn keys_unknown() -> Self {
        let detail = "the keys that verify tokens are not known yet";
        Self::unavailable(503, "gateway.keys_unknown", detail)
    }

    pub(crate) fn no_instance(service: &str) -> Self {
        let detail = format!("no instance of service {service} is up");
        Self::unavailable(503, "gateway.no_instance", detail)
    }

    /// Nothing was sent, so trying again is safe.
    pub(crate) fn unreachable(service: &str) -> Self {
        let detail = format!("no instance of service {service} could be connected to");
        Self::unavailable(503, "gateway.unreachable", detail)
    }

    pub(crate) fn too_many_connections() -> Self {
        let detail = "the gateway has all the connections it may have";
        Self::unavailable(503, "gateway.too_many_connections", detail).closing()
    }

    pub(crate) fn too_many_of_address() -> Self {
        let (kind, code) = (
            Kind::ResourceExhausted,
            "gateway.too_many_connections_of_address",
        );
        let detail = "your address has all the connections that one may have";
        let fault = Self::new(429, kind, code, detail).closing();
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..fault
        }
    }

    /// The instance hung up or answered something that is no HTTP.
    pub(crate) fn upstream_failed(service: &str, why: &str) -> Self {
        let detail = format!("an instance of service {service} failed to answer: {why}");
        let fault = Self::new(502, Kind::Unavailable, "gateway.upstream_failed", detail);
        Self {
            retry_after: None,
            ..fault
        }
    }

    pub(crate) fn upstream_timeout(service: &str) -> Self {
        let detail = format!("service {service} did not answer in time");
        Self::new(
            504,
            Kind::DeadlineExceeded,
            "gateway.upstream_timeout",
            detail,
        )
    }

    /// Nothing was sent, so trying again is safe.
    pub(crate) fn connect_timeout(service: &str, limit: Duration) -> Self {
        let millis = limit.as_millis();
        let detail = format!("connecting to service {service} took longer than {millis} ms");
        Self::unavailable(503, "gateway.connect_timeout", detail)
    }

    /// Its circuit breaker is open: nothing was sent.
    pub(crate) fn breaker_open(service: &str, wait: Duration) -> Self {
        let detail =
            format!("too many requests to service {service} failed: none is sent for a while");
        let fault = Self::unavailable(503, "gateway.breaker_open", detail);
        Self {
            retry_after: Some(wait),
            ..fault
        }
    }

    /// It has as many requests as it may have: nothing was sent.
    pub(crate) fn bulkhead_full(service: &str) -> Self {
        let detail = format!("service {service} has as many requests as it may have at once");
        Self::unavailable(503, "gateway.bulkhead_full", detail)
    }

    /// It has as many requests as it can take: nothing was sent.
    pub(crate) fn overloaded(service: &str) -> Self {
        let detail = format!("service {service} has more requests than it can answer");
        Self::unavailable(503, "gateway.overloaded", detail)
    }

    /// The service cannot answer, and this is what its route answers then. It is logged as the fault
    /// that it is.
    pub(crate) fn or_fallback(mut self, fallback: Option<&Fallback>) -> Self {
        if let Some(fallback) = fallback
            && matches!(self.status, 502..=504)
        {
            self.status = fallback.status();
            self.retry_after = None;
            self.fallback = Some(Box::new(fallback.clone()));
        }
        self
    }

    /// What the client gets: content type and body. The type of a fixed answer is among its lines.
    fn content(&self) -> (&str, Cow<'_, [u8]>) {
        if let Some(fixed) = &self.fixed {
            return ("", (&*fixed.body).into());
        }
        match &self.fallback {
            Some(fallback) => (fallback.content_type(), fallback.body().as_bytes().into()),
            None => {
                let problem = serde_json::to_vec(&self.problem());
                (Problem::MEDIA_TYPE, problem.unwrap_or_default().into())
            }
        }
    }

    /// The request as a whole took longer than its route allows.
    pub(crate) fn total_timeout(service: &str) -> Self {
        let detail = format!("the request to service {service} took longer than it may as a whole");
        Self::new(504, Kind::DeadlineExceeded, "gateway.total_timeout", detail)
    }

    fn problem(&self) -> Problem {
        let retry = self.retry_after.map_or(Retry::No, Retry::After);
        let error = Error::new(self.kind, self.code, self.detail.as_ref()).with_retry(retry);
        Problem {
            status: self.status,
            title: reason(self.status).to_owned(),
            ..error.problem()
        }
    }

    /// Appends the whole response to a gRPC call: a head alone ("Trailers-Only"), whose status is HTTP's
    /// 200 because the gateway did what HTTP asks of it.
    pub(crate) fn render_to_call(&self, to: &mut Vec<u8>, common: impl FnOnce(&mut Vec<u8>)) {
        to.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: ");
        push_number(u64::from(grpc::status(self.kind)), to);
        to.extend_from_slice(b"\r\ngrpc-message: ");
        grpc::push_message(self.code, to);
        to.extend_from_slice(b": ");
        grpc::push_message(&self.detail, to);
        to.extend_from_slice(b"\r\ncontent-length: 0\r\n");
        common(to);
        to.extend_from_slice(b"\r\n");
    }

    /// Appends the whole response. `common` appends the header lines that all responses share.
    pub(crate) fn render(
        &self,
        to_head: bool,
        close: bool,
        to: &mut Vec<u8>,
        common: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let (content_type, body) = self.content();
        to.extend_from_slice(b"HTTP/1.1 ");
        push_number(u64::from(self.status), to);
        to.push(b' ');
        to.extend_from_slice(reason(self.status).as_bytes());
        to.extend_from_slice(b"\r\n");
        match &self.fixed {
            Some(fixed) => to.extend_from_slice(&fixed.lines),
            None => {
                to.extend_from_slice(b"content-type: ");
                to.extend_from_slice(content_type.as_bytes());
                to.extend_from_slice(b"\r\n");
            }
        }
        // RFC 9110 §8.6 forbids it for 204; for 304 it would be the length of what is not sent.
        if !matches!(self.status, 204 | 304) {
            to.extend_from_slice(b"content-length: ");
            push_number(body.len() as u64, to);
            to.extend_from_slice(b"\r\n");
        }
        if let Some(wait) = self.retry_after {
            to.extend_from_slice(b"retry-after: ");
            push_number(wait.as_millis().div_ceil(1_000).max(1) as u64, to);
            to.extend_from_slice(b"\r\n");
        }
        if let Some(challenge) = &self.challenge {
            to.extend_from_slice(b"www-authenticate: ");
            to.extend_from_slice(challenge.as_bytes());
            to.extend_from_slice(b"\r\n");
        }
        if self.says_methods {
            to.extend_from_slice(b"allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
        }
        if let Some(location) = &self.location {
            to.extend_from_slice(b"location: ");
            to.extend_from_slice(location.as_bytes());
            to.extend_from_slice(b"\r\n");
        }
        common(to);
        to.extend_from_slice(if close {
            b"connection: close\r\n\r\n"
        } else {
            b"\r\n"
        });
        if to_head {
            return 0;
        }
        to.extend_from_slice(&body);
        body.len()
    }
}

/// The status in words (RFC 9110 §15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        508 => "Loop Detected",
        _ if status < 300 => "Success",
        _ if status < 400 => "Redirection",
        _ => "Error",
    }
}
