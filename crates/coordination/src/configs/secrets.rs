//! Encrypted values: `{cipher}<data key>:<base64url of nonce, ciphertext and tag>`, AES-256-GCM. The data keys
//! lie in the store, wrapped by a master key that does not (envelope encryption, as NIST SP 800-57 and
//! the key services of clouds have it).

use std::{borrow::Cow, collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sinew_core::{Error, Result, Timestamp};

use super::{Format, error};

/// What an encrypted value begins with.
pub(super) const MARK: &str = "{cipher}";

/// The keys that wrap the data keys. The first is in use, the others still open what it has not wrapped yet.
#[derive(Clone, Default)]
pub struct MasterKeys(Vec<Secret>);

#[derive(Clone)]
struct Secret([u8; 32]);

/// A data key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wrapped {
    /// When it was made.
    pub(super) time: Timestamp,
    /// Which master key wrapped it.
    pub(super) master: String,
    /// Nonce, ciphertext and tag in base64url.
    wrapped: String,
}

/// A data key that is open. Its bytes are nowhere else.
pub(super) struct DataKey {
    id: u64,
    bytes: Secret,
}

impl MasterKeys {
    /// Reads keys from text: one a line, each 32 bytes in base64url or base64 (44 characters with its
    /// padding); the first is in use. `configs.key_unavailable` (FailedPrecondition).
    pub fn read(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let plain = line
                .trim_end_matches('=')
                .replace('+', "-")
                .replace('/', "_");
            let bytes = URL_SAFE_NO_PAD.decode(plain).unwrap_or_default();
            let bytes: [u8; 32] = bytes.try_into().map_err(|_| {
                error::key_unavailable("a master key is not 32 bytes in base64; make one with `openssl rand -base64 32`")
            })?;
            keys.push(Secret(bytes));
        }
        Ok(Self(keys))
    }

    /// Whether there is none, so that nothing can be encrypted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn active(&self) -> Result<&Secret> {
        let none = || error::key_unavailable("it has no master key; see `[configs] master_key`");
        self.0.first().ok_or_else(none)
    }

    /// Whether a data key is wrapped by the key in use.
    pub(super) fn has_wrapped(&self, key: &Wrapped) -> bool {
        self.0
            .first()
            .is_some_and(|own| own.fingerprint() == key.master)
    }

    /// A new data key, and as it is to be stored.
    pub(super) fn make(&self, id: u64, time: Timestamp) -> Result<(DataKey, Wrapped)> {
        let bytes = Secret(rand::random());
        let key = DataKey { id, bytes };
        let wrapped = self.wrap(&key, time)?;
        Ok((key, wrapped))
    }

    pub(super) fn wrap(&self, key: &DataKey, time: Timestamp) -> Result<Wrapped> {
        let master = self.active()?;
        Ok(Wrapped {
            time,
            master: master.fingerprint(),
            wrapped: seal(master, &key_context(key.id), &key.bytes.0),
        })
    }

    pub(super) fn unwrap(&self, id: u64, key: &Wrapped) -> Result<DataKey> {
        self.active()?;
        let master = self.0.iter().find(|own| own.fingerprint() == key.master);
        let master = master.ok_or_else(|| {
            error::key_unavailable(&format!(
                "data key {id} was wrapped by the master key {}, which it does not have",
                key.master
            ))
        })?;
        let bytes = open(master, &key_context(id), &key.wrapped)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| error::key_unavailable(&format!("data key {id} is damaged")))?;
        Ok(DataKey {
            id,
            bytes: Secret(bytes),
        })
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKeys({})", self.0.len())
    }
}

impl PartialEq for MasterKeys {
    fn eq(&self, other: &Self) -> bool {
        let prints = |keys: &Self| keys.0.iter().map(Secret::fingerprint).collect::<Vec<_>>();
        prints(self) == prints(other)
    }
}

impl Eq for MasterKeys {}

impl Secret {
    /// Names a key without telling it.
    fn fingerprint(&self) -> String {
        let mut text = b"sinew master key".to_vec();
        text.extend(self.0);
        crate::documents::hash(&text).chars().take(16).collect()
    }
}

impl DataKey {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Encrypts a value.
    pub(super) fn encrypt(&self, plain: &str) -> String {
        let sealed = seal(&self.bytes, &value_context(self.id), plain.as_bytes());
        format!("{MARK}{}:{sealed}", self.id)
    }

    fn decrypt(&self, sealed: &str) -> Result<String> {
        open(&self.bytes, &value_context(self.id), sealed)
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| error::secret_invalid("it was changed, or is of another store"))
    }
}

/// What binds a ciphertext to its use.
fn key_context(id: u64) -> String {
    format!("sinew config data key {id}")
}

fn value_context(id: u64) -> String {
    format!("sinew config value {id}")
}

fn cipher(key: &Secret) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, &key.0).expect("the key has 32 bytes");
    LessSafeKey::new(key)
}

/// Nonces are random: with 96 bits a key may seal 2^32 values (NIST SP 800-38D §8.3), and keys rotate.
fn seal(key: &Secret, context: &str, plain: &[u8]) -> String {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let mut sealed = plain.to_vec();
    cipher(key)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context.as_bytes()),
            &mut sealed,
        )
        .expect("contents are far shorter than GCM's limit");
    URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat())
}

fn open(key: &Secret, context: &str, sealed: &str) -> Option<Vec<u8>> {
    let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let (nonce, _) = bytes.split_first_chunk::<NONCE_LEN>()?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let context = Aad::from(context.as_bytes());
    let plain = cipher(key)
        .open_within(nonce, context, &mut bytes, NONCE_LEN..)
        .ok()?;
    Some(plain.to_vec())
}

/// Opens data keys as they are needed, for one task.
pub(super) struct Opener<'a> {
    masters: &'a MasterKeys,
    stored: &'a BTreeMap<u64, Wrapped>,
    open: BTreeMap<u64, DataKey>,
}

impl<'a> Opener<'a> {
    pub(super) fn new(masters: &'a MasterKeys, stored: &'a BTreeMap<u64, Wrapped>) -> Self {
        let open = BTreeMap::new();
        Self {
            masters,
            stored,
            open,
        }
    }

    fn key(&mut self, id: u64) -> Result<&DataKey> {
        if !self.open.contains_key(&id) {
            let unknown = || error::secret_invalid(&format!("there is no data key {id} here"));
            let wrapped = self.stored.get(&id).ok_or_else(unknown)?;
            self.open.insert(id, self.masters.unwrap(id, wrapped)?);
        }
        Ok(&self.open[&id])
    }

    /// Opens one whole value.
    pub(super) fn decrypt(&mut self, token: &str) -> Result<String> {
        let no_value =
            || error::secret_invalid("it is not {cipher}KEY:VALUE of this config centre");
        let rest = token.strip_prefix(MARK).ok_or_else(no_value)?;
        let (id, sealed) = rest.split_once(':').ok_or_else(no_value)?;
        let id = id.parse().map_err(|_| no_value())?;
        self.key(id)?.decrypt(sealed)
    }

    /// The text with all encrypted values in it opened.
    pub(super) fn reveal<'t>(&mut self, text: &'t str) -> Result<Cow<'t, str>> {
        replace(text, |token| self.decrypt(token))
    }

    /// The value with all encrypted texts in it opened.
    pub(super) fn reveal_value(&mut self, value: &mut Value) -> Result<()> {
        match value {
            Value::String(text) => {
                if let Cow::Owned(plain) = self.reveal(text)? {
                    *text = plain;
                }
            }
            Value::Array(values) => {
                for value in values {
                    self.reveal_value(value)?;
                }
            }
            Value::Object(values) => {
                for value in values.values_mut() {
                    self.reveal_value(value)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The content with its encrypted values opened, well formed in its format again.
    pub(super) fn reveal_content(&mut self, format: Format, content: &str) -> Result<String> {
        if !content.contains(MARK) {
            return Ok(content.to_owned());
        }
        match format.parse(content)? {
            None => Ok(self.reveal(content)?.into_owned()),
            // What is put between quotes must be escaped as its format asks, so it is written anew.
            Some(mut value) => {
                self.reveal_value(&mut value)?;
                format.write(&value)
            }
        }
    }

    /// The content with its encrypted values under `key`; `None` when they are already.
    pub(super) fn encrypt_anew(&mut self, content: &str, key: &DataKey) -> Result<Option<String>> {
        let current = format!("{MARK}{}:", key.id);
        let mut is_new = false;
        let replaced = replace(content, |token| {
            if token.starts_with(&current) {
                return Ok(token.to_owned());
            }
            is_new = true;
            Ok(key.encrypt(&self.decrypt(token)?))
        })?;
        Ok(is_new.then(|| replaced.into_owned()))
    }
}

/// Replaces each encrypted value in the text.
fn replace<'t>(
    text: &'t str,
    mut with: impl FnMut(&str) -> Result<String, Error>,
) -> Result<Cow<'t, str>> {
    let Some(first) = text.find(MARK) else {
        return Ok(Cow::Borrowed(text));
    };
    let mut replaced = text[..first].to_owned();
    let mut rest = &text[first..];
    while let Some(start) = rest.find(MARK) {
        replaced.push_str(&rest[..start]);
        let token = &rest[start..];
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':');
        let length = token.bytes().skip(MARK.len()).take_while(is_part).count();
        let (token, after) = token.split_at(MARK.len() + length);
        replaced.push_str(&with(token)?);
        rest = after;
    }
    replaced.push_str(rest);
    Ok(Cow::Owned(replaced))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masters(seeds: &[u8]) -> MasterKeys {
        MasterKeys(seeds.iter().map(|seed| Secret([*seed; 32])).collect())
    }

    #[test]
    fn values_come_back_and_nothing_else_does() {
        let masters = masters(&[1]);
        let (key, wrapped) = masters.make(1, Timestamp(5)).unwrap();
        let token = key.encrypt("pa:ss\"word");
        assert_ne!(token, key.encrypt("pa:ss\"word"), "each has its own nonce");
        let stored = BTreeMap::from([(1, wrapped)]);
        let mut opener = Opener::new(&masters, &stored);
        assert_eq!(opener.decrypt(&token).unwrap(), "pa:ss\"word");
        assert_eq!(
            opener.reveal(&format!("a={token}, b")).unwrap(),
            "a=pa:ss\"word, b"
        );
        let json = format!(r#"{{"password": "{token}", "n": [1, "{token}"]}}"#);
        let revealed = opener.reveal_content(Format::Json, &json).unwrap();
        let revealed: Value = serde_json::from_str(&revealed).unwrap();
        assert_eq!(
            revealed,
            json!({"password": "pa:ss\"word", "n": [1, "pa:ss\"word"]})
        );
        let mut flipped = token.clone();
        let last = flipped.pop().unwrap();
        flipped.push(if last == 'A' { 'B' } else { 'A' });
        for bad in [
            flipped.as_str(),
            "{cipher}",
            "{cipher}1",
            "{cipher}1:",
            "{cipher}2:AAAA",
            "{cipher}deadbeef",
        ] {
            let error = opener.decrypt(bad).unwrap_err();
            assert_eq!(error.code(), "configs.secret_invalid", "{bad}");
        }
    }

    #[test]
    fn master_keys_rotate() {
        let (old, both, new) = (masters(&[1]), masters(&[2, 1]), masters(&[2]));
        let (key, wrapped) = old.make(1, Timestamp(5)).unwrap();
        let token = key.encrypt("x");
        assert!(old.has_wrapped(&wrapped) && !both.has_wrapped(&wrapped));
        let opened = both.unwrap(1, &wrapped).unwrap();
        let again = both.wrap(&opened, Timestamp(5)).unwrap();
        let stored = BTreeMap::from([(1, again)]);
        assert_eq!(Opener::new(&new, &stored).decrypt(&token).unwrap(), "x");
        let code = |refused: Result<DataKey>| refused.err().unwrap().code().to_owned();
        assert_eq!(code(new.unwrap(1, &wrapped)), "configs.key_unavailable");
        // A wrapped key passes for no other.
        assert_eq!(code(both.unwrap(2, &wrapped)), "configs.key_unavailable");
        assert!(MasterKeys::default().make(1, Timestamp(1)).is_err());
    }

    #[test]
    fn values_move_to_a_newer_key() {
        let masters = masters(&[1]);
        let (first, one) = masters.make(1, Timestamp(1)).unwrap();
        let (second, two) = masters.make(2, Timestamp(2)).unwrap();
        let stored = BTreeMap::from([(1, one), (2, two)]);
        let content = format!("a: '{}'\n# b\n", first.encrypt("x"));
        let mut opener = Opener::new(&masters, &stored);
        let anew = opener.encrypt_anew(&content, &second).unwrap().unwrap();
        assert!(anew.contains("{cipher}2:") && anew.ends_with("'\n# b\n"));
        assert_eq!(opener.encrypt_anew(&anew, &second).unwrap(), None);
        assert_eq!(opener.reveal(&anew).unwrap(), "a: 'x'\n# b\n");
    }

    #[test]
    fn keys_are_read_and_never_shown() {
        let text = format!("\n{}\n{}A=\n", "A".repeat(43), "B/+".repeat(14));
        let keys = MasterKeys::read(&text).unwrap();
        let shown = format!("{keys:?}");
        assert_eq!((keys.0.len(), shown.as_str()), (2, "MasterKeys(2)"));
        assert!(MasterKeys::read("").unwrap().is_empty());
        for bad in ["short", &"A".repeat(44), "!"] {
            assert!(MasterKeys::read(bad).is_err());
        }
    }
}
