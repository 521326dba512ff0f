//! [`Cache`] over Memcached, version 1.6.14 or newer, through its meta protocol.
//!
//! `memcached://host1:11211,host2?namespace=shop`. Several servers share the keys by rendezvous hashing; nodes that
//! name the same servers in the same words agree on where a key is. While a server is away, calls for its keys answer
//! `engine.unavailable`: were they sent elsewhere, the old items would be back when it returns.
//!
//! # How an item is kept
//! The key is `<namespace>:<key>`, sent in base64, so that any bytes are well. The version is the server's own
//! compare-and-set token, with a mark of the server's process in the upper bits, since a restarted server counts from 1
//! again.
//!
//! Memcached's counters are unsigned and end at zero. Ours are signed, so a value that is the decimal text of an `i64` is kept
//! with 2⁶³ added and the flag 1: then the server's own arithmetic serves, which keeps the lifetime. An increment reads,
//! checks the bounds and adds, if the item is still the one that was read.
//!
//! # Rejected
//! The clients on crates.io: `memcache` (blocking, the classic protocol, OpenSSL by default), `async-memcached` (one
//! request at a time on a connection; its meta commands have neither tokens on arithmetic nor TLS), `memcache-async` and
//! `rust-memcached` (classic protocol only). What is needed of the protocol is one module.

mod link;
mod place;
mod wire;

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use percent_encoding::percent_decode;
use sinew_core::{Backoff, Clock, Result};
use sinew_engine::{
    Health,
    cache::{Cache, Capability, Increment, Item, Key, Lifetime, Limits, Statistics, Swap, Version},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{Address, fault};
use link::{Again, Board, Link};
use wire::{Answers, Command, Reply, Request};

const ENGINE: &str = "memcached";

/// The longest key that fits into the protocol's 250 bytes when it is in base64.
const NAME_BYTES: usize = 186;

/// Connections to each server.
const CONNECTIONS: usize = 2;

/// Keys that `clear` deletes in one step.
const BATCH: usize = 1000;

/// A cache on Memcached servers. See the module's text.
pub struct MemcachedCache {
    servers: Vec<Server>,
    capability: Capability,
    health: watch::Receiver<Health>,
    /// What stands before every key.
    prefix: Vec<u8>,
    timeout: Duration,
    hits: AtomicU64,
    misses: AtomicU64,
}

struct Server {
    /// What its place among the servers depends on.
    seed: u64,
    links: Vec<Link>,
    next: AtomicUsize,
}

impl Server {
    fn link(&self) -> &Link {
        &self.links[self.next.fetch_add(1, Ordering::Relaxed) % self.links.len()]
    }
}

/// A version: the server's token below, the mark of its process above.
const TOKEN_BITS: u32 = 44;

fn version(mark: u64, token: u64) -> Version {
    Version(mark << TOKEN_BITS | token & ((1 << TOKEN_BITS) - 1))
}

/// The token to compare with; one that no item has when the version is of another process.
fn token(mark: u64, version: Version) -> u64 {
    if version.0 >> TOKEN_BITS == mark {
        version.0 & ((1 << TOKEN_BITS) - 1)
    } else {
        u64::MAX
    }
}

impl MemcachedCache {
    /// Reads an URL (`memcached://host1:port,host2`) for [`MemcachedCache::open`].
    pub fn address(url: &str) -> Result<Address> {
        Address::parse(url, 11211, &[])
    }

    /// A cache on the servers at this address. It connects in the background: wants a tokio runtime.
    /// `engine.address` (InvalidArgument) when the address cannot be one of Memcached.
    pub fn open(address: &Address, clock: Clock) -> Result<Self> {
        if !address.path.is_empty() {
            return Err(fault::address(
                "memcached has no databases: leave out the path",
            ));
        }
        if address.user.is_some() != address.password().is_some() {
            return Err(fault::address(
                "a user and a password belong together: give both",
            ));
        }
        let prefix = format!("{}:", address.namespace).into_bytes();
        let (board, health) = Board::new(address.hosts.len() * CONNECTIONS, clock);
        let mut servers = Vec::new();
        for (place, host) in address.hosts.iter().enumerate() {
            let links = (0..CONNECTIONS)
                .map(|n| Link::open(address, host, board.at(place * CONNECTIONS + n)))
                .collect::<Result<_>>()?;
            servers.push(Server {
                seed: place::hash(host.to_string().as_bytes()),
                links,
                next: AtomicUsize::new(0),
            });
        }
        Ok(Self {
            servers,
            capability: Capability {
                engine: ENGINE,
                forgets_only_for_room: true,
                weighs_items: false,
                limits: Limits {
                    key_bytes: NAME_BYTES - prefix.len(),
                    // The server's bound is 1 MiB with the key and the item's head.
                    value_bytes: (1 << 20) - 1024,
                    many: 1024,
                    item_overhead: 64,
                    lifetime_step: Duration::from_secs(1),
                    lifetime_maximum: Duration::from_secs(30 * 24 * 3600),
                },
            },
            health,
            prefix,
            timeout: address.timeout,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// Whether all servers answer.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn place(&self, key: &[u8]) -> usize {
        place::choose(key, self.servers.iter().map(|server| server.seed))
    }

    fn named(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// One command, its reply, and the mark of the process that gave it.
    async fn one(
        &self,
        key: &[u8],
        again: Again,
        command: impl Fn(u64) -> Command,
    ) -> Result<(Reply, u64)> {
        let name = self.named(key);
        let link = self.servers[self.place(key)].link();
        let (replies, mark) = link
            .ask(again, |mark| {
                let mut text = BytesMut::new();
                command(mark).write(&name, &mut text);
                Request {
                    text: text.freeze(),
                    answers: Answers::Replies(1),
                }
            })
            .await?;
        match replies.into_iter().next() {
            Some(reply) => Ok((reply, mark)),
            None => Err(fault::unexpected(ENGINE, "no reply")),
        }
    }

    /// A command for each key, in one round trip to each server; the replies in the order of the keys.
    async fn many(
        &self,
        again: Again,
        commands: Vec<(&[u8], Command)>,
    ) -> Result<Vec<(Reply, u64)>> {
        let mut texts = vec![(BytesMut::new(), Vec::new()); self.servers.len()];
        let count = commands.len();
        for (number, (key, command)) in commands.into_iter().enumerate() {
            let (text, numbers) = &mut texts[self.place(key)];
            command.write(&self.named(key), text);
            numbers.push(number);
        }
        let asked = self
            .servers
            .iter()
            .zip(texts)
            .filter_map(|(server, (text, numbers))| {
                let (text, answers) = (text.freeze(), Answers::Replies(numbers.len()));
                (!numbers.is_empty()).then_some(async move {
                    let asked = server.link().ask(again, |_| Request {
                        text: text.clone(),
                        answers,
                    });
                    asked.await.map(|(replies, mark)| (numbers, replies, mark))
                })
            });
        let mut all: Vec<Option<(Reply, u64)>> = vec![None; count];
        for (numbers, replies, mark) in futures_util::future::try_join_all(asked).await? {
            for (number, reply) in numbers.into_iter().zip(replies) {
                all[number] = Some((reply, mark));
            }
        }
        all.into_iter()
            .map(|reply| reply.ok_or_else(|| fault::unexpected(ENGINE, "fewer replies than keys")))
            .collect()
    }

    fn found(&self, reply: Reply, mark: u64) -> Result<Option<Item>> {
        let item = read(reply, mark)?;
        let counter = if item.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(item)
    }

    /// Lines that end with `END`.
    async fn lines(&self, link: &Link, command: &'static [u8]) -> Result<Vec<String>> {
        let request = |_| Request {
            text: Bytes::from_static(command),
            answers: Answers::Lines,
        };
        let (replies, _) = link.ask(Again::Once, request).await?;
        replies
            .into_iter()
            .map(|reply| match reply {
                Reply::Line(line) => Ok(line),
                other => Err(other.unexpected()),
            })
            .collect()
    }
}

/// The item that a reply to `mg` tells of.
fn read(reply: Reply, mark: u64) -> Result<Option<Item>> {
    match reply {
        Reply::Miss => Ok(None),
        Reply::Value {
            value,
            token,
            left,
            is_counter,
        } => Ok(Some(Item {
            value: if is_counter {
                wire::counter_text(&value)?
            } else {
                value
            },
            version: version(mark, token),
            left,
        })),
        other => Err(other.unexpected()),
    }
}

#[async_trait]
impl Cache for MemcachedCache {
    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Item>> {
        self.capability.limits.check_key(key)?;
        let (reply, mark) = self.one(key, Again::Once, |_| Command::Get).await?;
        self.found(reply, mark)
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        self.capability.limits.check_keys(keys)?;
        let commands = keys.iter().map(|key| (&key[..], Command::Get)).collect();
        self.many(Again::Once, commands)
            .await?
            .into_iter()
            .map(|(reply, mark)| self.found(reply, mark))
            .collect()
    }

    async fn set(&self, key: Key, value: Bytes, lifetime: Lifetime) -> Result<Version> {
        self.capability.limits.check_item(&key, &value, lifetime)?;
        let command = |_| Command::set(&value, lifetime);
        match self.one(&key, Again::Never, command).await? {
            (Reply::Done(token), mark) => Ok(version(mark, token)),
            (other, _) => Err(other.unexpected()),
        }
    }

    async fn set_many(&self, items: Vec<(Key, Bytes)>, lifetime: Lifetime) -> Result<()> {
        self.capability.limits.check_items(&items, lifetime)?;
        let commands = items
            .iter()
            .map(|(key, value)| (&key[..], Command::set(value, lifetime)))
            .collect();
        for (reply, _) in self.many(Again::Never, commands).await? {
            if !matches!(reply, Reply::Done(_)) {
                return Err(reply.unexpected());
            }
        }
        Ok(())
    }

    async fn set_if_absent(
        &self,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Option<Version>> {
        self.capability.limits.check_item(&key, &value, lifetime)?;
        let command = |_| Command::set(&value, lifetime).if_absent();
        match self.one(&key, Again::Never, command).await? {
            (Reply::Done(token), mark) => Ok(Some(version(mark, token))),
            (Reply::NotStored, _) => Ok(None),
            (other, _) => Err(other.unexpected()),
        }
    }

    async fn compare_and_set(
        &self,
        key: Key,
        expected: Version,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Swap> {
        self.capability.limits.check_item(&key, &value, lifetime)?;
        let command = |mark| Command::set(&value, lifetime).if_token(token(mark, expected));
        match self.one(&key, Again::Never, command).await? {
            (Reply::Done(token), mark) => Ok(Swap::Set(version(mark, token))),
            (Reply::Changed, _) => Ok(Swap::Changed),
            (Reply::NotFound, _) => Ok(Swap::Absent),
            (other, _) => Err(other.unexpected()),
        }
    }

    async fn increment(&self, key: Key, increment: Increment) -> Result<i64> {
        self.capability.limits.check_key(&key)?;
        self.capability.limits.check_lifetime(increment.lifetime)?;
        let deadline = Instant::now() + self.timeout;
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));
        loop {
            let (reply, mark) = self.one(&key, Again::Once, |_| Command::Get).await?;
            let is_counter = matches!(
                reply,
                Reply::Value {
                    is_counter: true,
                    ..
                }
            );
            let item = read(reply, mark)?;
            let sum = increment.apply(item.as_ref().map(|item| &item.value[..]))?;
            let text = Bytes::from(sum.to_string());
            let command = |mark| match &item {
                None => Command::set(&text, increment.lifetime).if_absent(),
                Some(item) if is_counter => {
                    Command::add(increment.by).if_token(token(mark, item.version))
                }
                // Kept as text that is a number, but not as we write numbers (`+5`): it becomes a counter now.
                Some(item) => Command::set(&text, item.left).if_token(token(mark, item.version)),
            };
            match self.one(&key, Again::Never, command).await?.0 {
                Reply::Done(_) => return Ok(sum),
                // Somebody was faster.
                Reply::NotStored | Reply::Changed | Reply::NotFound => {}
                // The server looks at the value before it looks at the token.
                Reply::Failed(text) if text.contains("non-numeric") => {}
                other => return Err(other.unexpected()),
            }
            if Instant::now() >= deadline {
                let why = "too many others change this counter; nothing was added";
                return Err(fault::unavailable(ENGINE, why));
            }
            if backoff.attempts() > 2 {
                sleep(backoff.next_delay()).await;
            } else {
                backoff.next_delay();
            }
        }
    }

    async fn touch(&self, key: &[u8], lifetime: Lifetime) -> Result<bool> {
        self.capability.limits.check_key(key)?;
        self.capability.limits.check_lifetime(lifetime)?;
        let command = |_| Command::Touch(lifetime);
        match self.one(key, Again::Never, command).await?.0 {
            Reply::Done(_) => Ok(true),
            Reply::Miss => Ok(false),
            other => Err(other.unexpected()),
        }
    }

    async fn delete(&self, key: &[u8]) -> Result<bool> {
        self.capability.limits.check_key(key)?;
        let command = |_| Command::Delete(None);
        was_there(&self.one(key, Again::Never, command).await?.0)
    }

    async fn compare_and_delete(&self, key: &[u8], expected: Version) -> Result<bool> {
        self.capability.limits.check_key(key)?;
        let command = |mark| Command::Delete(Some(token(mark, expected)));
        was_there(&self.one(key, Again::Never, command).await?.0)
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        self.capability.limits.check_keys(keys)?;
        let commands = keys.iter().map(|key| (&key[..], Command::Delete(None)));
        let replies = self.many(Again::Never, commands.collect()).await?;
        replies
            .iter()
            .map(|(reply, _)| was_there(reply).map(u64::from))
            .sum()
    }

    /// Asks each server for the names of all its items, and deletes those of the namespace.
    async fn clear(&self) -> Result<()> {
        for server in &self.servers {
            let link = server.link();
            let deadline = Instant::now() + self.timeout;
            let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
            let lines = loop {
                let lines = self.lines(link, b"lru_crawler metadump hash\r\n").await?;
                match lines.first().filter(|line| line.starts_with("BUSY")) {
                    None => break lines,
                    // It walks for somebody else, or to clean up.
                    Some(line) if Instant::now() >= deadline => {
                        return Err(fault::unavailable(ENGINE, line));
                    }
                    Some(_) => sleep(backoff.next_delay()).await,
                }
            };
            let names: Vec<Vec<u8>> = lines
                .iter()
                .filter_map(|line| line.strip_prefix("key=")?.split(' ').next())
                .map(|name| percent_decode(name.as_bytes()).collect::<Vec<u8>>())
                .filter(|name| name.starts_with(&self.prefix))
                .collect();
            for batch in names.chunks(BATCH) {
                let mut text = BytesMut::new();
                for name in batch {
                    Command::Delete(None).write(name, &mut text);
                }
                let text = text.freeze();
                let request = |_| Request {
                    text: text.clone(),
                    answers: Answers::Replies(batch.len()),
                };
                for reply in link.ask(Again::Once, request).await?.0 {
                    was_there(&reply)?;
                }
            }
        }
        Ok(())
    }

    async fn statistics(&self) -> Result<Statistics> {
        let mut sum = Statistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            ..Statistics::default()
        };
        for server in &self.servers {
            let lines = self.lines(server.link(), b"stats\r\n").await?;
            let field = |name: &str| wire::field(&lines, name).unwrap_or(0);
            sum.evicted += field("evictions");
            sum.expired += field("reclaimed") + field("crawler_reclaimed");
            sum.items += field("curr_items");
            sum.weight += field("bytes");
            sum.capacity += field("limit_maxbytes");
        }
        Ok(sum)
    }
}

fn was_there(reply: &Reply) -> Result<bool> {
    match reply {
        Reply::Done(_) => Ok(true),
        Reply::NotFound | Reply::Changed => Ok(false),
        other => Err(other.clone().unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_fits_only_the_process_that_gave_it() {
        let given = version(7, 12);
        assert_eq!(token(7, given), 12);
        assert_eq!(token(8, given), u64::MAX);
        assert_ne!(version(7, 12), version(8, 12));
    }
}
