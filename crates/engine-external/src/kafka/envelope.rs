//! A message as a Kafka record: its key is the key, its payload the value, its headers the headers. What Kafka has no place
//! for is the first header, `sinew`: the message's id, and the mark of a dead letter.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sinew_engine::bus::Message;

use super::batch::Raw;

const HEADER: &[u8] = b"sinew";
const FORMAT: u8 = 1;
const HAS_ID: u8 = 1;
const HAS_MARK: u8 = 2;

pub(super) fn seal(message: &Message, mark: Option<&str>) -> Raw {
    let mut flags = 0;
    let mut rest = BytesMut::new();
    for (flag, text) in [(HAS_ID, message.id.as_deref()), (HAS_MARK, mark)] {
        if let Some(text) = text {
            flags |= flag;
            rest.put_u16_le(u16::try_from(text.len()).unwrap_or(u16::MAX));
            rest.put_slice(text.as_bytes());
        }
    }
    let mut first = BytesMut::with_capacity(2 + rest.len());
    first.put_slice(&[FORMAT, flags]);
    first.put_slice(&rest);
    let mut headers = vec![(Bytes::from_static(HEADER), first.freeze())];
    let own = message.headers.iter();
    headers.extend(own.map(|(name, value)| (name.clone().into(), value.clone())));
    Raw {
        key: message.key.clone(),
        value: Some(message.payload.clone()),
        headers,
    }
}

/// The message and its mark; none when it is not one of ours.
pub(super) fn unseal(raw: Raw) -> Option<(Message, Option<String>)> {
    let mut headers = raw.headers.into_iter();
    let (_, mut first) = headers.next().filter(|(name, _)| name == HEADER)?;
    if first.len() < 2 || first.get_u8() != FORMAT {
        return None;
    }
    let flags = first.get_u8();
    let mut take = |flag| -> Option<Option<String>> {
        if flags & flag == 0 {
            return Some(None);
        }
        let length = (first.len() >= 2).then(|| usize::from(first.get_u16_le()))?;
        let text = (first.len() >= length).then(|| first.split_to(length))?;
        String::from_utf8(text.into()).ok().map(Some)
    };
    let (id, mark) = (take(HAS_ID)?, take(HAS_MARK)?);
    let mut own = Vec::new();
    for (name, value) in headers {
        own.push((String::from_utf8(name.into()).ok()?, value));
    }
    let message = Message {
        key: raw.key,
        headers: own,
        id,
        payload: raw.value.unwrap_or_default(),
        due: None,
    };
    Some((message, mark))
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
            .header("sinew", every)
            .header("two", "a")
            .header("two", "");
        for message in [full, Message::new(""), Message::new("x").key("")] {
            for mark in [None, Some("a_mark".to_owned())] {
                let sealed = seal(&message, mark.as_deref());
                assert_eq!(unseal(sealed), Some((message.clone(), mark)));
            }
        }
        assert_eq!(unseal(Raw::default()), None);
    }
}
