//! What lets a request be followed through the system: `x-request-id`, and the W3C trace context
//! (<https://www.w3.org/TR/trace-context/>). The gateway records no spans of its own, so a context
//! that comes in passes unchanged: its parent is then the caller's span, which somebody knows.

use crate::{
    h1::{FieldKind, RequestHead},
    random::Random,
};

/// Keeps the client's id if it is one and well formed, and makes one otherwise.
pub(crate) fn request_id(head: &RequestHead, random: &Random, to: &mut String) {
    if let Ok(Some(id)) = head.single(FieldKind::RequestId)
        && (1..=128).contains(&id.len())
        && id
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && let Ok(id) = std::str::from_utf8(id)
    {
        to.push_str(id);
        return;
    }
    let mut bytes = std::mem::take(to).into_bytes();
    random.push_hex(2, &mut bytes);
    *to = String::from_utf8(bytes).expect("hexadecimal digits are ASCII");
}

/// The client's trace context, if it stands once and is well formed.
pub(crate) fn context(head: &RequestHead) -> Option<&[u8]> {
    let context = head.single(FieldKind::TraceParent).ok()??;
    well_formed(context).then_some(context)
}

/// `version-trace-parent-flags`, lower-case hexadecimal, neither id all zero.
fn well_formed(context: &[u8]) -> bool {
    let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let &[v1, v2, b'-', ref rest @ ..] = context else {
        return false;
    };
    let Some((trace, rest)) = rest.split_at_checked(32) else {
        return false;
    };
    let Some((parent, flags)) = rest.split_at_checked(17) else {
        return false;
    };
    let [b'-', parent @ ..] = parent else {
        return false;
    };
    let (length_fits, flags) = match flags {
        [b'-', flag_1, flag_2] => (true, [*flag_1, *flag_2]),
        // Later versions may append fields.
        [b'-', flag_1, flag_2, b'-', ..] => (v1 != b'0' || v2 != b'0', [*flag_1, *flag_2]),
        _ => return false,
    };
    length_fits
        && [v1, v2] != *b"ff"
        && [v1, v2].iter().all(hex)
        && trace.iter().all(hex)
        && trace.iter().any(|b| *b != b'0')
        && parent.iter().all(hex)
        && parent.iter().any(|b| *b != b'0')
        && flags.iter().all(hex)
}

/// Of a well-formed context.
pub(crate) fn trace_id(context: &[u8]) -> Option<&str> {
    std::str::from_utf8(context.get(3..35)?).ok()
}

/// Appends a `traceparent` line that begins a trace, not sampled: whoever records decides. Answers where its value
/// begins.
pub(crate) fn push_new_context(random: &Random, to: &mut Vec<u8>) -> usize {
    to.extend_from_slice(b"traceparent: ");
    let at = to.len();
    to.extend_from_slice(b"00-");
    random.push_hex(2, to);
    to.push(b'-');
    random.push_hex(1, to);
    to.extend_from_slice(b"-00\r\n");
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_checked() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(well_formed(good.as_bytes()));
        assert!(well_formed(format!("cc{}-more", &good[2..]).as_bytes()));
        for bad in [
            String::new(),
            good.to_uppercase(),
            good.replace("4bf9", "0000")
                .replace(|c: char| c.is_alphanumeric(), "0"),
            format!("ff{}", &good[2..]),
            format!("{good}-more"),
            format!("{good}0"),
            good[..54].to_owned(),
            good.replace('-', "_"),
        ] {
            assert!(!well_formed(bad.as_bytes()), "{bad}");
        }
        let mut line = Vec::new();
        let at = push_new_context(&Random::new(), &mut line);
        assert!(well_formed(line[at..].trim_ascii()));
        assert_eq!(trace_id(good.as_bytes()), Some(&good[3..35]));
    }
}
