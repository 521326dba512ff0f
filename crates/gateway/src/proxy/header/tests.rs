use proptest::prelude::*;

use super::*;

fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [BLOCK, &[command, family], &length, rest].concat()
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0x1f, 0x90, 1, 187];

/// The whole header is read from its bytes with others behind them, and from no part of it.
fn reads_as(bytes: &[u8], source: Option<&str>) {
    let source = source.map(|text| text.parse().unwrap());
    let expected = Header {
        length: bytes.len(),
        source,
    };
    let shown = String::from_utf8_lossy(bytes);
    for behind in [&b""[..], b"GET / HTTP/1.1\r\n", b"\r\n", b"\x16\x03\x01"] {
        let read = parse(&[bytes, behind].concat());
        assert_eq!(read, Ok(Some(expected)), "{shown:?}");
    }
    for end in 0..bytes.len() {
        assert_eq!(parse(&bytes[..end]), Ok(None), "{end} of {shown:?}");
    }
}

#[test]
fn lines() {
    for (line, source) in [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.7 8080 443",
            Some("192.0.2.1:8080"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535",
            Some("255.255.255.255:65535"),
        ),
        ("PROXY TCP4 192.0.2.1 198.51.100.7 0 0", Some("192.0.2.1:0")),
        (
            "PROXY TCP6 2001:db8::1 ::1 8080 443",
            Some("[2001:db8::1]:8080"),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
            Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        ("PROXY UNKNOWN", None),
        ("PROXY UNKNOWN ffff::1 ffff::2 1 2", None),
        ("PROXY UNKNOWN anything at all", None),
    ] {
        reads_as(format!("{line}\r\n").as_bytes(), source);
    }
}

#[test]
fn lines_that_are_none() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 192.0.2.1 198.51.100.7 8080 443\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.7 8080 443\r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.7 8080 443\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.7 8080 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 8080\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 8080 443 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 8080 443 \r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.7 8080 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 08080 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 +8080 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 -1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 8080 \r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.7 8080 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.7 8080 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.7 8080 443\r\n",
        "PROXY TCP4 ::1 ::1 8080 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.7 8080 443\r\n",
        "PROXY TCP6 ::1%eth0 ::1 8080 443\r\n",
        "PROXY TCP4\t192.0.2.1 198.51.100.7 8080 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 8080 443\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 8080 443\r\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN\u{0}\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line:?}");
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_LINE));
    assert_eq!(parse(long.as_bytes()), Err(Malformed));
    assert_eq!(parse(&long.as_bytes()[..LONGEST_LINE]), Err(Malformed));
    assert_eq!(parse(b"PROXY UNKNOWN \xff\r\n"), Err(Malformed));
}

#[test]
fn blocks() {
    let v6 = [
        &[0x20, 1, 0xd, 0xb8][..],
        &[0; 11],
        &[1],
        &[9; 16],
        &[0x1f, 0x90, 1, 187],
    ]
    .concat();
    let listed = [&V4[..], &[4, 0, 0], &[1, 0, 2, b'h', b'2']].concat();
    reads_as(&block(0x21, 0x11, &V4), Some("192.0.2.1:8080"));
    reads_as(&block(0x21, 0x11, &listed), Some("192.0.2.1:8080"));
    reads_as(&block(0x21, 0x21, &v6), Some("[2001:db8::1]:8080"));
    reads_as(&block(0x20, 0x00, &[]), None);
    reads_as(&block(0x20, 0x11, &V4), None);
    reads_as(&block(0x21, 0x00, &[]), None);
    reads_as(&block(0x21, 0x00, &[7; 9]), None);
    reads_as(&block(0x20, 0x00, &[0; LONGEST_BLOCK - FIXED]), None);
}

#[test]
fn blocks_that_are_none() {
    for (command, family, rest) in [
        (0x11, 0x11, &V4[..]),
        (0x31, 0x11, &V4),
        (0x22, 0x11, &V4),
        (0x2f, 0x11, &V4),
        (0x21, 0x12, &V4),
        (0x21, 0x10, &V4),
        (0x21, 0x01, &V4),
        (0x21, 0x31, &[0; 216]),
        (0x21, 0x41, &V4),
        (0x21, 0x11, &V4[..11]),
        (0x21, 0x21, &V4),
        (0x21, 0x11, &[]),
        (0x21, 0x11, &[0; 13]),
        (0x21, 0x11, &[0; 14]),
        (0x21, 0x11, &[&V4[..], &[1, 0, 9, 0]].concat()),
        (0x20, 0x00, &[0; LONGEST_BLOCK]),
    ] {
        let bytes = block(command, family, rest);
        assert_eq!(parse(&bytes), Err(Malformed), "{bytes:02x?}");
    }
    for wrong in 0..BLOCK.len() {
        let mut bytes = block(0x21, 0x11, &V4);
        bytes[wrong] ^= 1;
        assert_eq!(parse(&bytes), Err(Malformed), "byte {wrong}");
    }
}

proptest! {
    #[test]
    fn what_is_read_is_there(tail in proptest::collection::vec(any::<u8>(), 0..200), which in 0..3_usize) {
        let bytes = [[&b""[..], LINE, BLOCK][which], &tail].concat();
        if let Ok(Some(header)) = parse(&bytes) {
            prop_assert!(header.length <= bytes.len());
            prop_assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
        }
    }
}
