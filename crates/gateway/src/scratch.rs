use crate::{
    h1::{Buffer, RequestHead, ResponseHead},
    trace,
};

/// The memory that answering a request needs. A connection holds one from a request's first byte
/// to its response's last, so a waiting connection holds none.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// From the client.
    pub(crate) input: Buffer,
    /// To the client.
    pub(crate) output: Buffer,
    pub(crate) head: RequestHead,
    /// The canonical path.
    pub(crate) path: String,
    /// `?` and the canonical query, or nothing.
    pub(crate) query: String,
    /// The host in lower case, without port.
    pub(crate) host: String,
    pub(crate) request_id: String,
    /// Where in `request` the value of a `traceparent` begins that the gateway made.
    pub(crate) trace_at: Option<usize>,
    /// The head for the instance, and the body behind it when all of it was there at once: what can
    /// be sent a second time.
    pub(crate) request: Vec<u8>,
    /// More of the request's body, to the instance.
    pub(crate) upload: Buffer,
    /// From the instance.
    pub(crate) download: Buffer,
    pub(crate) response: ResponseHead,
}

const KEEP: usize = 64 << 10;

impl Scratch {
    /// Ready for the next connection: nothing of this one is left.
    pub(crate) fn reset(&mut self) {
        for buffer in [
            &mut self.input,
            &mut self.output,
            &mut self.upload,
            &mut self.download,
        ] {
            buffer.clear();
            buffer.trim(KEEP);
        }
        self.request.clear();
        self.request.shrink_to(KEEP);
        self.forget();
    }

    /// Forgets the last request, which may have been another client's.
    pub(crate) fn forget(&mut self) {
        self.head.clear();
        self.path.clear();
        self.query.clear();
        self.host.clear();
        self.request_id.clear();
        self.trace_at = None;
    }

    /// The trace that the request is part of, once it is known.
    pub(crate) fn trace_id(&self) -> Option<&str> {
        let own = || self.request.get(self.trace_at?..);
        trace::trace_id(trace::context(&self.head).or_else(own)?)
    }
}
