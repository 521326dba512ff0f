//! The bytes of a message, the same in the log, in memory, in topic files and in the schedule.
//!
//! ```text
//! marks    u8: 1 a key, 2 an id, 4 headers
//! key      length, bytes
//! id       length, UTF-8
//! headers  count, then name and value of each with their lengths
//! payload  the rest
//! ```

use std::sync::Arc;

use bytes::{BufMut as _, Bytes};
use sinew_core::Timestamp;
use sinew_engine::bus::{Message, Position, Record};

use super::bytes::{Malformed, Put as _, Take, share_or_copy};

const KEY: u8 = 1;
const ID: u8 = 2;
const HEADERS: u8 = 4;

/// A message that its publisher has encoded.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(super) body: Bytes,
    /// The checksum of its key.
    pub(super) key_hash: Option<u32>,
    pub(super) due: Option<Timestamp>,
    pub(super) weight: u64,
}

impl Draft {
    /// What it is de-duplicated by.
    pub(super) fn id(&self) -> Option<&str> {
        parts(&self.body).ok()?.id
    }
}

/// Encodes messages into one buffer that they share.
pub(super) fn drafts(messages: &[Message]) -> Vec<Draft> {
    let mut buffer = Vec::with_capacity(messages.iter().map(room).sum());
    let mut ends = Vec::with_capacity(messages.len());
    for message in messages {
        encode(message, &mut buffer);
        ends.push(buffer.len());
    }
    let buffer = Bytes::from(buffer);
    let mut start = 0;
    let each = messages.iter().zip(ends);
    each.map(|(message, end)| {
        let body = buffer.slice(start..end);
        start = end;
        Draft {
            body,
            key_hash: message.key.as_ref().map(|key| crc32c::crc32c(key)),
            due: message.due,
            weight: message.weight(),
        }
    })
    .collect()
}

/// More than the encoded message takes.
fn room(message: &Message) -> usize {
    let weight = usize::try_from(message.weight()).unwrap_or(usize::MAX);
    weight.saturating_add(32 + 8 * message.headers.len())
}

fn encode(message: &Message, buffer: &mut Vec<u8>) {
    let mark = |is_there: bool, mark: u8| if is_there { mark } else { 0 };
    buffer.put_u8(
        mark(message.key.is_some(), KEY)
            | mark(message.id.is_some(), ID)
            | mark(!message.headers.is_empty(), HEADERS),
    );
    if let Some(key) = &message.key {
        buffer.string(key);
    }
    if let Some(id) = &message.id {
        buffer.string(id.as_bytes());
    }
    if !message.headers.is_empty() {
        buffer.number(message.headers.len() as u64);
        for (name, value) in &message.headers {
            buffer.string(name.as_bytes());
            buffer.string(value);
        }
    }
    buffer.extend_from_slice(&message.payload);
}

/// The parts of an encoded message, where they lie.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) id: Option<&'a str>,
    headers: Take<'a>,
    header_count: usize,
    header_bytes: u64,
    payload: &'a [u8],
}

pub(super) fn parts(body: &[u8]) -> Result<Parts<'_>, Malformed> {
    let mut take = Take(body);
    let marks = take.byte()?;
    if marks & !(KEY | ID | HEADERS) != 0 {
        return Err(Malformed);
    }
    let key = (marks & KEY != 0).then(|| take.string()).transpose()?;
    let id = (marks & ID != 0).then(|| take.text()).transpose()?;
    let header_count = if marks & HEADERS != 0 {
        take.size()?
    } else {
        0
    };
    let headers = take;
    let mut header_bytes = 0;
    for _ in 0..header_count {
        header_bytes += (take.text()?.len() + take.string()?.len()) as u64;
    }
    Ok(Parts {
        key,
        id,
        headers,
        header_count,
        header_bytes,
        payload: take.0,
    })
}

impl Parts<'_> {
    /// As [`Message::weight`].
    pub(super) fn weight(&self) -> u64 {
        let key = self.key.map_or(0, <[u8]>::len);
        let id = self.id.map_or(0, str::len);
        (self.payload.len() + key + id) as u64 + self.header_bytes
    }
}

/// Decodes a message for a consumer.
pub(super) fn decode(body: &Bytes) -> Result<Message, Malformed> {
    let parts = parts(body)?;
    let own = |part: &[u8]| share_or_copy(body, part);
    let mut take = parts.headers;
    let mut headers = Vec::with_capacity(parts.header_count);
    for _ in 0..parts.header_count {
        headers.push((take.text()?.to_owned(), own(take.string()?)));
    }
    Ok(Message {
        key: parts.key.map(own),
        headers,
        id: parts.id.map(str::to_owned),
        payload: own(parts.payload),
        due: None,
    })
}

/// A message in a topic, still encoded.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) body: Bytes,
    pub(super) published: Timestamp,
}

impl Stored {
    pub(super) fn weight(&self) -> u64 {
        parts(&self.body).map_or(0, |parts| parts.weight())
    }

    pub(super) fn key(&self) -> Option<Bytes> {
        parts(&self.body).ok()?.key.map(Bytes::copy_from_slice)
    }

    pub(super) fn record(&self, position: Position) -> Result<Record, Malformed> {
        Ok(Record {
            position,
            published: self.published,
            message: Arc::new(decode(&self.body)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let full = Message::new(vec![7; 9000])
            .key("key")
            .id("id")
            .header("a", "1")
            .header("b", "");
        let messages = [Message::new("x"), Message::default(), full];
        for (message, draft) in messages.iter().zip(drafts(&messages)) {
            assert_eq!(decode(&draft.body).as_ref(), Ok(message));
            assert_eq!(parts(&draft.body).unwrap().weight(), message.weight());
            assert_eq!(draft.weight, message.weight());
        }
    }

    #[test]
    fn what_is_cut_within_its_head_is_malformed() {
        let [draft] = drafts(&[Message::new("").key("key").id("id").header("a", "b")])
            .try_into()
            .unwrap();
        for length in 0..draft.body.len() {
            assert!(decode(&draft.body.slice(..length)).is_err(), "{length}");
        }
    }
}
