//! [`Cache`] over Redis, or any server that speaks its protocol (Valkey, KeyDB), from version 6 on.
//!
//! `redis://user@host:6379/0?namespace=shop`. The path is the number of the database. Several nodes over one
//! server share the cache; nothing of it is in the nodes.
//!
//! An item is one string at `<namespace>:<key>`: eight bytes that are its version, then the value. So a write is
//! one plain `SET`, and what must look before it writes is a script that reads those eight bytes. Versions are drawn by
//! the node, from a random start: a counter on the server would be one more key to evict, and would begin again
//! when the server does.
//!
//! Redis counts lifetimes in whole milliseconds and lets an item live to the end of the last one. It is told one less,
//! so that none lives too long.

mod link;
mod script;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use redis::{Cmd, FromRedisValue, Pipeline, Value, cmd};
use sinew_core::{Clock, Result};
use sinew_engine::{
    Health,
    cache::{
        Cache, Capability, Increment, Item, Key, Lifetime, Limits, Statistics, Swap, Version,
        counter_bounds, not_a_number,
    },
};
use tokio::sync::watch;

use crate::{Address, fault};
use link::{Again, Link};
use script::Script;

const ENGINE: &str = "redis";

const LIMITS: Limits = Limits {
    key_bytes: 1024,
    value_bytes: 1 << 20,
    many: 1024,
    item_overhead: 64,
    lifetime_step: Duration::from_millis(2),
    lifetime_maximum: Duration::from_secs(10 * 365 * 24 * 3600),
};

const CAPABILITY: Capability = Capability {
    engine: ENGINE,
    forgets_only_for_room: true,
    weighs_items: false,
    limits: LIMITS,
};

/// What stands before the value.
const HEADER: usize = 8;

/// What `PTTL` says when there is no such key.
const GONE: i64 = -2;

/// Keys that `clear` looks at in one step.
const SCAN: usize = 1000;

/// A cache on a Redis server. See the module's text.
pub struct RedisCache {
    link: Link,
    /// What stands before every key.
    prefix: Vec<u8>,
    last_version: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl RedisCache {
    /// Reads an URL (`redis://user@host:port/database`) for [`RedisCache::open`].
    pub fn address(url: &str) -> Result<Address> {
        Address::parse(url, 6379, &[])
    }

    /// A cache on the server at this address. It connects in the background: wants a tokio runtime.
    /// `engine.address` (InvalidArgument) when the address cannot be one of Redis.
    pub fn open(address: &Address, clock: Clock) -> Result<Self> {
        Ok(Self {
            link: Link::open(address, clock)?,
            prefix: format!("{}:", address.namespace).into_bytes(),
            last_version: AtomicU64::new(rand::random()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// Whether the server answers.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    fn named(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    fn next_version(&self) -> Version {
        Version(self.last_version.fetch_add(1, Ordering::Relaxed))
    }

    async fn call<T: FromRedisValue>(&self, command: &Cmd, again: Again) -> Result<T> {
        self.link.call(command, again).await
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        arguments: &[&[u8]],
    ) -> Result<T> {
        self.link.run(script, keys, arguments, Again::Never).await
    }

    /// One item by plain commands, which cost the server half of what a script does. They are not one step: the version,
    /// asked for once more, says that the item was the same before and after its lifetime was read. `None`: it was not.
    async fn look(&self, key: &[u8]) -> Result<Option<Option<Item>>> {
        let mut pipeline = Pipeline::with_capacity(3);
        pipeline.cmd("GET").arg(key);
        pipeline.cmd("PTTL").arg(key);
        pipeline.cmd("GETRANGE").arg(key).arg(0).arg(HEADER - 1);
        let mut answers = self
            .link
            .pipeline(&pipeline, Again::Once)
            .await?
            .into_iter();
        Ok(match (answers.next(), answers.next(), answers.next()) {
            (Some(Value::Nil), _, _) => Some(None),
            // It has expired, or was deleted, in between.
            (_, Some(Value::Int(GONE)), _) => Some(None),
            (
                Some(Value::BulkString(stored)),
                Some(Value::Int(left)),
                Some(Value::BulkString(version)),
            ) if stored.starts_with(&version) && version.len() == HEADER => {
                Some(Some(item(stored.into(), left)?))
            }
            _ => None,
        })
    }

    fn counted(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is stored for a value.
fn stored(version: Version, value: &[u8]) -> Bytes {
    let mut stored = BytesMut::with_capacity(HEADER + value.len());
    stored.put_u64(version.0);
    stored.put_slice(value);
    stored.freeze()
}

/// `SET key stored PX …`, to be completed.
fn set(key: &[u8], stored: &[u8], lifetime: Lifetime) -> Cmd {
    let mut command = cmd("SET");
    command.arg(key).arg(stored);
    if let Lifetime::For(time) = lifetime {
        command.arg("PX").arg(milliseconds(time));
    }
    command
}

/// Rounded up to the step, less one: see the module's text.
fn milliseconds(lifetime: Duration) -> u64 {
    let step = LIMITS.lifetime_step.as_nanos();
    let steps = lifetime.as_nanos().div_ceil(step);
    let step = LIMITS.lifetime_step.as_millis();
    u64::try_from(steps * step - 1).unwrap_or(u64::MAX)
}

/// A lifetime as scripts take it: `0` is without end.
fn lifetime_argument(lifetime: Lifetime) -> String {
    match lifetime {
        Lifetime::Unlimited => "0".to_owned(),
        Lifetime::For(time) => milliseconds(time).to_string(),
    }
}

/// What the server keeps and what `PTTL` says of it.
fn item(stored: Bytes, left: i64) -> Result<Item> {
    let Some((version, _)) = stored.split_first_chunk::<HEADER>() else {
        return Err(fault::unsuitable(
            ENGINE,
            "there are keys in Sinew's namespace that Sinew did not write",
        ));
    };
    Ok(Item {
        version: Version(u64::from_be_bytes(*version)),
        value: stored.slice(HEADER..),
        left: match u64::try_from(left) {
            Err(_) => Lifetime::Unlimited,
            Ok(left) => Lifetime::For(Duration::from_millis(left.max(1))),
        },
    })
}

/// A value and what `PTTL` said of it, as the scripts answer them.
fn pair(stored: Value, left: Value) -> Result<Option<Item>> {
    match (stored, left) {
        (Value::BulkString(stored), Value::Int(left)) => item(stored.into(), left).map(Some),
        (Value::Nil, _) => Ok(None),
        _ => Err(fault::unexpected(ENGINE, "a value that is no string")),
    }
}

#[async_trait]
impl Cache for RedisCache {
    fn capability(&self) -> &Capability {
        &CAPABILITY
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Item>> {
        LIMITS.check_key(key)?;
        let key = self.named(key);
        let item = match self.look(&key).await? {
            Some(seen) => seen,
            None => {
                let (stored, left): (Value, Value) = self
                    .link
                    .run(&script::GET, &[&key], &[], Again::Once)
                    .await?;
                pair(stored, left)?
            }
        };
        self.counted(item.is_some());
        Ok(item)
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        LIMITS.check_keys(keys)?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let named: Vec<_> = keys.iter().map(|key| self.named(key)).collect();
        let named: Vec<&[u8]> = named.iter().map(Vec::as_slice).collect();
        let found: Vec<Value> = self
            .link
            .run(&script::GET, &named, &[], Again::Once)
            .await?;
        let mut items = Vec::with_capacity(keys.len());
        let mut found = found.into_iter();
        while let (Some(stored), Some(left)) = (found.next(), found.next()) {
            let item = pair(stored, left)?;
            self.counted(item.is_some());
            items.push(item);
        }
        if items.len() != keys.len() {
            return Err(fault::unexpected(ENGINE, "fewer items than keys"));
        }
        Ok(items)
    }

    async fn set(&self, key: Key, value: Bytes, lifetime: Lifetime) -> Result<Version> {
        LIMITS.check_item(&key, &value, lifetime)?;
        let version = self.next_version();
        let command = set(&self.named(&key), &stored(version, &value), lifetime);
        self.call::<()>(&command, Again::Never).await?;
        Ok(version)
    }

    async fn set_many(&self, items: Vec<(Key, Bytes)>, lifetime: Lifetime) -> Result<()> {
        LIMITS.check_items(&items, lifetime)?;
        if items.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::with_capacity(items.len());
        for (key, value) in items {
            let stored = stored(self.next_version(), &value);
            pipeline.add_command(set(&self.named(&key), &stored, lifetime));
        }
        let sent = self.link.pipeline(&pipeline, Again::Never);
        sent.await.map(drop)
    }

    async fn set_if_absent(
        &self,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Option<Version>> {
        LIMITS.check_item(&key, &value, lifetime)?;
        let version = self.next_version();
        let mut command = set(&self.named(&key), &stored(version, &value), lifetime);
        command.arg("NX");
        let answer: Value = self.call(&command, Again::Never).await?;
        Ok((answer != Value::Nil).then_some(version))
    }

    async fn compare_and_set(
        &self,
        key: Key,
        expected: Version,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Swap> {
        LIMITS.check_item(&key, &value, lifetime)?;
        let version = self.next_version();
        let answer: i64 = self
            .run(
                &script::COMPARE_AND_SET,
                &[&self.named(&key)],
                &[
                    &expected.0.to_be_bytes(),
                    &stored(version, &value),
                    lifetime_argument(lifetime).as_bytes(),
                ],
            )
            .await?;
        Ok(match answer {
            1 => Swap::Set(version),
            0 => Swap::Changed,
            _ => Swap::Absent,
        })
    }

    async fn increment(&self, key: Key, increment: Increment) -> Result<i64> {
        LIMITS.check_key(&key)?;
        LIMITS.check_lifetime(increment.lifetime)?;
        let named = self.named(&key);
        // Where numbers are added that Lua cannot hold exactly. It is gone when the script ends.
        let scratch = self.named(b"");
        let number = |number: i64| number.to_string();
        let answer: String = self
            .run(
                &script::INCREMENT,
                &[&named, &scratch],
                &[
                    &self.next_version().0.to_be_bytes(),
                    number(increment.by).as_bytes(),
                    number(increment.initial).as_bytes(),
                    number(increment.minimum).as_bytes(),
                    number(increment.maximum).as_bytes(),
                    lifetime_argument(increment.lifetime).as_bytes(),
                ],
            )
            .await?;
        match answer.as_str() {
            "bounds" => Err(counter_bounds(&increment)),
            "text" => Err(not_a_number()),
            sum => sum
                .parse()
                .map_err(|_| fault::unexpected(ENGINE, format!("{sum:?} is not a sum"))),
        }
    }

    async fn touch(&self, key: &[u8], lifetime: Lifetime) -> Result<bool> {
        LIMITS.check_key(key)?;
        LIMITS.check_lifetime(lifetime)?;
        let named = self.named(key);
        let lifetime = lifetime_argument(lifetime);
        self.run(&script::TOUCH, &[&named], &[lifetime.as_bytes()])
            .await
    }

    async fn delete(&self, key: &[u8]) -> Result<bool> {
        LIMITS.check_key(key)?;
        let named = self.named(key);
        self.call(cmd("UNLINK").arg(named), Again::Never).await
    }

    async fn compare_and_delete(&self, key: &[u8], expected: Version) -> Result<bool> {
        LIMITS.check_key(key)?;
        let named = self.named(key);
        self.run(
            &script::COMPARE_AND_DELETE,
            &[&named],
            &[&expected.0.to_be_bytes()],
        )
        .await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        LIMITS.check_keys(keys)?;
        if keys.is_empty() {
            return Ok(0);
        }
        let mut command = cmd("UNLINK");
        for key in keys {
            command.arg(self.named(key));
        }
        self.call(&command, Again::Never).await
    }

    /// Walks over all keys of the database, and deletes those of the namespace.
    async fn clear(&self) -> Result<()> {
        // A namespace has no character that means something in a pattern.
        let pattern = self.named(b"*");
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern);
            scan.arg("COUNT").arg(SCAN);
            let (next, keys): (Vec<u8>, Vec<Vec<u8>>) = self.call(&scan, Again::Once).await?;
            if !keys.is_empty() {
                let mut unlink = cmd("UNLINK");
                unlink.arg(keys);
                self.call::<u64>(&unlink, Again::Once).await?;
            }
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    async fn statistics(&self) -> Result<Statistics> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("INFO").arg("stats");
        pipeline.cmd("INFO").arg("memory");
        pipeline.cmd("DBSIZE");
        let answers = self.link.pipeline(&pipeline, Again::Once).await?;
        let (stats, memory, items): (String, String, u64) =
            redis::from_redis_value(Value::Array(answers))
                .map_err(|why| fault::unexpected(ENGINE, why.to_string()))?;
        let maximum = field(&memory, "maxmemory");
        Ok(Statistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evicted: field(&stats, "evicted_keys"),
            expired: field(&stats, "expired_keys"),
            items,
            weight: field(&memory, "used_memory"),
            // Without a bound of its own the server has that of its machine.
            capacity: if maximum == 0 {
                field(&memory, "total_system_memory")
            } else {
                maximum
            },
        })
    }
}

/// A number in what `INFO` says; 0 where it says nothing.
fn field(info: &str, name: &str) -> u64 {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| *found == name)
        .and_then(|(_, number)| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_end_within_their_last_step() {
        for (time, expected) in [
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(2), 1),
            (Duration::from_micros(2001), 3),
            (Duration::from_millis(200), 199),
            (LIMITS.lifetime_maximum, 10 * 365 * 24 * 3600 * 1000 - 1),
        ] {
            assert_eq!(milliseconds(time), expected, "{time:?}");
        }
    }

    #[test]
    fn fields_of_info_are_found() {
        let info = "# Memory\r\nused_memory:12\r\nmaxmemory:34\r\n";
        assert_eq!((field(info, "maxmemory"), field(info, "none")), (34, 0));
    }
}
