use std::{mem::MaybeUninit, ops::Range};

use super::{
    Body, FieldKind, Fields,
    fields::{list_members, part, range_in},
    protocols::protocols,
    request::{MOST_HEADERS, decimal},
};

/// The head of one response. Its memory is kept for the next.
#[derive(Debug, Default)]
pub(crate) struct ResponseHead {
    bytes: Vec<u8>,
    reason: Range<u32>,
    pub(crate) status: u16,
    minor: u8,
    fields: Fields,
}

impl ResponseHead {
    /// Reads a whole head. The error says what is wrong with it.
    pub(crate) fn parse(&mut self, head: &[u8]) -> Result<(), &'static str> {
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        self.fields.clear();
        let head = &self.bytes;
        let mut space = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        match httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            head,
            &mut space,
        ) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err("it has too many header lines"),
            _ => return Err("its head is malformed"),
        }
        self.reason = range_in(head, response.reason.unwrap_or_default().as_bytes());
        self.status = response.code.unwrap_or_default();
        self.minor = response.version.unwrap_or(1);
        for field in &*response.headers {
            self.fields.push(head, field);
        }
        if (100..=599).contains(&self.status) {
            Ok(())
        } else {
            Err("its status is none")
        }
    }

    pub(crate) fn reason(&self) -> &[u8] {
        part(&self.bytes, &self.reason)
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (FieldKind, &[u8], &[u8])> {
        self.fields.iter(&self.bytes)
    }

    pub(crate) fn values(&self, kind: FieldKind) -> impl Iterator<Item = &[u8]> {
        self.fields.values(&self.bytes, kind)
    }

    /// The protocols of `Upgrade`.
    pub(crate) fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        protocols(self.values(FieldKind::Upgrade))
    }

    pub(crate) fn has(&self, kind: FieldKind) -> bool {
        self.fields.has(kind)
    }

    /// Whether `Connection` names this field, which then ends here.
    pub(crate) fn connection_names(&self, name: &[u8]) -> bool {
        self.fields
            .values(&self.bytes, FieldKind::Connection)
            .flat_map(list_members)
            .any(|option| option.eq_ignore_ascii_case(name))
    }

    /// The declared length, if there is one.
    pub(crate) fn content_length(&self) -> Result<Option<u64>, &'static str> {
        let value = self
            .fields
            .single(&self.bytes, FieldKind::ContentLength)
            .map_err(|()| "its Content-Length stands more than once")?;
        let Some(value) = value else { return Ok(None) };
        decimal(value)
            .map(Some)
            .ok_or("its Content-Length is no number")
    }

    /// The body's framing (RFC 9112 §6.3), given whether the request was HEAD.
    pub(crate) fn body(&self, to_head: bool) -> Result<Body, &'static str> {
        let length = self.content_length()?;
        let coding = self
            .fields
            .single(&self.bytes, FieldKind::TransferEncoding)
            .map_err(|()| "its Transfer-Encoding stands more than once")?;
        if to_head || matches!(self.status, 100..=199 | 204 | 304) {
            return Ok(Body::none());
        }
        match (length, coding) {
            (Some(_), Some(_)) => Err("its Content-Length and Transfer-Encoding both stand"),
            (Some(length), None) => Ok(Body::of_length(length)),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && self.minor == 1 => {
                Ok(Body::chunked(false))
            }
            (None, Some(_)) => Err("its Transfer-Encoding is other than chunked"),
            (None, None) => Ok(Body::until_close()),
        }
    }

    /// Whether the service keeps the connection open.
    pub(crate) fn keep_alive(&self) -> bool {
        let mut keep_alive = self.minor == 1;
        for option in self
            .fields
            .values(&self.bytes, FieldKind::Connection)
            .flat_map(list_members)
        {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        keep_alive
    }
}
