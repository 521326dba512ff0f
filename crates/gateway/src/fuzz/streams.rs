//! What arrives in pieces: bodies in chunks, trailers, and the header of the PROXY protocol.

use super::{Outcome, below, cuts, fuzz, holds};
use crate::{
    h1::{Body, HeadScan, Piece, Scanned, push_chunk, push_last_chunk},
    proxy::{Malformed, parse},
};

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"0",
    b"00",
    b"1",
    b"a",
    b"F",
    b"ffffffffffffffff",
    b";",
    b";x=y",
    b" ",
    b"\t",
    b"-",
    b"+",
    b"0x",
    b"\0",
    b"0\r\n",
    b"0\r\n\r\n",
    b"X: y\r\n",
    b"Host: b\r\n",
    b":",
    b"\r\n\r\n",
    b"_",
];

/// What a body came to.
#[derive(Debug, PartialEq)]
enum Read {
    /// Data, bytes taken, and how many of those were trailers.
    Whole(Vec<u8>, usize, usize),
    Cut,
    Fault,
}

/// Reads in pieces of the size that `next` says.
fn read(mut body: Body, input: &[u8], mut next: impl FnMut() -> usize) -> Read {
    let (mut data, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        match body.next(&input[at..end]) {
            Err(_) => return Read::Fault,
            Ok(Piece::Data { skip, length }) => {
                data.extend_from_slice(&input[at + skip..at + skip + length]);
                at += skip + length;
                if body.is_done() {
                    return Read::Whole(data, at, 0);
                }
            }
            Ok(Piece::End { skip, trailers }) => return Read::Whole(data, at + skip, trailers),
            Ok(Piece::Wait { skip }) => {
                at += skip;
                if end == input.len() {
                    return Read::Cut;
                }
                end = (end + next()).min(input.len());
            }
        }
    }
}

fn chunks(input: &[u8]) -> Outcome {
    let random = cuts(input);
    let whole = read(Body::chunked(true), input, || usize::MAX / 2);
    let pieces = read(Body::chunked(true), input, || 1 + below(&random, 20));
    holds!(whole == pieces, "in pieces {pieces:?}, at once {whole:?}");
    let single = read(Body::chunked(true), input, || 1);
    holds!(
        whole == single,
        "byte by byte {single:?}, at once {whole:?}"
    );
    let lenient = read(Body::chunked(false), input, || 1 + below(&random, 20));
    if let Read::Whole(data, length, trailers) = &whole {
        holds!(
            lenient == whole,
            "leniently {lenient:?}, strictly {whole:?}"
        );
        holds!(*length <= input.len(), "more bytes than there are");
        let mut again = Vec::new();
        for chunk in data.chunks(1 + below(&random, 50)) {
            push_chunk(chunk, &mut again);
        }
        again.extend_from_slice(b"0\r\n\r\n");
        let back = read(Body::chunked(true), &again, || 1 + below(&random, 20));
        let wanted = Read::Whole(data.clone(), again.len(), 2);
        holds!(back == wanted, "written again {back:?}");
        return last_chunk(&input[length - trailers..*length]);
    }
    holds!(
        !(lenient == Read::Fault && whole == Read::Cut),
        "only the lenient reader refuses"
    );
    Ok(())
}

/// What passes of trailers is whole, and passes again as it is.
fn last_chunk(section: &[u8]) -> Outcome {
    let pushed = |section: &[u8]| {
        let mut to = Vec::new();
        push_last_chunk(section, |_| false, &mut to).map(|()| to)
    };
    let Ok(once) = pushed(section) else {
        return Ok(());
    };
    let read = read(Body::chunked(true), &once, || 1);
    let wanted = Read::Whole(Vec::new(), once.len(), once.len() - 3);
    holds!(
        read == wanted,
        "it passes as {:?}",
        once.escape_ascii().to_string()
    );
    let twice = pushed(&once[3..]);
    holds!(twice.as_ref() == Ok(&once), "and then as {twice:?}");
    for name in [
        "content-length",
        "transfer-encoding",
        "host",
        "connection",
        "cookie",
    ] {
        let lower = once.to_ascii_lowercase();
        let line = format!("\n{name}:");
        let there = lower
            .windows(line.len())
            .any(|part| part == line.as_bytes());
        holds!(!there, "{name} trails");
    }
    Ok(())
}

#[test]
fn chunked_bodies() {
    let long = [
        &b"5\r\nhello\r\n0\r\n"[..],
        &b"X: y\r\n".repeat(60),
        b"\r\n",
    ]
    .concat();
    let seeds: &[&[u8]] = &[
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n6\r\n, worl\r\n1\r\nd\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"0000000a\r\n0123456789\r\n0\r\nX-Sum: 1\r\nETag: \"x\"\r\n\r\n",
        b"1;a=b\r\nx\r\n0;c\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n\r\n",
        &long,
    ];
    fuzz(seeds, WORDS, chunks);
}

#[test]
fn trailers() {
    let seeds: &[&[u8]] = &[
        b"\r\n",
        b"X-Sum: 1\r\n\r\n",
        b"X-Sum:  a b \r\nETag: \"x\"\r\nContent-Digest: y\r\ngrpc-status: 0\r\n\r\n",
        b"Content-Length: 5\r\nHost: b\r\nCookie: a\r\nX: \r\n\r\n",
    ];
    // Only whole sections come so far.
    fuzz(seeds, WORDS, |input| {
        match HeadScan::default().next(input) {
            Scanned::End(length) => last_chunk(&input[..length]),
            Scanned::Partial | Scanned::BareLineFeed => Ok(()),
        }
    });
}

fn proxy_header(input: &[u8]) -> Outcome {
    let whole = parse(input);
    let mut known = Ok(None);
    for length in 0..=input.len().min(5_000) {
        let now = parse(&input[..length]);
        match (&known, &now) {
            (Ok(None), _) => {}
            (before, now) => holds!(
                *before == *now,
                "{length} bytes change {before:?} to {now:?}"
            ),
        }
        if let Ok(Some(header)) = &now {
            holds!(header.length <= length, "longer than its bytes");
            holds!(header.length <= 4 << 10, "longer than its bound");
        }
        known = now;
        if length > 300 && known == Err(Malformed) {
            break;
        }
    }
    if input.len() <= 5_000 {
        holds!(whole == parse(input), "not the same again");
    } else {
        holds!(whole != Ok(None), "it waits for more than 5000 bytes");
    }
    Ok(())
}

#[test]
fn proxy_headers() {
    const BLOCK: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let v4 = [
        BLOCK,
        b"\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbbGET /",
    ]
    .concat();
    let v6 = [BLOCK, b"\x21\x21\x00\x24", &[7; 36], b"GET /"].concat();
    let listed = [BLOCK, b"\x21\x11\x00\x10", &[1; 12], b"\x04\x00\x01x"].concat();
    let local = [BLOCK, b"\x20\x00\x00\x00"].concat();
    let seeds: &[&[u8]] = &[
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n",
        b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
        &v4,
        &v6,
        &listed,
        &local,
    ];
    let words: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b" ",
        b"PROXY ",
        b"TCP4",
        b"TCP6",
        b"UNKNOWN",
        b"0",
        b"65536",
        b"::1",
        b"1.2.3.4",
        b"\0",
        BLOCK,
        b"\x21",
        b"\x11",
        b"\xff\xff",
        b"\x00\x0c",
    ];
    fuzz(seeds, words, proxy_header);
}
