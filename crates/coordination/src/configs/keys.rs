//! Items are written with their slashes, but for those within labels: no key of one item lies among
//! those of another, and versions are in order.

use bytes::Bytes;
use sinew_core::Timestamp;
use sinew_engine::kv::{Key, Span};

use super::ItemId;

const HEAD: &str = "configs/head/";
const DATA_KEY: &str = "configs/key/";

fn path(id: &ItemId) -> String {
    let label = id.label().replace('/', "%2F");
    let (namespace, application, profile) = (id.namespace(), id.application(), id.profile());
    format!("{namespace}/{application}/{profile}/{label}")
}

/// Everything that readers need: heads and data keys.
pub(super) fn shown() -> Span {
    Span::between(HEAD, "configs/key0")
}

pub(super) fn head(id: &ItemId) -> Key {
    Bytes::from(format!("{HEAD}{}", path(id)))
}

pub(super) fn data_key(id: u64) -> Key {
    Bytes::from(format!("{DATA_KEY}{id:020}"))
}

pub(super) fn version(id: &ItemId, number: u64) -> Key {
    Bytes::from(format!("configs/version/{}/{number:020}", path(id)))
}

pub(super) fn versions(id: &ItemId) -> Span {
    Span::prefix(format!("configs/version/{}/", path(id)))
}

pub(super) fn draft(id: &ItemId) -> Key {
    Bytes::from(format!("configs/draft/{}", path(id)))
}

pub(super) fn drafts() -> Span {
    Span::prefix("configs/draft/")
}

/// In the order of time, and of what one node did within a millisecond.
pub(super) fn audit(time: Timestamp, sequence: u64) -> Key {
    let random: u64 = rand::random();
    let time = time.as_millis();
    Bytes::from(format!(
        "configs/audit/{time:020}-{sequence:010}-{random:016x}"
    ))
}

/// The entries from before this moment.
pub(super) fn audits_before(time: Timestamp) -> Span {
    Span::between(
        "configs/audit/",
        format!("configs/audit/{:020}", time.as_millis()),
    )
}

/// The entries since this moment.
pub(super) fn audits_since(time: Timestamp) -> Span {
    Span::between(
        format!("configs/audit/{:020}", time.as_millis()),
        "configs/audit0",
    )
}

/// What a key of [`shown`] is of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Head(ItemId),
    DataKey(u64),
}

pub(super) fn parse(key: &[u8]) -> Option<Shown> {
    let key = std::str::from_utf8(key).ok()?;
    if let Some(path) = key.strip_prefix(HEAD) {
        return Some(Shown::Head(path.replace("%2F", "/").parse().ok()?));
    }
    Some(Shown::DataKey(key.strip_prefix(DATA_KEY)?.parse().ok()?))
}

/// The item of a draft's key.
pub(super) fn parse_draft(key: &[u8]) -> Option<ItemId> {
    let path = std::str::from_utf8(key)
        .ok()?
        .strip_prefix("configs/draft/")?;
    path.replace("%2F", "/").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_stay_apart() {
        let id = ItemId::new("default", "orders:x", "prod", "feature/x").unwrap();
        for (key, what) in [
            (head(&id), Shown::Head(id.clone())),
            (data_key(7), Shown::DataKey(7)),
        ] {
            assert!(shown().contains(&key));
            assert_eq!(parse(&key), Some(what));
        }
        assert_eq!(parse_draft(&draft(&id)), Some(id.clone()));
        let feature = ItemId::new("default", "orders:x", "prod", "feature").unwrap();
        assert!(!versions(&feature).contains(&version(&id, 1)));
        for other in [&b"configs/head/a/b"[..], b"configs/version/x", b"\xff"] {
            assert!(parse(other).is_none());
        }
        for key in [version(&id, 1), draft(&id), audit(Timestamp(1), 2)] {
            assert!(!shown().contains(&key));
        }
    }
}
