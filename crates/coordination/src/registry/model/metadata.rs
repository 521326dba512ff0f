//! Pairs of text. Thousands of instances say the same, so equal texts are kept once.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    ops::Index,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sinew_core::Name;

/// Pairs of text in the order of their keys, each key once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Box<[(Arc<str>, Arc<str>)]>);

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(other, _)| (**other).cmp(key));
        at.ok().map(|at| &*self.0[at].1)
    }

    /// All pairs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a map of its own.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        self.iter().map(owned).collect()
    }

    pub(super) fn shared(&mut self, texts: &mut Texts) {
        for (key, value) in &mut self.0 {
            texts.share(key);
            texts.share(value);
        }
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Metadata {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        let pairs = pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()));
        // Sorted, and of equal keys the last.
        let map: BTreeMap<Arc<str>, Arc<str>> = pairs.collect();
        Self(map.into_iter().collect())
    }
}

impl From<BTreeMap<String, String>> for Metadata {
    fn from(map: BTreeMap<String, String>) -> Self {
        map.into_iter().collect()
    }
}

impl Index<&str> for Metadata {
    type Output = str;

    fn index(&self, key: &str) -> &str {
        self.get(key).expect("the key is there")
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<String, String>::deserialize(deserializer).map(Self::from)
    }
}

/// Texts that are kept once for all who say them.
#[derive(Debug, Default)]
pub(in crate::registry) struct Texts {
    texts: HashSet<Arc<str>>,
    names: HashSet<Name>,
    /// When so many are kept, those that nobody says any more are dropped.
    prune_at: usize,
}

impl Texts {
    pub(super) fn share(&mut self, text: &mut Arc<str>) {
        match self.texts.get(text) {
            Some(known) => *text = known.clone(),
            None => {
                if self.texts.len() >= self.prune_at {
                    self.texts.retain(|text| Arc::strong_count(text) > 1);
                    self.prune_at = 1024.max(2 * self.texts.len());
                }
                self.texts.insert(text.clone());
            }
        }
    }

    pub(super) fn share_name(&mut self, name: &mut Name) {
        match self.names.get(name) {
            Some(known) => *name = known.clone(),
            None => {
                // There are few, and forgetting them costs only memory.
                if self.names.len() >= 65_536 {
                    self.names.clear();
                }
                self.names.insert(name.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_sorted_and_unique() {
        let metadata: Metadata = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        assert_eq!(
            metadata.iter().collect::<Vec<_>>(),
            [("a", "2"), ("b", "3")]
        );
        assert_eq!(metadata.get("c"), None);
        assert_eq!(
            serde_json::to_string(&metadata).unwrap(),
            r#"{"a":"2","b":"3"}"#
        );
    }

    #[test]
    fn equal_texts_are_kept_once_and_not_for_ever() {
        let mut texts = Texts::default();
        let one = || -> Metadata { [("zone", "a")].into_iter().collect() };
        let (mut a, mut b) = (one(), one());
        a.shared(&mut texts);
        b.shared(&mut texts);
        assert!(Arc::ptr_eq(&a.0[0].1, &b.0[0].1));
        for n in 0..10_000 {
            texts.share(&mut n.to_string().into());
        }
        assert!(texts.texts.len() < 2_000);
        assert!(texts.texts.contains("zone"), "still said");
    }
}
