/// Finds the end of a message's head as bytes come in, looking at each byte once, so that a sender
/// of single bytes costs no more than any other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadScan {
    seen: usize,
    line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// More bytes are needed.
    Partial,
    /// The head, with the empty line that ends it, is this long.
    End(usize),
    /// A line feed without a carriage return before it. Some parsers take it for the end of a line
    /// and some do not, so nobody should.
    BareLineFeed,
}

impl HeadScan {
    /// `bytes` begins at the head's first byte, and with the same bytes as at the last call.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Scanned {
        for offset in memchr::memchr_iter(b'\n', &bytes[self.seen..]) {
            let feed = self.seen + offset;
            if feed == self.line || bytes[feed - 1] != b'\r' {
                return Scanned::BareLineFeed;
            }
            if feed == self.line + 1 {
                return Scanned::End(feed + 1);
            }
            self.line = feed + 1;
        }
        self.seen = bytes.len();
        Scanned::Partial
    }
}

/// Whether a connection's first line has the three words of a request's, but the third does not name
/// HTTP: whoever sent it speaks something else, as one that begins HTTP/2 with a wrong preface does
/// (RFC 9113 §3.4).
pub(crate) fn is_foreign(head: &[u8]) -> bool {
    let end = memchr::memchr(b'\r', head).unwrap_or(head.len());
    let mut words = head[..end].split(|byte| *byte == b' ');
    let (_, _, protocol) = (words.next(), words.next(), words.next());
    let is_http = |word: &[u8]| {
        word.get(..4)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"http"))
    };
    words.next().is_none() && protocol.is_some_and(|word| !word.is_empty() && !is_http(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_another_protocol_is_foreign() {
        for (line, expected) in [
            ("INVALID CONNECTION PREFACE\r\n\r\n", true),
            ("GET sip:a SIP/2.0\r\n\r\n", true),
            ("DESCRIBE rtsp://a RTSP/1.0", true),
            ("GET / HTTP/1.1\r\n\r\n", false),
            ("GET / http/1.1\r\n\r\n", false),
            ("GET / HTTP/7\r\n\r\n", false),
            ("GET /\r\n\r\n", false),
            ("GET / \r\n\r\n", false),
            ("GET  / HTTP/1.1\r\n\r\n", false),
            ("GET /a b HTTP/1.1\r\n\r\n", false),
            ("\r\n", false),
        ] {
            assert_eq!(is_foreign(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn finds_the_end_however_the_bytes_arrive() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nrest";
        assert_eq!(HeadScan::default().next(head), Scanned::End(27));
        let mut scan = HeadScan::default();
        for length in 0..27 {
            assert_eq!(scan.next(&head[..length]), Scanned::Partial, "{length}");
        }
        assert_eq!(scan.next(&head[..27]), Scanned::End(27));
        for bad in ["GET / HTTP/1.1\n", "a\r\nb: c\n\r\n", "\n", "a\r\n\n"] {
            assert_eq!(
                HeadScan::default().next(bad.as_bytes()),
                Scanned::BareLineFeed,
                "{bad:?}"
            );
        }
    }
}
