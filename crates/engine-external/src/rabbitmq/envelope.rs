//! How a message lies in a stream.
//!
//! Everything stands in the body. RabbitMQ turns the properties and headers of a message into AMQP 1.0's when it
//! stores it in a stream and back when it is read, and not all of them survive that.
//!
//! `1` · when it was published (ms, u64 BE) · parts, each a tag, its length (u32 BE) and its bytes: the key, the id, for
//! each header its name and its value, and the payload last. What has no part is absent.

use bytes::{BufMut, Bytes, BytesMut};
use sinew_core::Timestamp;
use sinew_engine::bus::Message;

const VERSION: u8 = 1;
/// The first record of every stream, which is no message: with it no stream is ever empty.
const GENESIS: u8 = 0;

const KEY: u8 = 1;
const ID: u8 = 2;
const NAME: u8 = 3;
const VALUE: u8 = 4;
const PAYLOAD: u8 = 5;

pub(super) fn genesis() -> Vec<u8> {
    vec![GENESIS]
}

pub(super) fn encode(message: &Message, published: Timestamp) -> Bytes {
    let weight = usize::try_from(message.weight()).unwrap_or_default();
    let mut body = BytesMut::with_capacity(weight + 32 + message.headers.len() * 10);
    body.put_u8(VERSION);
    body.put_u64(published.as_millis());
    let mut part = |tag: u8, bytes: &[u8]| {
        body.put_u8(tag);
        body.put_u32(u32::try_from(bytes.len()).expect("the limits are far below 4 GiB"));
        body.put_slice(bytes);
    };
    if let Some(key) = &message.key {
        part(KEY, key);
    }
    if let Some(id) = &message.id {
        part(ID, id.as_bytes());
    }
    for (name, value) in &message.headers {
        part(NAME, name.as_bytes());
        part(VALUE, value);
    }
    part(PAYLOAD, &message.payload);
    body.freeze()
}

/// The message and when it was published; none for what we did not write.
pub(super) fn decode(body: Vec<u8>) -> Option<(Message, Timestamp)> {
    let body = Bytes::from(body);
    let (version, rest) = body.split_first()?;
    if *version != VERSION {
        return None;
    }
    let (published, _) = rest.split_first_chunk::<8>()?;
    let published = Timestamp(u64::from_be_bytes(*published));
    let mut at = 9;
    let mut message = Message::default();
    let (mut name, mut is_whole) = (None, false);
    while at < body.len() {
        let (tag, rest) = body[at..].split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        if rest.len() < length {
            return None;
        }
        let bytes = body.slice(at + 5..at + 5 + length);
        match *tag {
            KEY => message.key = Some(bytes),
            ID => message.id = Some(text(&bytes)?),
            NAME => name = Some(text(&bytes)?),
            VALUE => message.headers.push((name.take()?, bytes)),
            PAYLOAD => (message.payload, is_whole) = (bytes, true),
            _ => return None,
        }
        at += 5 + length;
    }
    is_whole.then_some((message, published))
}

fn text(bytes: &Bytes) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_whole() {
        let full = Message::new(vec![0, 255])
            .key(vec![7; 300])
            .id("an id")
            .header("ce-type", "order.paid")
            .header("ce-type", vec![0, 159]);
        for message in [full, Message::new(""), Message::new("x").key("")] {
            let body = encode(&message, Timestamp(77)).to_vec();
            assert_eq!(decode(body.clone()), Some((message, Timestamp(77))));
            // Torn anywhere it is no message, or at least not this one.
            for end in 0..body.len() {
                assert_ne!(decode(body[..end].to_vec()), decode(body.clone()));
            }
        }
        assert_eq!(decode(genesis()), None);
        assert_eq!(decode(b"{\"by\":\"others\"}".to_vec()), None);
    }
}
