use std::ops::Range;

/// What the gateway has to know of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    /// Between client and service; `Connection` can name it.
    Other,
    /// Between client and service, and `Connection` cannot take it away.
    EndToEnd,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    Te,
    Trailer,
    /// Ends here by its definition.
    HopByHop,
    /// Says where a request came from or what it was rewritten to; only the gateway's word counts.
    Forwarding,
    /// `X-Auth-…` and `X-Client-Certificate-…` say who asks, and only the gateway's word counts;
    /// `X-Service-Key` is what services show one another, and nobody outside is one; `X-Sinew-Mirror`
    /// marks the gateway's copies.
    Identity,
    RequestId,
    TraceParent,
    TraceState,
    Authorization,
    IdempotencyKey,
    Via,
    Date,
    /// One of the kinds from `Host` on, with `_` for `-`. Many servers hand both to the application
    /// under one name, so it never passes.
    Twin,
}

#[derive(Clone, Debug)]
struct Field {
    name: Range<u32>,
    value: Range<u32>,
    kind: FieldKind,
}

/// The fields of one message, in order, as ranges of its head's bytes.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    list: Vec<Field>,
    /// The kinds that stand in the list, a bit each: most requests have none of most kinds, and
    /// this tells without a look at every field.
    kinds: u32,
}

impl Fields {
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.kinds = 0;
    }

    /// Whether a field of this kind stands here.
    pub(crate) fn has(&self, kind: FieldKind) -> bool {
        self.kinds & bit(kind) != 0
    }

    /// Whether a field of any of these kinds stands here.
    pub(crate) fn has_any(&self, kinds: &[FieldKind]) -> bool {
        let wanted = kinds.iter().fold(0, |bits, kind| bits | bit(*kind));
        self.kinds & wanted != 0
    }

    /// Adds a field that httparse found in `head`.
    pub(crate) fn push(&mut self, head: &[u8], field: &httparse::Header<'_>) {
        let name = range_in(head, field.name.as_bytes());
        let value = range_in(head, field.value);
        let kind = classify(field.name.as_bytes());
        self.kinds |= bit(kind);
        self.list.push(Field { name, value, kind });
    }

    /// All of them: kind, name as sent, value without surrounding white space.
    pub(crate) fn iter<'a>(
        &'a self,
        head: &'a [u8],
    ) -> impl Iterator<Item = (FieldKind, &'a [u8], &'a [u8])> {
        self.list.iter().map(move |field| {
            (
                field.kind,
                part(head, &field.name),
                part(head, &field.value),
            )
        })
    }

    /// The values of one kind.
    pub(crate) fn values<'a>(
        &'a self,
        head: &'a [u8],
        kind: FieldKind,
    ) -> impl Iterator<Item = &'a [u8]> {
        let same = move |field: &&Field| field.kind == kind;
        let list = if self.has(kind) { &self.list[..] } else { &[] };
        list.iter()
            .filter(same)
            .map(move |field| part(head, &field.value))
    }

    /// The value of a field that stands at most once; `Err` when it stands more often.
    pub(crate) fn single<'a>(
        &'a self,
        head: &'a [u8],
        kind: FieldKind,
    ) -> Result<Option<&'a [u8]>, ()> {
        let mut values = self.values(head, kind);
        let first = values.next();
        if values.next().is_some() {
            Err(())
        } else {
            Ok(first)
        }
    }
}

fn bit(kind: FieldKind) -> u32 {
    1 << kind as u32
}

pub(crate) fn part<'a>(head: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &head[range.start as usize..range.end as usize]
}

/// Where `part`, which is a piece of `head`, stands in it.
pub(crate) fn range_in(head: &[u8], part: &[u8]) -> Range<u32> {
    let start = part.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
    if part.is_empty() || start > head.len() {
        return 0..0;
    }
    // Heads are limited to far less than 4 GiB.
    start as u32..(start + part.len()) as u32
}

/// The members of a comma-separated list, white space and empty ones left out.
pub(crate) fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

const LONGEST: usize = 24;

/// Whether a field of this name, in lower case, tells some server what certificate a client has:
/// ours, that of RFC 9440, and those of widespread proxies.
fn is_certificate(lower: &[u8]) -> bool {
    match lower {
        [b'x', b'-', rest @ ..] => {
            rest.starts_with(b"client-cert")
                || rest.starts_with(b"ssl-")
                || rest.starts_with(b"tls-client-")
        }
        [b'c', ..] => lower.starts_with(b"client-cert"),
        [b's', ..] => lower.starts_with(b"ssl-client-"),
        _ => false,
    }
}

/// Looks the name up, whatever its case.
pub(crate) fn classify(name: &[u8]) -> FieldKind {
    use FieldKind::*;
    let mut lower = [0; LONGEST];
    let length = name.len().min(LONGEST);
    let mut underscore = false;
    for (to, from) in lower.iter_mut().zip(name) {
        *to = from.to_ascii_lowercase();
        if *from == b'_' {
            *to = b'-';
            underscore = true;
        }
    }
    let lower = &lower[..length];
    let kind = if lower.starts_with(b"x-auth-")
        || lower == b"x-service-key"
        || lower == b"x-sinew-mirror"
        || is_certificate(lower)
    {
        Identity
    } else if lower.starts_with(b"x-forwarded-") {
        Forwarding
    } else if name.len() > LONGEST {
        Other
    } else {
        match lower {
            b"host" => Host,
            b"content-length" => ContentLength,
            b"transfer-encoding" => TransferEncoding,
            b"connection" => Connection,
            b"upgrade" => Upgrade,
            b"expect" => Expect,
            b"te" => Te,
            b"trailer" => Trailer,
            b"keep-alive"
            | b"proxy-connection"
            | b"http2-settings"
            | b"proxy-authenticate"
            | b"proxy-authorization" => HopByHop,
            b"forwarded"
            | b"x-real-ip"
            | b"x-client-ip"
            | b"true-client-ip"
            | b"x-cluster-client-ip"
            | b"x-original-url"
            | b"x-original-uri"
            | b"x-rewrite-url"
            | b"x-original-host" => Forwarding,
            b"x-request-id" => RequestId,
            b"traceparent" => TraceParent,
            b"tracestate" => TraceState,
            b"authorization" => Authorization,
            b"idempotency-key" => IdempotencyKey,
            b"via" => Via,
            b"date" => Date,
            b"cookie" | b"set-cookie" | b"content-type" | b"content-encoding"
            | b"content-range" | b"content-location" | b"location" | b"origin" | b"referer"
            | b"range" | b"cache-control" | b"accept" | b"accept-encoding" | b"user-agent" => {
                EndToEnd
            }
            _ => Other,
        }
    };
    if underscore && !matches!(kind, Other | EndToEnd) {
        Twin
    } else {
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_spelling() {
        use FieldKind::*;
        for (name, kind) in [
            ("HOST", Host),
            ("Content-Length", ContentLength),
            ("content_length", Twin),
            ("X-Forwarded-For", Forwarding),
            ("X-Forwarded-Anything-At-All-However-Long", Forwarding),
            ("X_Forwarded-For", Twin),
            ("x-auth-subject", Identity),
            ("X_AUTH_ROLE", Twin),
            ("X-Client-Certificate-Subject", Identity),
            ("x_client_certificate_sha256", Twin),
            ("Client-Cert-Chain", Identity),
            ("SSL_CLIENT_S_DN", Twin),
            ("X-SSL-Client-Verify", Identity),
            ("client-name", Other),
            ("X-Service-Key", Identity),
            ("x_service_key", Twin),
            ("x-authority", Other),
            ("accept_encoding", EndToEnd),
            ("my_header", Other),
            ("traceparent-of-something-else", Other),
        ] {
            assert_eq!(classify(name.as_bytes()), kind, "{name}");
        }
    }

    #[test]
    fn lists_split_at_commas() {
        let members: Vec<_> = list_members(b" close ,, Keep-Alive\t,").collect();
        assert_eq!(members, [&b"close"[..], b"Keep-Alive"]);
    }
}
