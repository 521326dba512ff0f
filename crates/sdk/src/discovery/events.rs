//! Server-sent events (WHATWG HTML §9.2), as far as the registry uses them.

use std::collections::VecDeque;

/// A list of that size has thousands of instances; more is a defect or an attack.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// Takes bytes as they arrive and gives whole events.
#[derive(Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    name: String,
    data: String,
    complete: VecDeque<Event>,
    after_cr: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) struct TooLarge;

impl Events {
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        for &byte in bytes {
            // A line ends with CR, LF or both.
            let second_of_pair = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if second_of_pair => {}
                b'\r' | b'\n' => self.end_line(),
                _ => {
                    if self.line.len() + self.data.len() >= MAX_EVENT_BYTES {
                        return Err(TooLarge);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        self.complete.pop_front()
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            let (name, data) = (
                std::mem::take(&mut self.name),
                std::mem::take(&mut self.data),
            );
            if !name.is_empty() || !data.is_empty() {
                self.complete.push_back(Event { name, data });
            }
            return;
        }
        let line = String::from_utf8_lossy(&self.line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // `id` and `retry` do not matter here; without a field it is a comment.
            _ => {}
        }
        self.line.clear();
        // One large event must not keep its buffer for ever.
        self.line.shrink_to(16 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_arrive_whole_however_they_are_cut() {
        let text = ": alive\n\nevent: service\nid: 7\ndata: {\"a\":1}\n\nevent:synced\r\ndata: a\r\n\
                    data: b\r\n\r\n: x\n\n";
        let expected = [
            Event {
                name: "service".into(),
                data: "{\"a\":1}".into(),
            },
            Event {
                name: "synced".into(),
                data: "a\nb".into(),
            },
        ];
        for size in 1..text.len() {
            let mut events = Events::default();
            for piece in text.as_bytes().chunks(size) {
                events.push(piece).unwrap();
            }
            let got: Vec<_> = std::iter::from_fn(|| events.next()).collect();
            assert_eq!(got, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut events = Events::default();
        let chunk = [b'x'; 64 * 1024];
        assert!((0..100).any(|_| events.push(&chunk) == Err(TooLarge)));
    }
}
