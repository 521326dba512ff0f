//! The one canonical form of a request's path and query, computed once and used by the router,
//! every policy and the upstream alike, so that no two of them can disagree about what was asked.
//!
//! What has one obvious meaning is rewritten: unreserved characters are decoded (`%61` → `a`),
//! hexadecimal digits become upper case, bytes that RFC 3986 wants encoded are encoded. What two
//! parties could read in two ways is refused: dot segments in any spelling, encoded slashes,
//! backslashes and control characters, double encodings of those, path parameters (`;`), empty
//! segments (`//`) and bytes that no UTF-8 text contains. Merging or resolving them, as some
//! servers do, would make the gateway's reading one of several; honest clients never send them.

/// Why a path or query has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotAbsolute,
    EmptySegment,
    DotSegment,
    EncodedSeparator,
    Backslash,
    Semicolon,
    Fragment,
    Control,
    BadEncoding,
    DoubleEncoding,
}

impl Refusal {
    /// In words that complete "… is refused:".
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::NotAbsolute => "a path begins with a slash",
            Self::EmptySegment => "it has an empty segment (`//`)",
            Self::DotSegment => "it has a `.` or `..` segment; resolve it before sending",
            Self::EncodedSeparator => "it has an encoded slash, backslash or semicolon",
            Self::Backslash => "it has a backslash",
            Self::Semicolon => "it has a semicolon (path parameters)",
            Self::Fragment => "it has a `#`; fragments stay with the client",
            Self::Control => "it has a control character or a space",
            Self::BadEncoding => "it has a `%` without two hexadecimal digits, or no UTF-8 text",
            Self::DoubleEncoding => "it has a separator, dot or `%` that is encoded twice",
        }
    }
}

/// What to do with a raw byte of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Percent,
    Encode,
    Refuse(Refusal),
}

const CLASSES: [Class; 256] = {
    let mut table = [Class::Encode; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Plain,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => {
                Class::Plain
            }
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b'\\' => Class::Refuse(Refusal::Backslash),
            b';' => Class::Refuse(Refusal::Semicolon),
            b'#' => Class::Refuse(Refusal::Fragment),
            0..=b' ' | 0x7f => Class::Refuse(Refusal::Control),
            // Never part of UTF-8; overlong encodings of `.` and `/` begin with them.
            0xc0 | 0xc1 | 0xf5..=0xff => Class::Refuse(Refusal::BadEncoding),
            _ => Class::Encode,
        };
        byte += 1;
    }
    table
};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends the canonical form of `path` (no query) to `out`, which is ASCII then.
pub(crate) fn canonicalise(path: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    if path.first() != Some(&b'/') {
        return Err(Refusal::NotAbsolute);
    }
    let begin = out.len();
    let mut segment = begin;
    let mut encoded_percent = false;
    let mut at = 0;
    while at < path.len() {
        let byte = path[at];
        match CLASSES[usize::from(byte)] {
            Class::Plain => {
                let rest = &path[at..];
                let run = rest
                    .iter()
                    .take_while(|b| CLASSES[usize::from(**b)] == Class::Plain);
                let run = run.count();
                out.extend_from_slice(&rest[..run]);
                at += run;
                continue;
            }
            Class::Slash => {
                if at > 0 {
                    end_segment(&out[segment..])?;
                }
                out.push(b'/');
                segment = out.len();
            }
            Class::Percent => {
                let byte = hex_pair(path.get(at + 1..at + 3)).ok_or(Refusal::BadEncoding)?;
                at += 2;
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        out.push(byte);
                    }
                    b'/' | b'\\' | b';' => return Err(Refusal::EncodedSeparator),
                    0..=0x1f | 0x7f => return Err(Refusal::Control),
                    0xc0 | 0xc1 | 0xf5..=0xff => return Err(Refusal::BadEncoding),
                    _ => {
                        encoded_percent |= byte == b'%';
                        push_encoded(byte, out);
                    }
                }
            }
            Class::Encode => push_encoded(byte, out),
            Class::Refuse(refusal) => return Err(refusal),
        }
        at += 1;
    }
    let last = &out[segment..];
    if last == b"." || last == b".." {
        return Err(Refusal::DotSegment);
    }
    // Looked for in the output, because decoding can bring `%25` and two digits together.
    if encoded_percent && has_double_encoding(&out[begin..]) {
        return Err(Refusal::DoubleEncoding);
    }
    Ok(())
}

fn end_segment(segment: &[u8]) -> Result<(), Refusal> {
    match segment {
        b"" => Err(Refusal::EmptySegment),
        b"." | b".." => Err(Refusal::DotSegment),
        _ => Ok(()),
    }
}

fn has_double_encoding(canonical: &[u8]) -> bool {
    canonical.windows(5).any(|window| {
        window.starts_with(b"%25")
            && matches!(
                hex_pair(Some(&window[3..])),
                Some(b'/' | b'\\' | b'.' | b'%' | b';' | 0..=0x1f | 0x7f)
            )
    })
}

/// Appends the canonical form of `query` (what follows the `?`) to `out`.
pub(crate) fn canonicalise_query(query: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    for &byte in query {
        match byte {
            b'#' => return Err(Refusal::Fragment),
            0..=b' ' | 0x7f => return Err(Refusal::Control),
            0x80.. => push_encoded(byte, out),
            _ => out.push(byte),
        }
    }
    Ok(())
}

fn push_encoded(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[
        b'%',
        HEX[usize::from(byte >> 4)],
        HEX[usize::from(byte & 15)],
    ]);
}

fn hex_pair(digits: Option<&[u8]>) -> Option<u8> {
    let &[high, low] = digits? else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

#[cfg(test)]
mod tests;
