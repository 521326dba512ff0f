//! `Cache`: bytes that are kept for a while, in a bounded room.
//!
//! The text of this module is the contract; the conformance suite (module `suite`, behind the cargo
//! feature of that name) quotes it and runs against every engine.
//!
//! # What a cache may forget
//! An item is gone when its lifetime has passed, never later than that (rounded up to
//! [`Limits::lifetime_step`]), and earlier when room is needed for others: that is *eviction*, and to a
//! caller it looks exactly like a deletion. An engine whose capability says `forgets_only_for_room`
//! keeps everything else; the others may forget any item at any moment. No item outlives the engine's
//! process for certain. So nothing whose loss is an error belongs here: a lock, a counter of money and a
//! list of revoked tokens are for `Kv`.
//!
//! # Room
//! Every item weighs its key, its value and [`Limits::item_overhead`]. All items together never weigh
//! more than [`Statistics::capacity`], not for a moment either; whoever sets an item pays for the
//! eviction. Which items go is the engine's choice. An item that could never fit is refused when it is set
//! (`cache.item_invalid`), before anything else is evicted for it.
//!
//! An engine whose capability does not say `weighs_items` is a server that others may use too and that
//! weighs in its own way: it keeps its own bound, and its [`Statistics`] are about all that is on it.
//!
//! # Versions and atomicity
//! Every write of a value gives the item a new [`Version`]. A version is never used twice for a key,
//! through deletion, expiry and eviction either, while the engine runs. Changing only the lifetime
//! keeps the version. Every operation on one key is linearizable: `set_if_absent` has one winner, a
//! `compare_and_set` replaces exactly the version that it names, no `increment` is lost. Operations on many
//! keys do each key for itself; others may see some done and some not.
//!
//! # Errors
//! InvalidArgument says that nothing was done and never will be. After Unavailable or DeadlineExceeded a
//! write may have happened. A reader takes an error for a miss and goes to the source.

mod forward;
mod limits;
mod memory;
#[cfg(feature = "suite")]
pub mod suite;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sinew_core::{Error, Kind, Result};

pub use limits::Limits;
pub use memory::MemoryCache;

/// A key: 1 to [`Limits::key_bytes`] bytes.
pub type Key = Bytes;

/// Names one write of one key's value. Opaque: only equality means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// How long an item shall live at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted or evicted.
    Unlimited,
    /// For this long from now.
    For(Duration),
}

/// What a cache holds for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Bytes,
    /// The write that it comes from.
    pub version: Version,
    /// What is left of its lifetime; never `For(0)`.
    pub left: Lifetime,
}

/// The answer to a compare-and-set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "anything but `Set` means that nothing was written"]
pub enum Swap {
    /// The item was there in the version named and has a new value now.
    Set(Version),
    /// There is an item, in another version.
    Changed,
    /// There is no item.
    Absent,
}

/// What [`Cache::increment`] shall do. Build it with [`Increment::by`] and the other methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Increment {
    /// What is added; may be negative.
    pub by: i64,
    /// What a missing counter counts as.
    pub initial: i64,
    /// The least result.
    pub minimum: i64,
    /// The greatest result.
    pub maximum: i64,
    /// How long a counter lives that is made now; one that is there keeps what is left.
    pub lifetime: Lifetime,
}

impl Increment {
    /// Adds `by` to a counter that begins at 0, knows no bounds but those of `i64`, and does not expire.
    pub fn by(by: i64) -> Self {
        Self {
            by,
            initial: 0,
            minimum: i64::MIN,
            maximum: i64::MAX,
            lifetime: Lifetime::Unlimited,
        }
    }

    /// Lets a missing counter count as `initial`, before `by` is added.
    #[must_use]
    pub fn from(mut self, initial: i64) -> Self {
        self.initial = initial;
        self
    }

    /// Bounds the result, both ends included.
    #[must_use]
    pub fn within(mut self, minimum: i64, maximum: i64) -> Self {
        self.minimum = minimum;
        self.maximum = maximum;
        self
    }

    /// Lets a counter that is made now live for this long.
    #[must_use]
    pub fn living(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// The result for a counter that holds `value` (`None`: there is none). `cache.not_a_number`
    /// (FailedPrecondition) or `cache.counter_bounds` (OutOfRange).
    pub fn apply(&self, value: Option<&[u8]>) -> Result<i64> {
        let before = match value {
            None => self.initial,
            Some(digits) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(not_a_number)?,
        };
        before
            .checked_add(self.by)
            .filter(|sum| (self.minimum..=self.maximum).contains(sum))
            .ok_or_else(|| counter_bounds(self))
    }
}

/// What an engine counts. The counters begin at zero when the engine is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Keys that were asked for by `get` and `get_many` and found.
    pub hits: u64,
    /// Keys that were asked for and not found.
    pub misses: u64,
    /// Items that went to make room.
    pub evicted: u64,
    /// Items that went because their lifetime had passed.
    pub expired: u64,
    /// Items now; those whose lifetime has passed may still be among them.
    pub items: u64,
    /// What those items weigh.
    pub weight: u64,
    /// What all items may weigh.
    pub capacity: u64,
}

impl Statistics {
    /// Hits per key asked for; `None` before the first.
    pub fn hit_ratio(&self) -> Option<f64> {
        let asked = self.hits + self.misses;
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people and charts")]
        (asked > 0).then(|| self.hits as f64 / asked as f64)
    }
}

/// What an engine can do; it selects the cases of the conformance suite and is shown in the
/// documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The engine's name.
    pub engine: &'static str,
    /// Whether an item goes before its time only when others need the room.
    pub forgets_only_for_room: bool,
    /// Whether [`Statistics`] counts exactly the items of this cache and weighs them by
    /// [`Limits::weight`]. Otherwise everything in it but hits and misses is about the whole server, as
    /// the server counts.
    pub weighs_items: bool,
    /// Its limits.
    pub limits: Limits,
}

/// The cache. See the module's text for what every method promises.
///
/// A lifetime of zero, or one longer than [`Limits::lifetime_maximum`], is InvalidArgument
/// `cache.lifetime_invalid`; a key, value or number of keys beyond the limits is InvalidArgument
/// `cache.item_invalid`.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// What this engine can do.
    fn capability(&self) -> &Capability;

    /// The item of a key, if there is one.
    async fn get(&self, key: &[u8]) -> Result<Option<Item>>;

    /// The items of many keys, in the order of the keys; a key may occur more than once. At most
    /// [`Limits::many`].
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>>;

    /// Sets the item, whether there is one or not, lifetime included.
    async fn set(&self, key: Key, value: Bytes, lifetime: Lifetime) -> Result<Version>;

    /// Sets many items with one lifetime, in order, so that the last of a repeated key stays. At
    /// most [`Limits::many`]; all are checked before the first is set.
    async fn set_many(&self, items: Vec<(Key, Bytes)>, lifetime: Lifetime) -> Result<()>;

    /// Sets the item if there is none; `None` when there is one.
    async fn set_if_absent(
        &self,
        key: Key,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Option<Version>>;

    /// Sets the item if it is there in this version.
    async fn compare_and_set(
        &self,
        key: Key,
        expected: Version,
        value: Bytes,
        lifetime: Lifetime,
    ) -> Result<Swap>;

    /// Adds to a counter and answers the result. The value of a counter is its decimal text, as of an
    /// `i64`, so that `get` and `set` work on it too. `cache.counter_bounds` (OutOfRange) when the
    /// result would pass the bounds or overflow, `cache.not_a_number` (FailedPrecondition) when the
    /// value is something else; both leave the item as it is and make none.
    async fn increment(&self, key: Key, increment: Increment) -> Result<i64>;

    /// Changes the lifetime of an item and keeps its value and version; tells whether there is one.
    async fn touch(&self, key: &[u8], lifetime: Lifetime) -> Result<bool>;

    /// Deletes the item; tells whether there was one.
    async fn delete(&self, key: &[u8]) -> Result<bool>;

    /// Deletes the item if it is there in this version; tells whether it was.
    async fn compare_and_delete(&self, key: &[u8], expected: Version) -> Result<bool>;

    /// Deletes many items and answers how many there were. At most [`Limits::many`].
    async fn delete_many(&self, keys: &[Key]) -> Result<u64>;

    /// Deletes everything that was there when it began.
    async fn clear(&self) -> Result<()>;

    /// What the engine counted.
    async fn statistics(&self) -> Result<Statistics>;
}

/// The error for a counter whose value is none.
pub fn not_a_number() -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "cache.not_a_number",
        "the item is not a counter: its value is not the decimal text of a 64-bit integer",
    )
}

/// The error for a counter that would pass its bounds.
pub fn counter_bounds(increment: &Increment) -> Error {
    Error::new(
        Kind::OutOfRange,
        "cache.counter_bounds",
        format!(
            "adding {} would take the counter out of {} to {}",
            increment.by, increment.minimum, increment.maximum
        ),
    )
}
