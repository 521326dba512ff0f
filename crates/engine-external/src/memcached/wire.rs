//! Memcached's meta protocol (`protocol.txt` of its source): what we send, and how we read the replies.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use sinew_core::{Error, Result};
use sinew_engine::cache::Lifetime;

use super::ENGINE;
use crate::fault;

/// The longest line that a server may send before it has ended.
const LINE: usize = 64 << 10;

/// Bytes to send and what comes back.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) text: Bytes,
    pub(super) answers: Answers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// So many replies.
    Replies(usize),
    /// Lines up to `END`.
    Lines,
}

/// A command on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Get,
    Touch(Lifetime),
    /// If the item has this token, when one is given.
    Delete(Option<u64>),
    Set {
        value: Bytes,
        lifetime: Lifetime,
        absent: bool,
        token: Option<u64>,
    },
    /// Adds to a counter.
    Add {
        by: i64,
        token: Option<u64>,
    },
}

impl Command {
    pub(super) fn set(value: &Bytes, lifetime: Lifetime) -> Self {
        Self::Set {
            value: value.clone(),
            lifetime,
            absent: false,
            token: None,
        }
    }

    pub(super) fn add(by: i64) -> Self {
        Self::Add { by, token: None }
    }

    pub(super) fn if_absent(mut self) -> Self {
        if let Self::Set { absent, .. } = &mut self {
            *absent = true;
        }
        self
    }

    pub(super) fn if_token(mut self, expected: u64) -> Self {
        if let Self::Set { token, .. } | Self::Add { token, .. } = &mut self {
            *token = Some(expected);
        }
        self
    }

    pub(super) fn write(&self, name: &[u8], to: &mut BytesMut) {
        let name = BASE64_STANDARD.encode(name);
        let if_token =
            |token: &Option<u64>| token.map(|token| format!(" C{token}")).unwrap_or_default();
        match self {
            Self::Get => put(to, &["mg ", &name, " b v c t f\r\n"]),
            Self::Touch(lifetime) => {
                put(to, &["mg ", &name, " b T", &seconds(*lifetime), "\r\n"]);
            }
            Self::Delete(token) => put(to, &["md ", &name, " b", &if_token(token), "\r\n"]),
            Self::Add { by, token } => {
                let (mode, by) = (if *by < 0 { 'D' } else { 'I' }, by.unsigned_abs());
                put(
                    to,
                    &[
                        "ma ",
                        &name,
                        " b c",
                        &if_token(token),
                        &format!(" M{mode} D{by}\r\n"),
                    ],
                );
            }
            Self::Set {
                value,
                lifetime,
                absent,
                token,
            } => {
                let counter = counter(value);
                let value = counter.as_ref().unwrap_or(value);
                let mode = if *absent { " ME" } else { "" };
                let flags = if counter.is_some() { " F1" } else { "" };
                let (length, seconds) = (value.len().to_string(), seconds(*lifetime));
                put(
                    to,
                    &[
                        "ms ",
                        &name,
                        " ",
                        &length,
                        " b c T",
                        &seconds,
                        mode,
                        flags,
                        &if_token(token),
                        "\r\n",
                    ],
                );
                to.put_slice(value);
                to.put_slice(b"\r\n");
            }
        }
    }
}

fn put(to: &mut BytesMut, pieces: &[&str]) {
    for piece in pieces {
        to.put_slice(piece.as_bytes());
    }
}

/// A lifetime as the server takes it, 0 without end. Rounded up; the server counts its own ticks, so the first of these
/// seconds may be short.
fn seconds(lifetime: Lifetime) -> String {
    match lifetime {
        Lifetime::Unlimited => "0".to_owned(),
        Lifetime::For(time) => time.as_nanos().div_ceil(1_000_000_000).to_string(),
    }
}

/// How a value is kept that is the decimal text of a number.
fn counter(value: &[u8]) -> Option<Bytes> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    let number: i64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    // Not `007` or `+7`: the value must come back as it was.
    (number.to_string().as_bytes() == value)
        .then(|| (number.cast_unsigned() ^ 1 << 63).to_string().into())
}

/// The decimal text of a counter that is kept so.
pub(super) fn counter_text(kept: &[u8]) -> Result<Bytes> {
    // A server that counts down leaves spaces where digits were.
    let number: Option<u64> = std::str::from_utf8(kept)
        .ok()
        .and_then(|digits| digits.trim_end().parse().ok());
    match number {
        Some(number) => Ok((number ^ 1 << 63).cast_signed().to_string().into()),
        None => Err(fault::unsuitable(
            ENGINE,
            "there are keys in Sinew's namespace that Sinew did not write",
        )),
    }
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `VA`: an item.
    Value {
        value: Bytes,
        token: u64,
        left: Lifetime,
        is_counter: bool,
    },
    /// `HD`, with the item's token if it was asked for.
    Done(u64),
    /// `EN`: no item to get.
    Miss,
    /// `NS`: there is one already.
    NotStored,
    /// `EX`: it has another token.
    Changed,
    /// `NF`: no item to change.
    NotFound,
    /// `MN`, `STORED`: well.
    Well,
    /// A line of a list.
    Line(String),
    /// `ERROR`, `CLIENT_ERROR`, `SERVER_ERROR`.
    Failed(String),
}

impl Reply {
    /// The error for a reply that does not fit what was asked.
    pub(super) fn unexpected(self) -> Error {
        match self {
            Self::Failed(text)
                if text.contains("unauthenticated") || text.contains("authentication failure") =>
            {
                fault::denied(ENGINE, text)
            }
            // No room for this item now, though others could have gone.
            Self::Failed(text) if text.starts_with("SERVER_ERROR out of memory") => {
                fault::unavailable(ENGINE, text)
            }
            Self::Failed(text) if text.starts_with("SERVER_ERROR object too large") => {
                fault::unsuitable(
                    ENGINE,
                    "it takes no items of 1 MiB; do not lower its option -I",
                )
            }
            Self::Failed(text) => fault::unexpected(ENGINE, text),
            other => fault::unexpected(ENGINE, format!("{other:?}")),
        }
    }
}

/// Takes the next reply from what has arrived; `None` when it is not whole yet.
pub(super) fn parse(buffer: &mut BytesMut, as_line: bool) -> Result<Option<Reply>> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > LINE {
            Err(fault::unexpected(ENGINE, "a line without an end"))
        } else {
            Ok(None)
        };
    };
    let line = std::str::from_utf8(&buffer[..end])
        .map_err(|_| fault::unexpected(ENGINE, "a line that is not text"))?
        .trim_end_matches('\r');
    let mut words = line.split(' ');
    let word = words.next().unwrap_or_default();
    if word == "VA" && !as_line {
        let size: usize = words
            .next()
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| fault::unexpected(ENGINE, "VA without a size"))?;
        if buffer.len() < end + 1 + size + 2 {
            return Ok(None);
        }
        let (mut token, mut left, mut is_counter) = (0, Lifetime::Unlimited, false);
        for flag in words {
            match flag.split_at_checked(1) {
                Some(("c", number)) => token = number.parse().unwrap_or(0),
                Some(("f", number)) => is_counter = number == "1",
                Some(("t", number)) => {
                    left = number.parse().map_or(Lifetime::Unlimited, |seconds: u64| {
                        Lifetime::For(Duration::from_secs(seconds.max(1)))
                    });
                }
                _ => {}
            }
        }
        buffer.advance(end + 1);
        let value = Bytes::copy_from_slice(&buffer[..size]);
        buffer.advance(size + 2);
        return Ok(Some(Reply::Value {
            value,
            token,
            left,
            is_counter,
        }));
    }
    let reply = match word {
        "ERROR" | "CLIENT_ERROR" | "SERVER_ERROR" => Reply::Failed(line.to_owned()),
        _ if as_line => Reply::Line(line.to_owned()),
        "HD" => Reply::Done(
            words
                .find_map(|flag| flag.strip_prefix('c')?.parse().ok())
                .unwrap_or(0),
        ),
        "EN" => Reply::Miss,
        "NS" => Reply::NotStored,
        "EX" => Reply::Changed,
        "NF" => Reply::NotFound,
        "MN" | "STORED" => Reply::Well,
        _ => return Err(fault::unexpected(ENGINE, format!("{line:?}"))),
    };
    buffer.advance(end + 1);
    Ok(Some(reply))
}

/// A number in the lines of `stats`.
pub(super) fn field(lines: &[String], name: &str) -> Option<u64> {
    lines
        .iter()
        .filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '))
        .find(|(found, _)| *found == name)
        .and_then(|(_, number)| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(command: &Command) -> String {
        let mut text = BytesMut::new();
        command.write(b"n:\0", &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn commands_are_written() {
        let week = Lifetime::For(Duration::from_millis(1001));
        let text = Bytes::from("text");
        for (command, expected) in [
            (Command::Get, "mg bjoA b v c t f\r\n"),
            (Command::Touch(week), "mg bjoA b T2\r\n"),
            (Command::Touch(Lifetime::Unlimited), "mg bjoA b T0\r\n"),
            (Command::Delete(None), "md bjoA b\r\n"),
            (Command::Delete(Some(7)), "md bjoA b C7\r\n"),
            (Command::add(-3).if_token(9), "ma bjoA b c C9 MD D3\r\n"),
            (
                Command::add(i64::MIN),
                "ma bjoA b c MD D9223372036854775808\r\n",
            ),
            (Command::set(&text, week), "ms bjoA 4 b c T2\r\ntext\r\n"),
            (
                Command::set(&text, Lifetime::Unlimited).if_absent(),
                "ms bjoA 4 b c T0 ME\r\ntext\r\n",
            ),
            (
                Command::set(&Bytes::from("-1"), week).if_token(4),
                "ms bjoA 19 b c T2 F1 C4\r\n9223372036854775807\r\n",
            ),
        ] {
            assert_eq!(written(&command), expected);
        }
    }

    #[test]
    fn replies_are_read_wherever_they_are_cut() {
        let text = b"VA 3 c7 t5 f1\r\na\r\n\r\nVA 0 c8 t-1 f0\r\n\r\nHD c9\r\nHD\r\nEN\r\nNS c0\r\nEX\r\nNF c0\r\nMN\r\nSERVER_ERROR x y\r\n";
        let expected = [
            Reply::Value {
                value: "a\r\n".into(),
                token: 7,
                left: Lifetime::For(Duration::from_secs(5)),
                is_counter: true,
            },
            Reply::Value {
                value: Bytes::new(),
                token: 8,
                left: Lifetime::Unlimited,
                is_counter: false,
            },
            Reply::Done(9),
            Reply::Done(0),
            Reply::Miss,
            Reply::NotStored,
            Reply::Changed,
            Reply::NotFound,
            Reply::Well,
            Reply::Failed("SERVER_ERROR x y".to_owned()),
        ];
        for step in [1, 2, 3, 7, text.len()] {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for piece in text.chunks(step) {
                buffer.put_slice(piece);
                while let Some(reply) = parse(&mut buffer, false).unwrap() {
                    found.push(reply);
                }
            }
            assert_eq!(found, expected, "in pieces of {step}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [&b"HTTP/1.1 400\r\n"[..], b"VA x\r\n", b"\xff\xff\r\n"] {
            assert!(parse(&mut BytesMut::from(text), false).is_err());
        }
        let endless = vec![b'x'; LINE + 1];
        assert!(parse(&mut BytesMut::from(&endless[..]), false).is_err());
    }

    #[test]
    fn counters_come_back_as_they_were() {
        for number in [0, 1, -1, 42, i64::MAX, i64::MIN] {
            let text = number.to_string();
            let kept = counter(text.as_bytes()).unwrap();
            assert_eq!(counter_text(&kept).unwrap(), text);
        }
        for text in ["", "+1", "-0", "007", "1.5", "9223372036854775808", "x"] {
            assert_eq!(counter(text.as_bytes()), None, "{text}");
        }
        // As a server leaves it after counting down from 10.
        assert_eq!(counter_text(b"9223372036854775808 ").unwrap(), "0");
        assert!(counter_text(b"text").is_err());
    }
}
