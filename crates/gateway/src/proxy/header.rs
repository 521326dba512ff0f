//! The header itself: version 1, a line of text, and version 2, a block of bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of it.
    pub(crate) length: usize,
    /// Who connected to the proxy; nobody when it connected for itself, or does not say.
    pub(crate) source: Option<SocketAddr>,
}

/// The bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;
/// More than that in version 2 no proxy has to say.
const LONGEST_BLOCK: usize = 4 << 10;
const LINE: &[u8] = b"PROXY ";
const BLOCK: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What goes before the addresses of version 2.
const FIXED: usize = 16;

/// Reads a header from the beginning of `bytes`. `None` while all of them belong to one that is not
/// there as a whole.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins(bytes, LINE) {
        parse_line(bytes)
    } else if begins(bytes, BLOCK) {
        parse_block(bytes)
    } else {
        Err(Malformed)
    }
}

/// Whether the bytes begin with `with`, as far as there are any.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let both = bytes.len().min(with.len());
    bytes[..both] == with[..both]
}

fn parse_line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() < LONGEST_LINE {
            Ok(None)
        } else {
            Err(Malformed)
        };
    };
    let text = line[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    let mut words = text.split(' ').skip(1);
    let mut next = || words.next().ok_or(Malformed);
    let family = next()?;
    let source = if family == "UNKNOWN" {
        // Whatever follows means nothing.
        None
    } else {
        let read: fn(&str) -> Option<IpAddr> = match family {
            "TCP4" => |text| text.parse().ok().map(IpAddr::V4),
            "TCP6" => |text| text.parse().ok().map(IpAddr::V6),
            _ => return Err(Malformed),
        };
        let (source, target) = (next()?, next()?);
        let (source, _) = (
            read(source).ok_or(Malformed)?,
            read(target).ok_or(Malformed)?,
        );
        let (port, _) = (port(next()?)?, port(next()?)?);
        if words.next().is_some() {
            return Err(Malformed);
        }
        Some(SocketAddr::new(source, port))
    };
    Ok(Some(Header {
        length: end + 1,
        source,
    }))
}

fn port(text: &str) -> Result<u16, Malformed> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten().ok_or(Malformed)
}

fn parse_block(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    // What is wrong is said as soon as it is seen: the rest may never come.
    let addresses = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => false,
        Some(0x21) => true,
        Some(_) => return Err(Malformed),
    };
    let need = match bytes.get(13) {
        None => return Ok(None),
        Some(0x11) => 12,
        Some(0x21) => 36,
        // Unspecified.
        Some(0x00) => 0,
        Some(_) => return Err(Malformed),
    };
    let Some(length) = bytes.get(14..FIXED) else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > LONGEST_BLOCK || length < FIXED + need {
        return Err(Malformed);
    }
    let Some(rest) = bytes.get(FIXED..length) else {
        return Ok(None);
    };
    // What an unspecified family says is in no form that is known.
    if need > 0 && !is_list(&rest[need..]) {
        return Err(Malformed);
    }
    let source = match (addresses, need) {
        (true, 12) => {
            let address: [u8; 4] = rest[..4].try_into().map_err(|_| Malformed)?;
            let port = u16::from_be_bytes([rest[8], rest[9]]);
            Some(SocketAddr::new(Ipv4Addr::from(address).into(), port))
        }
        (true, 36) => {
            let address: [u8; 16] = rest[..16].try_into().map_err(|_| Malformed)?;
            let port = u16::from_be_bytes([rest[32], rest[33]]);
            Some(SocketAddr::new(Ipv6Addr::from(address).into(), port))
        }
        _ => None,
    };
    Ok(Some(Header { length, source }))
}

/// Whether these are values, each with its kind and length before it.
fn is_list(mut bytes: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(after) = rest.get(length..) else {
            return false;
        };
        bytes = after;
    }
    bytes.is_empty()
}

#[cfg(test)]
mod tests;
