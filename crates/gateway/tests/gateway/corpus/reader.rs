//! How the corpus is written down: `tests/corpus/README.md`.

use std::{fs, path::PathBuf};

use crate::h2_support::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame,
};

/// The cases of one file.
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) http2: bool,
    /// `@name value` lines: how the gateway is configured.
    pub(crate) settings: Vec<(String, u64)>,
    pub(crate) cases: Vec<Case>,
}

/// One input and what it must come to.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) input: Vec<u8>,
    /// The client ends its half behind the input.
    pub(crate) ends: bool,
    pub(crate) answers: Vec<Answer>,
    /// The connection goes on behind it.
    pub(crate) open: bool,
    /// What the service gets.
    pub(crate) passes: Vec<Passed>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// A response with this status; with this code, when it is a problem.
    Status(u16, Option<String>),
    /// The same to a HEAD request.
    ToHead(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// Either of both.
    Refused(u32),
}

/// A request as a service gets it.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Method and target.
    pub(crate) first: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) absent: Vec<String>,
    pub(crate) body: Option<Vec<u8>>,
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

impl Family {
    pub(crate) fn read(name: &str) -> Self {
        let path = folder().join(format!("{name}.txt"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut family = Self {
            name: name.to_owned(),
            http2: false,
            settings: Vec::new(),
            cases: Vec::new(),
        };
        let mut blocks = text.split("\n== ");
        for line in blocks.next().unwrap_or_default().lines() {
            match line.strip_prefix('@') {
                Some("http2") => family.http2 = true,
                Some(setting) => {
                    let (key, value) = setting.split_once(' ').expect("@name value");
                    let value = value.parse().expect("a number");
                    family.settings.push((key.to_owned(), value));
                }
                None => assert!(line.is_empty() || line.starts_with('#'), "{name}: {line}"),
            }
        }
        for block in blocks {
            let case = Case::read(block, family.http2);
            let twin = family.cases.iter().any(|other| other.name == case.name);
            assert!(!twin, "{name}: two cases are called {}", case.name);
            family.cases.push(case);
        }
        assert!(!family.cases.is_empty(), "{name} has no cases");
        family
    }
}

impl Case {
    fn read(block: &str, http2: bool) -> Self {
        let (name, rest) = block.split_once('\n').expect("a case behind its name");
        let mut case = Self {
            name: name.to_owned(),
            input: Vec::new(),
            ends: false,
            answers: Vec::new(),
            open: false,
            passes: Vec::new(),
        };
        let mut input = Vec::new();
        let mut lines = rest.lines().peekable();
        while !case.ends
            && let Some(line) = lines.next_if(|line| !line.starts_with("-> "))
        {
            match line {
                ".. end" => case.ends = true,
                line => input.push(line),
            }
        }
        for line in lines {
            case.expect(line);
        }
        case.input = if http2 {
            Frames::read(&input).bytes
        } else {
            lines_of(&input)
        };
        case
    }

    fn expect(&mut self, line: &str) {
        let name = &self.name;
        if let Some(answer) = line.strip_prefix("-> ") {
            let mut words = answer.split(' ');
            let first = words.next().unwrap_or_default();
            let second = words.next();
            let code = || error_code(second.expect("an error code"));
            self.answers.push(match (first, second) {
                ("open", _) => return self.open = true,
                ("closed", _) => return self.open = false,
                ("reset", _) => Answer::Reset(code()),
                ("goaway", _) => Answer::GoAway(code()),
                ("refused", _) => Answer::Refused(code()),
                (status, Some("head")) => Answer::ToHead(status.parse().expect("a status")),
                (status, problem) => Answer::Status(
                    status.parse().expect("a status"),
                    problem.map(ToOwned::to_owned),
                ),
            });
        } else if let Some(first) = line.strip_prefix("=> ") {
            self.passes.push(Passed {
                first: first.to_owned(),
                ..Passed::default()
            });
        } else if let Some(detail) = line.strip_prefix("   ") {
            let passed = self.passes.last_mut().expect("a request before its fields");
            if let Some(absent) = detail.strip_prefix('!') {
                passed.absent.push(absent.to_owned());
            } else if let Some(body) = detail.strip_prefix('=') {
                passed.body = Some(bytes_of(body.strip_prefix(' ').unwrap_or_default()));
            } else {
                let (field, value) = detail.split_once(':').expect("name: value");
                let pair = (field.to_owned(), value.trim_start().to_owned());
                passed.fields.push(pair);
            }
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{name}: {line}");
        }
    }
}

/// Each line with CR LF behind it, unless it ends with a backslash.
fn lines_of(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        match line.strip_suffix('\\') {
            Some(open) => bytes.extend(bytes_of(open)),
            None => {
                bytes.extend(bytes_of(line));
                bytes.extend(b"\r\n");
            }
        }
    }
    bytes
}

/// The bytes of a text with escapes.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let mut length = 1;
        match escape.as_bytes().first() {
            Some(b'r') => bytes.push(b'\r'),
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'\\') => bytes.push(b'\\'),
            Some(b'x') => {
                length = 3;
                bytes.push(u8::from_str_radix(&escape[1..3], 16).expect("two digits"));
            }
            Some(b'{') => {
                let end = escape.find('}').expect("a brace that closes");
                length = end + 1;
                let (text, count) = escape[1..end].rsplit_once('*').expect("text*count");
                bytes.extend(bytes_of(text).repeat(count.parse().expect("a count")));
            }
            other => panic!("no such escape: {other:?} in {text:?}"),
        }
        rest = &escape[length..];
    }
    bytes.extend(rest.as_bytes());
    bytes
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frames as they are written down.
struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    fn read(lines: &[&str]) -> Self {
        let bare = lines.first() == Some(&"BARE");
        let mut frames = Self { bytes: Vec::new() };
        if !bare {
            frames.bytes.extend(PREFACE);
            frames.bytes.extend(frame(SETTINGS, 0, 0, b""));
        }
        frames.block(&lines[usize::from(bare)..], 1);
        frames
    }

    /// Frames, and blocks of them that are repeated. `stream` is what `n` means.
    fn block(&mut self, lines: &[&str], stream: u32) {
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at];
            at += 1;
            if let Some(count) = line.strip_prefix('x').and_then(|l| l.strip_suffix(" {")) {
                let end = lines[at..].iter().position(|line| *line == "}");
                let end = at + end.expect("a brace that closes");
                for round in 0..count.parse().expect("a count") {
                    self.block(&lines[at..end], stream + round * 2);
                }
                at = end + 1;
                continue;
            }
            let payload = lines[at..].iter().take_while(|line| line.starts_with("  "));
            let payload: Vec<_> = payload.map(|line| &line[2..]).collect();
            at += payload.len();
            if !line.is_empty() {
                self.one(line, &payload, stream);
            }
        }
    }

    fn one(&mut self, line: &str, payload: &[&str], stream: u32) {
        let mut words = line.split(' ');
        let kind = match words.next().unwrap_or_default() {
            "BYTES" => return self.bytes.extend(block_of(payload)),
            "DATA" => DATA,
            "HEADERS" => HEADERS,
            "PRIORITY" => PRIORITY,
            "RST_STREAM" => RST_STREAM,
            "SETTINGS" => SETTINGS,
            "PUSH_PROMISE" => 5,
            "PING" => PING,
            "GOAWAY" => GOAWAY,
            "WINDOW_UPDATE" => WINDOW_UPDATE,
            "CONTINUATION" => CONTINUATION,
            "UNKNOWN" => 0x77,
            other => panic!("no such frame: {other}"),
        };
        let id = match words.next().expect("a stream") {
            "n" => stream,
            id => id.parse().expect("a stream"),
        };
        let mut flags = if matches!(kind, HEADERS | CONTINUATION) {
            END_HEADERS
        } else {
            0
        };
        for word in words {
            match word {
                "END_STREAM" | "ACK" => flags |= END_STREAM,
                "MORE" => flags &= !END_HEADERS,
                "PADDED" => flags |= 8,
                "WITH_PRIORITY" => flags |= 0x20,
                other => panic!("no such flag: {other}"),
            }
        }
        self.bytes
            .extend(frame(kind, flags, id, &block_of(payload)));
    }
}

/// The payload of a frame.
fn block_of(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        if let Some(hex) = line.strip_prefix("hex ") {
            let byte = |word| u8::from_str_radix(word, 16).expect("two digits");
            bytes.extend(hex.split(' ').map(byte));
        } else if let Some(text) = line.strip_prefix("text ") {
            bytes.extend(bytes_of(text));
        } else if let Some(request) = line.strip_prefix("* ") {
            let (method, path) = request.split_once(' ').expect("method and path");
            for (name, value) in [
                (":method", method),
                (":scheme", "http"),
                (":path", path),
                (":authority", "a"),
            ] {
                push_field(&bytes_of(name), &bytes_of(value), &mut bytes);
            }
        } else {
            let field = line.split_once(": ");
            let field = field.or_else(|| Some((line.strip_suffix(':')?, "")));
            let (name, value) = field.unwrap_or_else(|| panic!("no field: {line}"));
            push_field(&bytes_of(name), &bytes_of(value), &mut bytes);
        }
    }
    bytes
}

/// A field as HPACK writes one that no table holds (RFC 7541 §6.2.2), without a check of any kind.
fn push_field(name: &[u8], value: &[u8], to: &mut Vec<u8>) {
    to.push(0);
    for text in [name, value] {
        // A prefix of seven bits, and the rest in groups of seven (§5.1).
        let mut length = text.len();
        if length < 127 {
            to.push(length as u8);
        } else {
            to.push(127);
            length -= 127;
            while length >= 128 {
                to.push((length % 128) as u8 | 128);
                length /= 128;
            }
            to.push(length as u8);
        }
        to.extend(text);
    }
}

fn error_code(name: &str) -> u32 {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    let index = NAMES.iter().position(|one| *one == name);
    index.unwrap_or_else(|| panic!("no such error code: {name}")) as u32
}
