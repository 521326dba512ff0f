//! Small values with conditional writes, which Kafka itself does not have.
//!
//! A register is a partition that everybody reads from its beginning (module `ledger`). A conditional write is an entry
//! that names the version that it expects; whether it counts is decided by the entries before it, so everybody who
//! reads as far decides the same. Who wrote reads up to its own entry, which the answer to a publish tells, and
//! knows.
//!
//! When the log is long, one who writes puts all values that there are behind it once more and removes the rest.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sinew_core::{Backoff, Result};
use tokio::{sync::watch, task::AbortHandle};

use super::{
    ENGINE,
    batch::Raw,
    codes,
    intake::BATCH,
    ledger::{Ask, Entry, Ledger, entries},
    link::Link,
    requests::{self, EARLIEST, Making},
    wire::Refusal,
};
use crate::{bus_shell::Put, fault};

/// Entries of a log that is shortened, at least.
const LONG: u64 = 5_000;
/// How much longer it must be than what it says.
const LONGER: u64 = 4;
/// Bytes that are read at once.
const READ: i32 = 8 << 20;
/// How long a broker holds a request when there is nothing to read.
const HOLD: Duration = Duration::from_secs(2);

pub(super) struct Register {
    link: Arc<Link>,
    topic: String,
    partition: u32,
    making: Arc<Making>,
    ledger: Mutex<Option<Ledger>>,
    /// One reads at a time.
    reading: tokio::sync::Mutex<()>,
    listeners: Mutex<HashMap<String, watch::Sender<()>>>,
    following: Mutex<Weak<Following>>,
    is_shortening: AtomicBool,
}

/// Reads a register as long as somebody listens.
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for hints about one key.
pub(super) struct Listening {
    told: watch::Receiver<()>,
    _following: Arc<Following>,
}

impl Listening {
    pub(super) async fn next(&mut self) {
        if self.told.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Register {
    pub(super) fn new(
        link: &Arc<Link>,
        topic: String,
        partition: u32,
        making: Arc<Making>,
    ) -> Self {
        Self {
            link: link.clone(),
            topic,
            partition,
            making,
            ledger: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            listeners: Mutex::default(),
            following: Mutex::default(),
            is_shortening: AtomicBool::new(false),
        }
    }

    fn tell(&self, hints: Vec<String>) {
        if hints.is_empty() {
            return;
        }
        let mut listeners = lock(&self.listeners);
        for hint in hints {
            if let Some(listener) = listeners.get(&hint) {
                listener.send_replace(());
            }
        }
        listeners.retain(|_, listener| listener.receiver_count() > 0);
    }

    fn next(&self) -> Option<u64> {
        lock(&self.ledger).as_ref().map(|ledger| ledger.next)
    }

    fn absorb(&self, from: u64, entries: Vec<(u64, Entry)>, next: u64) {
        let hints = match &mut *lock(&self.ledger) {
            Some(ledger) => ledger.absorb(from, entries, next),
            None => Vec::new(),
        };
        self.tell(hints);
    }

    /// Its topic is made when it is not there.
    async fn make(&self) -> Result<(), Refusal> {
        requests::create(&self.link, &self.topic, &self.making).await
    }

    /// Reads up to where the log ends now.
    pub(super) async fn sync(&self) -> Result<()> {
        let synced = tokio::time::timeout(self.link.timeout, self.catch_up()).await;
        synced.unwrap_or_else(|_| {
            let why = fault::unavailable(ENGINE, "its records are not read in time");
            Err(Refusal::Away(why))
        })?;
        Ok(())
    }

    async fn catch_up(&self) -> Result<(), Refusal> {
        let _order = self.reading.lock().await;
        let mut made = false;
        loop {
            let read = match self.next() {
                Some(from) => self.read_from(from).await,
                None => self.load().await,
            };
            match read {
                Err(Refusal::Code(codes::NO_TOPIC)) if !made => {
                    made = true;
                    // Who reads it anew has another one.
                    *lock(&self.ledger) = None;
                    self.make().await?;
                }
                // Others have shortened it.
                Err(Refusal::Code(codes::OUT_OF_RANGE)) => *lock(&self.ledger) = None,
                read => return read,
            }
        }
    }

    async fn read_from(&self, mut from: u64) -> Result<(), Refusal> {
        loop {
            let (entries, next, end) = self.fetch(from).await?;
            self.absorb(from, entries, next);
            if next >= end {
                return Ok(());
            }
            from = next;
        }
    }

    async fn fetch(&self, from: u64) -> Result<(Vec<(u64, Entry)>, u64, u64), Refusal> {
        let fetched = requests::fetch(&self.link, &self.topic, self.partition, from, READ).await?;
        let entries = entries(fetched.records).ok_or_else(foreign)?;
        Ok((entries, fetched.next, fetched.end))
    }

    async fn load(&self) -> Result<(), Refusal> {
        let starts = requests::offsets(&self.link, &self.topic, EARLIEST).await?;
        let start = starts.get(self.partition as usize).copied().flatten();
        let (start, _) = start.ok_or(Refusal::Code(codes::NO_LEADER))?;
        let mut found = Vec::new();
        let mut from = start;
        loop {
            let (entries, next, end) = self.fetch(from).await?;
            found.extend(entries);
            if next >= end {
                let loaded = Ledger::load(start, found, next);
                let (ledger, _) = loaded.ok_or_else(|| {
                    let why = format!("{} has lost its beginning", self.topic);
                    Refusal::Failed(fault::unsuitable(ENGINE, why))
                })?;
                *lock(&self.ledger) = Some(ledger);
                return Ok(());
            }
            from = next;
        }
    }

    fn with<T>(&self, look: impl FnOnce(&Ledger) -> T) -> Result<T> {
        match &*lock(&self.ledger) {
            Some(ledger) => Ok(look(ledger)),
            None => Err(fault::unavailable(ENGINE, "its records are read anew")),
        }
    }

    /// A value as it is now, and its version.
    pub(super) async fn get(&self, key: &str) -> Result<Option<(Bytes, u64)>> {
        self.sync().await?;
        self.with(|ledger| ledger.get(key))
    }

    /// The values whose keys begin so, with the rest of the key, as they are now.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<(String, Bytes, u64)>> {
        self.sync().await?;
        self.with(|ledger| ledger.list(prefix))
    }

    /// The value as it was when it was read last.
    pub(super) fn known(&self, key: &str) -> Option<(Bytes, u64)> {
        self.with(|ledger| ledger.get(key)).ok().flatten()
    }

    /// Writes a value, or removes it, if it is at this version; 0: if there is none.
    pub(super) async fn put(
        self: &Arc<Self>,
        key: &str,
        value: Option<Bytes>,
        expected: u64,
    ) -> Result<Put> {
        let is_as_expected = |ledger: &Ledger| {
            let found = ledger.get(key).map_or(0, |(_, version)| version);
            (found == expected).then(|| ledger.version(key))
        };
        let at = match self.with(is_as_expected) {
            Ok(Some(at)) => at,
            // What is known may be old.
            _ => {
                self.sync().await?;
                match self.with(is_as_expected)? {
                    Some(at) => at,
                    None => return Ok(Put::Conflict),
                }
            }
        };
        let entry = Entry::new(Ask::PutAt(at), key, value);
        let offset = self.append(entry.clone()).await?;
        if self.next() == Some(offset) {
            self.absorb(offset, vec![(offset, entry)], offset + 1);
        } else if self.next().is_none_or(|next| next <= offset) {
            self.sync().await?;
        }
        self.shorten();
        match self.with(|ledger| ledger.verdict(offset))? {
            Some(true) => Ok(Put::Done(offset + 1)),
            Some(false) => Ok(Put::Conflict),
            // It was read anew in between, from values that do not tell what became of each entry.
            None => Err(fault::timeout(ENGINE, self.link.timeout)),
        }
    }

    async fn append(&self, entry: Entry) -> Result<u64, Refusal> {
        let records = vec![entry.seal()];
        let (link, topic) = (&self.link, &self.topic);
        match requests::append(link, topic, self.partition, records.clone()).await {
            Err(Refusal::Code(codes::NO_TOPIC)) => {
                self.make().await?;
                requests::append(link, topic, self.partition, records).await
            }
            result => result,
        }
    }

    /// Writes whatever there is.
    pub(super) async fn set(self: &Arc<Self>, key: &str, value: Option<Bytes>) -> Result<()> {
        self.append(Entry::new(Ask::Put, key, value)).await?;
        self.shorten();
        Ok(())
    }

    /// Removes everything whose key begins so.
    pub(super) async fn remove_all(&self, prefix: &str) -> Result<()> {
        self.append(Entry::new(Ask::RemoveAll, prefix, None))
            .await?;
        Ok(())
    }

    /// Tells those who listen for this key, soon, if nothing comes in between.
    pub(super) async fn hint(&self, key: &str) {
        let leader = self
            .link
            .leader(&self.topic, self.partition, self.link.timeout);
        if let Ok(leader) = leader.await {
            let record = Entry::new(Ask::Hint, key, None).seal();
            self.link
                .intake(leader)
                .tell(&self.topic, self.partition, record);
        }
    }

    /// Listens for hints about a key.
    pub(super) async fn listen(self: &Arc<Self>, key: &str) -> Result<Listening> {
        if self.next().is_none() {
            self.sync().await?;
        }
        let told = {
            let mut listeners = lock(&self.listeners);
            let listener = listeners.entry(key.to_owned());
            listener.or_insert_with(|| watch::channel(()).0).subscribe()
        };
        let mut following = lock(&self.following);
        let kept = following.upgrade().unwrap_or_else(|| {
            let task = tokio::spawn(follow(Arc::downgrade(self)));
            Arc::new(Following(task.abort_handle()))
        });
        *following = Arc::downgrade(&kept);
        Ok(Listening {
            told,
            _following: kept,
        })
    }

    /// Shortens the log when it is much longer than what it says.
    fn shorten(self: &Arc<Self>) {
        let is_long = self.with(|ledger| {
            let length = ledger.next - ledger.start;
            length > LONG.max(ledger.len() as u64 * LONGER)
        });
        if !is_long.unwrap_or(false) || self.is_shortening.swap(true, Ordering::Relaxed) {
            return;
        }
        let register = self.clone();
        tokio::spawn(async move {
            if let Err(refusal) = register.rewrite().await {
                let error = sinew_core::Error::from(refusal);
                tracing::debug!(topic = register.topic, error = %error.detail(), "its records are shortened later");
            }
            register.is_shortening.store(false, Ordering::Relaxed);
        });
    }

    async fn rewrite(&self) -> Result<(), Refusal> {
        // Others may have done it.
        let starts = requests::offsets(&self.link, &self.topic, EARLIEST).await?;
        let start = starts.get(self.partition as usize).copied().flatten();
        let (start, _) = start.ok_or(Refusal::Code(codes::NO_LEADER))?;
        let (snapshot, at) = {
            let mut ledger = lock(&self.ledger);
            let Some(ledger) = &mut *ledger else {
                return Ok(());
            };
            if ledger.start < start {
                ledger.start = start;
                return Ok(());
            }
            (ledger.snapshot(), ledger.next)
        };
        let mut batch: Vec<Raw> = Vec::new();
        let mut size = 0;
        for entry in snapshot {
            let raw = entry.seal();
            if size + raw.size() > BATCH {
                let records = std::mem::take(&mut batch);
                requests::append(&self.link, &self.topic, self.partition, records).await?;
                size = 0;
            }
            size += raw.size();
            batch.push(raw);
        }
        requests::append(&self.link, &self.topic, self.partition, batch).await?;
        requests::trim(&self.link, &self.topic, self.partition, at).await?;
        if let Some(ledger) = &mut *lock(&self.ledger) {
            ledger.start = at;
        }
        tracing::debug!(
            topic = self.topic,
            partition = self.partition,
            first = at,
            "its records are shortened"
        );
        Ok(())
    }
}

fn foreign() -> Refusal {
    Refusal::Failed(fault::unsuitable(
        ENGINE,
        "a record in its topic was not written by Sinew",
    ))
}

/// Reads a register as it grows, until nobody listens.
async fn follow(register: Weak<Register>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let Some(register) = register.upgrade() else {
            return;
        };
        if let Err(refusal) = follow_once(&register, &mut backoff).await {
            if let Refusal::Code(codes::OUT_OF_RANGE) = refusal {
                // It is read anew with the next call.
                let _ = register.sync().await;
            }
            register.link.forget(&register.topic);
            let error = sinew_core::Error::from(refusal);
            tracing::debug!(topic = register.topic, error = %error.detail(), "hints come later");
            register.link.clock.sleep(backoff.next_delay()).await;
        }
    }
}

async fn follow_once(register: &Register, backoff: &mut Backoff) -> Result<(), Refusal> {
    let link = &register.link;
    let leader = link
        .leader(&register.topic, register.partition, link.timeout)
        .await?;
    let line = link.own(leader, link.timeout).await?;
    loop {
        let Some(from) = register.next() else {
            register.catch_up().await?;
            continue;
        };
        let (topic, partition) = (&register.topic, register.partition);
        let times = (HOLD, link.timeout);
        let fetched = requests::fetch_over(&line, topic, partition, from, READ, times).await?;
        let next = fetched.next;
        register.absorb(from, entries(fetched.records).ok_or_else(foreign)?, next);
        backoff.reset();
    }
}
