use super::{HeadScan, Scanned};

/// Where a message's body ends, and how far it has been read.
#[derive(Debug)]
pub(crate) struct Body(State);

#[derive(Debug)]
enum State {
    Done,
    Length(u64),
    Chunked {
        strict: bool,
        at: At,
        framing: usize,
    },
    UntilClose,
}

/// Where in a chunked body the reader stands.
#[derive(Clone, Copy, Debug)]
enum At {
    Size {
        value: u64,
        digits: u8,
    },
    Extension {
        value: u64,
    },
    SizeFeed {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataFeed,
    /// Behind the last chunk; the scan begins at the input's first byte.
    Trailers {
        scan: HeadScan,
    },
}

/// What comes next in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// After `skip` bytes of framing, `length` bytes of body.
    Data { skip: usize, length: usize },
    /// `skip` bytes of framing, and nothing more.
    Wait { skip: usize },
    /// `skip` bytes of framing, which end the body. The last `trailers` of them are its trailers and
    /// the empty line behind them: 2 when there are none.
    End { skip: usize, trailers: usize },
}

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyFault(pub(crate) &'static str);

/// Extensions are read and dropped, but not without end.
const MOST_FRAMING: usize = 8 << 10;
/// Trailers wait until all of them are there.
const MOST_TRAILERS: usize = 8 << 10;

impl Body {
    pub(crate) fn none() -> Self {
        Self(State::Done)
    }

    pub(crate) fn of_length(length: u64) -> Self {
        Self(if length == 0 {
            State::Done
        } else {
            State::Length(length)
        })
    }

    /// `strict` refuses chunk extensions, which nobody uses but those who smuggle.
    pub(crate) fn chunked(strict: bool) -> Self {
        Self(State::Chunked {
            strict,
            at: At::Size {
                value: 0,
                digits: 0,
            },
            framing: 0,
        })
    }

    pub(crate) fn until_close() -> Self {
        Self(State::UntilClose)
    }

    /// Whether all of it was read.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// How much is left, when that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.0 {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            State::Chunked { .. } | State::UntilClose => None,
        }
    }

    pub(crate) fn is_chunked(&self) -> bool {
        matches!(self.0, State::Chunked { .. })
    }

    pub(crate) fn is_until_close(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    /// The stream ended. Whether the body is whole.
    pub(crate) fn end_of_stream(&mut self) -> bool {
        if matches!(self.0, State::UntilClose) {
            self.0 = State::Done;
        }
        self.is_done()
    }

    /// Reads on in `input`; the caller then takes what the piece covers out of it.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Piece, BodyFault> {
        match &mut self.0 {
            State::Done => Ok(Piece::End {
                skip: 0,
                trailers: 0,
            }),
            _ if input.is_empty() => Ok(Piece::Wait { skip: 0 }),
            State::UntilClose => Ok(Piece::Data {
                skip: 0,
                length: input.len(),
            }),
            State::Length(left) => {
                let length = input
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *left == 0 {
                    self.0 = State::Done;
                }
                Ok(Piece::Data { skip: 0, length })
            }
            State::Chunked {
                strict,
                at,
                framing,
            } => {
                let piece = next_chunked(*strict, at, framing, input)?;
                if matches!(piece, Piece::End { .. }) {
                    self.0 = State::Done;
                }
                Ok(piece)
            }
        }
    }
}

fn next_chunked(
    strict: bool,
    at: &mut At,
    framing: &mut usize,
    input: &[u8],
) -> Result<Piece, BodyFault> {
    if let At::Trailers { scan } = at {
        return next_trailers(scan, 0, input);
    }
    for (skip, &byte) in input.iter().enumerate() {
        *at = match (*at, byte) {
            (At::Data { left }, _) => {
                let rest = input.len() - skip;
                let length = rest.min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - length as u64;
                *at = if left == 0 {
                    At::DataReturn
                } else {
                    At::Data { left }
                };
                *framing = 0;
                return Ok(Piece::Data { skip, length });
            }
            (At::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == 16 {
                    return Err(BodyFault("a chunk's size has too many digits"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                At::Size {
                    value: value << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (At::Size { value, digits: 1.. }, b'\r') => At::SizeFeed { value },
            (At::Size { value, digits: 1.. }, b';' | b' ' | b'\t') if !strict => {
                At::Extension { value }
            }
            (At::Size { .. }, _) => return Err(BodyFault("a chunk's size is malformed")),
            (At::Extension { value }, b'\r') => At::SizeFeed { value },
            (At::Extension { .. }, 0 | b'\n') => {
                return Err(BodyFault("a chunk's extension is malformed"));
            }
            (At::Extension { value }, _) => At::Extension { value },
            (At::SizeFeed { value: 0 }, b'\n') => {
                let mut scan = HeadScan::default();
                let piece = next_trailers(&mut scan, skip + 1, input);
                *at = At::Trailers { scan };
                return piece;
            }
            (At::SizeFeed { value }, b'\n') => At::Data { left: value },
            (At::DataReturn, b'\r') => At::DataFeed,
            (At::DataFeed, b'\n') => At::Size {
                value: 0,
                digits: 0,
            },
            (At::SizeFeed { .. } | At::DataReturn | At::DataFeed | At::Trailers { .. }, _) => {
                return Err(BodyFault("a chunk does not end with CR LF"));
            }
        };
        *framing += 1;
        if *framing > MOST_FRAMING {
            return Err(BodyFault("its chunk extensions are too long"));
        }
    }
    Ok(Piece::Wait { skip: input.len() })
}

/// Looks for the end of the trailers, which begin `skip` bytes into the input.
fn next_trailers(scan: &mut HeadScan, skip: usize, input: &[u8]) -> Result<Piece, BodyFault> {
    match scan.next(&input[skip..]) {
        Scanned::End(trailers) if trailers <= MOST_TRAILERS => Ok(Piece::End {
            skip: skip + trailers,
            trailers,
        }),
        Scanned::Partial if input.len() - skip < MOST_TRAILERS => Ok(Piece::Wait { skip }),
        Scanned::BareLineFeed => Err(BodyFault("a trailer does not end with CR LF")),
        Scanned::End(_) | Scanned::Partial => Err(BodyFault("its trailers are too long")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `input` in pieces of `step` bytes; what was read, and how many bytes it took.
    fn read(mut body: Body, input: &[u8], step: usize) -> Result<(Vec<u8>, usize), BodyFault> {
        let (mut data, mut at, mut end) = (Vec::new(), 0, 0);
        while !body.is_done() {
            match body.next(&input[at..end])? {
                Piece::Data { skip, length } => {
                    data.extend_from_slice(&input[at + skip..at + skip + length]);
                    at += skip + length;
                }
                Piece::End { skip, .. } => at += skip,
                Piece::Wait { skip } => {
                    at += skip;
                    if end == input.len() {
                        return Err(BodyFault("cut"));
                    }
                    end = (end + step).min(input.len());
                }
            }
        }
        Ok((data, at))
    }

    proptest! {
        #[test]
        fn chunks_read_back_however_they_are_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            step in 1usize..50,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                crate::h1::push_chunk(chunk, &mut wire);
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let length = wire.len();
            wire.extend_from_slice(b"GET / HTTP/1.1\r\n");
            prop_assert_eq!(read(Body::chunked(true), &wire, step), Ok((chunks.concat(), length)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(Body::chunked(false), &bytes, 7);
        }
    }

    #[test]
    fn lengths_end_where_they_say() {
        assert_eq!(
            read(Body::of_length(3), b"abcdef", 2),
            Ok((b"abc".to_vec(), 3))
        );
        assert!(Body::of_length(0).is_done());
        let mut body = Body::of_length(3);
        assert!(!body.end_of_stream());
        assert!(Body::until_close().end_of_stream());
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1;x=y\r\na\r\n",
            "1 \r\na\r\n",
            "11111111111111111\r\n",
            "0\r\n\n",
            "0\r\nx: y\n\r\n",
            "1\r\na0\r\n\r\n",
            "1\r\r\na\r\n",
        ] {
            let error = read(Body::chunked(true), bad.as_bytes(), 64).unwrap_err();
            assert_ne!(error.0, "cut", "{bad:?}");
        }
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(9_000));
        assert!(read(Body::chunked(false), long.as_bytes(), 64).is_err());
        let read = read(Body::chunked(false), b"1;x=y\r\na\r\n0\r\nt: v\r\n\r\n", 64);
        assert_eq!(read, Ok((b"a".to_vec(), 21)));
    }

    #[test]
    fn trailers_are_found_however_they_arrive() {
        let wire = b"1\r\na\r\n0\r\nt: v\r\nu: w\r\n\r\nGET /";
        let section = &b"t: v\r\nu: w\r\n\r\n"[..];
        for step in 1..wire.len() {
            let (mut body, mut at, mut end) = (Body::chunked(true), 0, 0);
            loop {
                match body.next(&wire[at..end]).unwrap() {
                    Piece::Data { skip, length } => at += skip + length,
                    Piece::End { skip, trailers } => {
                        at += skip;
                        assert_eq!(&wire[at - trailers..at], section, "{step}");
                        break;
                    }
                    Piece::Wait { skip } => {
                        at += skip;
                        end = (end + step).min(wire.len());
                    }
                }
            }
            assert_eq!(&wire[at..], b"GET /");
        }
        for long in [
            format!("0\r\nx: {}\r\n\r\n", "y".repeat(MOST_TRAILERS)),
            format!("0\r\nx: {}", "y".repeat(MOST_TRAILERS)),
            format!("0\r\n{}", "x: y\r\n".repeat(MOST_TRAILERS / 6 + 1)),
        ] {
            let fault = read(Body::chunked(true), long.as_bytes(), 64).unwrap_err();
            assert_eq!(fault.0, "its trailers are too long");
        }
    }
}
