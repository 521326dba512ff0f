//! A message as it stands in a stream: a version, what it is known by, its headers, and the payload as it is. All
//! lengths are little endian.
//!
//! Not in NATS headers, which hold text only; keys and the values of headers are bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sinew_core::Result;
use sinew_engine::bus::Message;

use super::link::ENGINE;
use crate::fault;

const VERSION: u8 = 1;
const HAS_KEY: u8 = 1;
const HAS_ID: u8 = 2;

pub(super) fn seal(message: &Message) -> Bytes {
    let mut flags = 0;
    let mut size = 4 + message.payload.len();
    if let Some(key) = &message.key {
        flags |= HAS_KEY;
        size += 4 + key.len();
    }
    if let Some(id) = &message.id {
        flags |= HAS_ID;
        size += 4 + id.len();
    }
    size += message
        .headers
        .iter()
        .map(|(name, value)| 8 + name.len() + value.len())
        .sum::<usize>();
    let mut sealed = BytesMut::with_capacity(size);
    sealed.put_slice(&[VERSION, flags]);
    sealed.put_u16_le(u16::try_from(message.headers.len()).unwrap_or(u16::MAX));
    let mut put = |bytes: &[u8]| {
        sealed.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        sealed.put_slice(bytes);
    };
    if let Some(key) = &message.key {
        put(key);
    }
    if let Some(id) = &message.id {
        put(id.as_bytes());
    }
    for (name, value) in &message.headers {
        put(name.as_bytes());
        put(value);
    }
    sealed.put_slice(&message.payload);
    sealed.freeze()
}

pub(super) fn unseal(mut sealed: Bytes) -> Result<Message> {
    read(&mut sealed).ok_or_else(|| {
        fault::unsuitable(ENGINE, "a message in its stream was not written by Sinew")
    })
}

fn read(sealed: &mut Bytes) -> Option<Message> {
    if sealed.remaining() < 4 || sealed.get_u8() != VERSION {
        return None;
    }
    let flags = sealed.get_u8();
    let headers = sealed.get_u16_le();
    let mut take = || {
        let length = (sealed.remaining() >= 4).then(|| sealed.get_u32_le() as usize)?;
        (sealed.remaining() >= length).then(|| sealed.split_to(length))
    };
    let text = |bytes: Bytes| String::from_utf8(bytes.into()).ok();
    let key = if flags & HAS_KEY > 0 {
        Some(take()?)
    } else {
        None
    };
    let id = if flags & HAS_ID > 0 {
        Some(text(take()?)?)
    } else {
        None
    };
    let mut read = Vec::with_capacity(usize::from(headers));
    for _ in 0..headers {
        let name = text(take()?)?;
        read.push((name, take()?));
    }
    Some(Message {
        key,
        headers: read,
        id,
        payload: sealed.clone(),
        due: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_whole_and_nothing_else_is_taken_for_one() {
        let every: Vec<u8> = (0..=255).collect();
        let full = Message::new(every.clone())
            .key(every.clone())
            .id("an id")
            .header("one", every)
            .header("two", "");
        for message in [full.clone(), Message::new(""), Message::new("x").key("")] {
            assert_eq!(unseal(seal(&message)).unwrap(), message);
        }
        let sealed = seal(&full);
        for length in 0..sealed.len() - full.payload.len() {
            assert!(unseal(sealed.slice(..length)).is_err(), "{length}");
        }
        assert!(unseal(Bytes::from_static(b"{\"order\": 1}")).is_err());
    }
}
