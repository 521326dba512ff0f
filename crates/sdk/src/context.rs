//! What a request carries with it: trace, request id and the time that is left. It follows the
//! handler's own future, so calls made there hand it on; a task spawned from there starts anew.

use std::{fmt, future::Future, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use sinew_core::new_id;
use tokio::time::{Duration, Instant};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// How many milliseconds the caller will still wait. The receiver takes it as an upper bound, so a
/// whole chain of calls gives up together.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout-ms");

#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) trace: Trace,
    pub(crate) request_id: Arc<str>,
    pub(crate) deadline: Option<Instant>,
}

tokio::task_local! {
    static CURRENT: Context;
}

impl Context {
    /// The context of the request that is being handled here, or a new one.
    pub(crate) fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_else(|_| Self {
            trace: Trace::new(),
            request_id: new_request_id(),
            deadline: None,
        })
    }

    /// The context of a request that arrived with these headers and may take up to `limit`.
    pub(crate) fn arrived(headers: &HeaderMap, limit: Duration) -> Self {
        let asked = headers
            .get(TIMEOUT)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map_or(limit, Duration::from_millis);
        Self {
            trace: Trace::from_headers(headers).unwrap_or_else(Trace::new),
            request_id: headers
                .get(REQUEST_ID)
                .and_then(|value| value.to_str().ok())
                .filter(|id| (1..=128).contains(&id.len()))
                .map_or_else(new_request_id, Arc::from),
            deadline: Some(Instant::now() + asked.min(limit)),
        }
    }

    /// Runs `work` with this as the current context.
    pub(crate) async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }
}

fn new_request_id() -> Arc<str> {
    new_id().simple().to_string().into()
}

/// W3C Trace Context, level 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trace {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<HeaderValue>,
}

impl Trace {
    /// A trace that begins here; unsampled, since nobody asked for it.
    fn new() -> Self {
        Self {
            trace_id: nonzero(rand::random),
            span_id: random_span(),
            flags: 0,
            state: None,
        }
    }

    /// Our own span in the caller's trace.
    fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        // Two of them say nothing that can be trusted.
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let (trace_id, flags) = parse(value.to_str().ok()?)?;
        let mut states = headers.get_all(TRACESTATE).iter();
        let state = match (states.next(), states.next()) {
            (Some(state), None) if state.len() <= 512 => Some(state.clone()),
            _ => None,
        };
        Some(Self {
            trace_id,
            span_id: random_span(),
            flags,
            state,
        })
    }

    /// The headers of a call that this span makes.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE, state.clone());
        }
    }

    pub(crate) fn trace_id(&self) -> impl fmt::Display {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

/// Trace id and flags of a `traceparent`. Of a version above 00 only the first four fields are read.
fn parse(text: &str) -> Option<(u128, u8)> {
    let field = |range: std::ops::Range<usize>| {
        let field = text.get(range)?;
        let hex = field
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then_some(field)
    };
    let dashes = [2, 35, 52]
        .iter()
        .all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    let version = field(0..2)?;
    let ends_well = match text.as_bytes().get(55) {
        None => true,
        Some(b'-') => version != "00",
        Some(_) => false,
    };
    if !dashes || !ends_well || version == "ff" {
        return None;
    }
    let trace_id = u128::from_str_radix(field(3..35)?, 16)
        .ok()
        .filter(|id| *id != 0)?;
    u64::from_str_radix(field(36..52)?, 16)
        .ok()
        .filter(|id| *id != 0)?;
    let flags = u8::from_str_radix(field(53..55)?, 16).ok()?;
    Some((trace_id, flags))
}

fn random_span() -> u64 {
    nonzero(rand::random)
}

fn nonzero<T: Default + PartialEq>(mut draw: impl FnMut() -> T) -> T {
    loop {
        let value = draw();
        if value != T::default() {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_under_a_span_of_our_own() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(text));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        let trace = Trace::from_headers(&headers).unwrap();
        let mut out = HeaderMap::new();
        trace.put(&mut out);
        let sent = out[TRACEPARENT].to_str().unwrap();
        assert_eq!(sent[..36], text[..36]);
        assert_eq!(sent[52..], text[52..]);
        assert_ne!(sent[36..52], text[36..52]);
        assert_eq!(out[TRACESTATE], "a=b");
    }

    #[test]
    fn malformed_traceparents_are_not_continued() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(parse(good).is_some());
        assert!(parse(&format!("cc{}-more", &good[2..])).is_some());
        for bad in [
            String::new(),
            format!("{good}-more"),
            format!("{good}x"),
            format!("ff{}", &good[2..]),
            good.to_uppercase(),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            good[..54].to_owned(),
            good.replace('-', "_"),
        ] {
            assert!(parse(&bad).is_none(), "{bad}");
        }
    }
}
