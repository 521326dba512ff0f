//! Who a client has proved to be with its certificate, as header lines for services.

use std::fmt::Write;

use super::certificate::Leaf;

/// Longer lines no service would take; such certificates exist only to try that.
const LONGEST: usize = 8 << 10;

/// The `X-Client-Certificate-…` lines. `None` when they would be too long for a head.
pub(crate) fn lines(leaf: &Leaf) -> Option<String> {
    let mut lines = String::new();
    push(&mut lines, "subject", [leaf.subject.as_str()]);
    push(&mut lines, "cn", leaf.common_name.as_deref());
    push(&mut lines, "dns", leaf.names.iter().map(String::as_str));
    push(&mut lines, "uri", leaf.uris.iter().map(String::as_str));
    let _ = write!(lines, "x-client-certificate-sha256: ");
    for byte in leaf.sha256 {
        let _ = write!(lines, "{byte:02x}");
    }
    lines.push_str("\r\n");
    (lines.len() <= LONGEST).then_some(lines)
}

/// One line, or none when there is no value. What a certificate says may be anything, a header may
/// not: what is not visible ASCII is percent-encoded, and so is a comma within one of several values.
fn push<'a>(lines: &mut String, name: &str, values: impl IntoIterator<Item = &'a str>) {
    let alone = name == "subject" || name == "cn";
    for (index, value) in values.into_iter().enumerate() {
        if index == 0 {
            let _ = write!(lines, "x-client-certificate-{name}: ");
        } else {
            lines.push(',');
        }
        for byte in value.bytes() {
            match byte {
                b' ' if alone => lines.push(' '),
                b',' if !alone => lines.push_str("%2C"),
                b'!'..=b'~' if byte != b'%' => lines.push(char::from(byte)),
                _ => {
                    let _ = write!(lines, "%{byte:02X}");
                }
            }
        }
    }
    if lines.ends_with(|last| last != '\n') && !lines.is_empty() {
        lines.push_str("\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_cannot_break_out_of_its_lines() {
        let leaf = Leaf {
            names: vec!["a.example".into(), "b,c".into()],
            uris: vec!["spiffe://x/y\r\nx-auth-subject: root".into()],
            subject: "O=Acme, CN=ä%".into(),
            common_name: Some("a b\n".into()),
            not_before: 0,
            not_after: 1,
            sha256: [0xab; 32],
        };
        let expected = format!(
            "x-client-certificate-subject: O=Acme, CN=%C3%A4%25\r\n\
             x-client-certificate-cn: a b%0A\r\n\
             x-client-certificate-dns: a.example,b%2Cc\r\n\
             x-client-certificate-uri: spiffe://x/y%0D%0Ax-auth-subject:%20root\r\n\
             x-client-certificate-sha256: {}\r\n",
            "ab".repeat(32)
        );
        assert_eq!(lines(&leaf).unwrap(), expected);
        let many = Leaf {
            names: vec!["a.example".into(); 1_000],
            ..leaf
        };
        assert_eq!(lines(&many), None);
    }
}
