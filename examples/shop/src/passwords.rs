//! Password hashes: argon2id, a bounded number at a time.

use std::{sync::Arc, time::Duration};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use sinew_core::{Error, Kind};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::fault::{Fault, Result};

/// Hashes at once: each takes a core, and the memory of its cost.
const AT_ONCE: usize = 2;
/// Requests that may wait for their turn, and how long.
const WAITING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(4);
const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// glibc serves no request of 32 MiB or more from the heap, where freed memory stays with the
/// process, but from a mapping of its own, which is gone when freed. Pages that are reserved and
/// never touched cost nothing.
const MAPPED_BYTES: usize = 33 * 1024 * 1024;

/// Makes and checks hashes in PHC form, `$argon2id$v=19$m=…,t=…,p=1$salt$hash`. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    params: Params,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Passwords {
    /// With this cost for new hashes. Errors: `shop.setting_invalid`.
    pub(crate) fn new(memory_kib: u32, passes: u32) -> Result<Self> {
        let params = Params::new(memory_kib, passes, 1, Some(HASH_BYTES)).map_err(|error| {
            Fault::new(
                Kind::InvalidArgument,
                "shop.setting_invalid",
                format!("SHOP_ARGON2_MEMORY_KIB or SHOP_ARGON2_PASSES cannot be used: {error}"),
            )
        })?;
        Ok(Self {
            params,
            hashing: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        })
    }

    /// A hash with a new random salt. Errors: `shop.hashing_saturated`, `shop.hashing_failed`.
    pub(crate) async fn hash(&self, password: &str) -> Result<String> {
        let (password, params) = (password.to_owned(), self.params.clone());
        self.in_turn(move || {
            let mut salt = [0; SALT_BYTES];
            SystemRandom::new()
                .fill(&mut salt)
                .map_err(|_| failed("no randomness"))?;
            let hash = compute(&params, &password, &salt)?;
            Ok(encode(&params, &salt, &hash))
        })
        .await
    }

    /// Whether `password` is the one of `hash`. Without a hash, as for an account that does not
    /// exist, it is not, after the same time. Errors: as [`Passwords::hash`].
    pub(crate) async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool> {
        let known = hash.is_some();
        let hash = match hash {
            Some(hash) => hash.to_owned(),
            None => encode(&self.params, &[0; SALT_BYTES], &[0; HASH_BYTES]),
        };
        let password = password.to_owned();
        let matches = self.in_turn(move || {
            let (params, salt, expected) = decode(&hash).ok_or_else(|| failed("stored badly"))?;
            let actual = compute(&params, &password, &salt)?;
            // Equal MACs under one key: a comparison whose time does not tell where they differ.
            let key = hmac::Key::new(hmac::HMAC_SHA256, &salt);
            Ok(hmac::verify(&key, &actual, hmac::sign(&key, &expected).as_ref()).is_ok())
        });
        Ok(matches.await? && known)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self
            .waiting
            .clone()
            .try_acquire_owned()
            .map_err(|_| saturated())?;
        let turn = timeout(PATIENCE, self.hashing.clone().acquire_owned());
        let turn = turn
            .await
            .map_err(|_| saturated())?
            .map_err(|_| saturated())?;
        drop(place);
        // The turn goes with the work: a caller who leaves does not make room for one more hash.
        let result = spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        result.await.map_err(|_| failed("the work panicked"))?
    }
}

fn compute(params: &Params, password: &str, salt: &[u8]) -> Result<[u8; HASH_BYTES]> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let blocks = params.block_count();
    let mut memory = Vec::with_capacity(blocks.max(MAPPED_BYTES / Block::SIZE));
    memory.resize(blocks, Block::new());
    let mut hash = [0; HASH_BYTES];
    argon2
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut hash, memory.as_mut_slice())
        .map_err(|error| failed(&error.to_string()))?;
    Ok(hash)
}

fn encode(params: &Params, salt: &[u8], hash: &[u8]) -> String {
    format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        params.m_cost(),
        params.t_cost(),
        params.p_cost(),
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(hash)
    )
}

fn decode(hash: &str) -> Option<(Params, Vec<u8>, Vec<u8>)> {
    let rest = hash.strip_prefix("$argon2id$v=19$")?;
    let [cost, salt, hash] = <[&str; 3]>::try_from(rest.split('$').collect::<Vec<_>>()).ok()?;
    let mut numbers = ["m=", "t=", "p="]
        .iter()
        .zip(cost.split(','))
        .map(|(name, field)| field.strip_prefix(name)?.parse::<u32>().ok());
    let (m, t, p) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let hash = STANDARD_NO_PAD
        .decode(hash)
        .ok()
        .filter(|hash| hash.len() == HASH_BYTES)?;
    let params = Params::new(m, t, p, Some(HASH_BYTES)).ok()?;
    Some((params, STANDARD_NO_PAD.decode(salt).ok()?, hash))
}

fn saturated() -> Fault {
    Fault::unavailable(
        "shop.hashing_saturated",
        "too many people register or log in right now, try again in a moment",
        Duration::from_secs(1),
    )
}

fn failed(reason: &str) -> Fault {
    Error::new(
        Kind::Internal,
        "shop.hashing_failed",
        "the password cannot be hashed",
    )
    .with_context(reason)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_matches_its_hash() {
        let passwords = Passwords::new(16, 1).unwrap();
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=16,t=1,p=1$"), "{hash}");
        assert!(
            passwords
                .verify("correct horse", Some(&hash))
                .await
                .unwrap()
        );
        assert!(!passwords.verify("correct hors", Some(&hash)).await.unwrap());
        assert!(!passwords.verify("correct horse", None).await.unwrap());
        assert!(
            passwords
                .verify("x", Some("$argon2id$v=19$broken"))
                .await
                .is_err()
        );
        // A hash of another cost is checked at that cost.
        let dearer = Passwords::new(32, 2).unwrap();
        assert!(dearer.verify("correct horse", Some(&hash)).await.unwrap());
        assert_eq!(
            Passwords::new(1, 1).unwrap_err().code(),
            "shop.setting_invalid"
        );
    }

    #[tokio::test]
    async fn the_reference_vector() {
        // From the reference implementation's test suite (phc-winner-argon2, src/test.c), with the
        // salt "somesalt", t = 2, m = 2^8 KiB, p = 1.
        let hash =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let passwords = Passwords::new(16, 1).unwrap();
        assert!(passwords.verify("password", Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn more_than_may_wait_are_refused() {
        let passwords = Passwords::new(16, 1).unwrap();
        let _held = passwords
            .hashing
            .clone()
            .acquire_many_owned(AT_ONCE as u32)
            .await
            .unwrap();
        let _queue = passwords
            .waiting
            .clone()
            .acquire_many_owned(WAITING as u32)
            .await
            .unwrap();
        let fault = passwords.hash("password").await.unwrap_err();
        assert_eq!(fault.code(), "shop.hashing_saturated");
    }
}
