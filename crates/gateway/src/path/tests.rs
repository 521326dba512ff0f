use proptest::prelude::*;

use super::*;

fn canonical(path: &str) -> Result<String, Refusal> {
    let mut out = Vec::new();
    canonicalise(path.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn one_meaning_one_form() {
    for (raw, expected) in [
        ("/", "/"),
        ("/a/b/", "/a/b/"),
        ("/%61%2D%7e", "/a-~"),
        ("/a%3fb%23c", "/a%3Fb%23c"),
        ("/ä", "/%C3%A4"),
        ("/%c3%a4", "/%C3%A4"),
        ("/a b".replace(' ', "%20").as_str(), "/a%20b"),
        ("/100%25", "/100%25"),
        ("/%25zz", "/%25zz"),
        ("/...", "/..."),
        ("/.well-known/x", "/.well-known/x"),
        ("/{id}", "/%7Bid%7D"),
        ("/a:b@c,d=e+f", "/a:b@c,d=e+f"),
    ] {
        assert_eq!(canonical(raw).as_deref(), Ok(expected), "{raw}");
    }
}

#[test]
fn two_meanings_are_refused() {
    use Refusal::*;
    for (raw, refusal) in [
        ("", NotAbsolute),
        ("a", NotAbsolute),
        ("//admin", EmptySegment),
        ("/a//b", EmptySegment),
        ("/a//", EmptySegment),
        ("/x/../admin", DotSegment),
        ("/x/./admin", DotSegment),
        ("/..", DotSegment),
        ("/.", DotSegment),
        ("/x/%2e%2e/admin", DotSegment),
        ("/x/.%2E/admin", DotSegment),
        ("/x/%2e", DotSegment),
        ("/x%2fadmin", EncodedSeparator),
        ("/x%5Cadmin", EncodedSeparator),
        ("/x%3bv=1/admin", EncodedSeparator),
        ("/x\\admin", Backslash),
        ("/..;/admin", Semicolon),
        ("/admin;x", Semicolon),
        ("/a#b", Fragment),
        ("/a%00", Control),
        ("/a%0d%0aset-cookie:x", Control),
        ("/a\tb", Control),
        ("/%252f", DoubleEncoding),
        ("/%252e%252e/", DoubleEncoding),
        ("/%25252f", DoubleEncoding),
        ("/%25%32f", DoubleEncoding),
        ("/%2500", DoubleEncoding),
        ("/%", BadEncoding),
        ("/%2", BadEncoding),
        ("/%zz", BadEncoding),
        ("/%+1", BadEncoding),
        ("/%c0%ae%c0%ae/", BadEncoding),
    ] {
        assert_eq!(canonical(raw), Err(refusal), "{raw}");
    }
}

/// Decodes every `%XX` once, as a lenient server would.
fn decoded(path: &str) -> Vec<u8> {
    let (bytes, mut out, mut at) = (path.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        match hex_pair(bytes.get(at + 1..at + 3)) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// Paths made of the pieces that attacks are made of.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "a", "B", ".", "..", "%2e", "%2E", "%2f", "%5c", "\\", "%25", "25", "2f", "%", "%61",
        "%32", ";", "%3b", "%00", "%c3%a4", "ä", "%c0%ae", "~", "%7e", "#", "?", " ", "%20",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #[test]
    fn canonicalising_twice_changes_nothing(path in hostile()) {
        if let Ok(once) = canonical(&path) {
            prop_assert_eq!(canonical(&once), Ok(once.clone()));
        }
    }

    /// Whoever decodes what passes, once or twice, finds the same segments and no way up.
    #[test]
    fn what_passes_reads_the_same_decoded(path in hostile()) {
        if let Ok(once) = canonical(&path) {
            let text = decoded(&once);
            let twice = decoded(&String::from_utf8_lossy(&text));
            for reading in [&text, &twice] {
                prop_assert_eq!(
                    reading.iter().filter(|b| **b == b'/').count(),
                    once.bytes().filter(|b| *b == b'/').count()
                );
                prop_assert!(!reading.contains(&b'\\') && !reading.contains(&b';') && !reading.contains(&0));
                let dots = |segment: &[u8]| segment == b"." || segment == b"..";
                prop_assert!(!reading.split(|b| *b == b'/').any(dots));
            }
        }
    }

    #[test]
    fn plain_paths_pass_unchanged(path in "(/[a-zA-Z0-9_~-]{1,8}){1,5}/?") {
        prop_assert_eq!(canonical(&path), Ok(path.clone()));
    }

    #[test]
    fn any_bytes_give_ascii_or_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut out = Vec::new();
        if canonicalise(&bytes, &mut out).is_ok() {
            prop_assert!(out.iter().all(u8::is_ascii_graphic));
        }
        let mut query = Vec::new();
        if canonicalise_query(&bytes, &mut query).is_ok() {
            prop_assert!(query.iter().all(u8::is_ascii_graphic));
        }
    }
}
