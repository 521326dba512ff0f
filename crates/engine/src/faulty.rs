//! A layer under which any engine misbehaves as engines behind a network do: answers that are errors, changes
//! whose answer is lost, delays, requests that arrive twice. Which, is drawn from a seed, so a run can be had again.
//!
//! For tests of what stands above an engine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sinew_core::{Error, Kind, Result, Retry};

/// How often an engine misbehaves: of 1,000 calls, on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Answered with an error; nothing happened, but the error does not say so where the caller can find out.
    pub errors: u64,
    /// Carried out, and the answer lost.
    pub lost: u64,
    /// Of the batches of a watch and the pieces of a download: lost with the watch or download.
    pub breaks: u64,
    /// Carried out twice, when the contract lets the caller repeat it.
    pub twice: u64,
    /// Kept back for up to [`Faults::delay`].
    pub delayed: u64,
    /// The longest delay.
    pub delay: Duration,
    /// Whether answers are lost also of changes of which not everybody can find out what became of them: commits that
    /// write, publishes.
    pub lose_the_undecidable: bool,
}

impl Default for Faults {
    /// A bad network: one call in seven misbehaves somehow.
    fn default() -> Self {
        Self {
            errors: 40,
            lost: 40,
            breaks: 40,
            twice: 30,
            delayed: 30,
            delay: Duration::from_millis(3),
            lose_the_undecidable: false,
        }
    }
}

/// An engine that misbehaves. Clones share the seed's course and the switch.
#[derive(Clone, Debug)]
pub struct Faulty<E> {
    inner: E,
    faults: Faults,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    random: AtomicU64,
    is_away: AtomicBool,
}

impl<E> Faulty<E> {
    /// Puts the layer over an engine.
    pub fn new(inner: E, seed: u64, faults: Faults) -> Self {
        Self {
            inner,
            faults,
            shared: Arc::new(Shared {
                random: AtomicU64::new(seed),
                is_away: AtomicBool::new(false),
            }),
        }
    }

    /// Lets every call fail from now on, or no longer.
    pub fn set_away(&self, is_away: bool) {
        self.shared.is_away.store(is_away, Ordering::SeqCst);
    }

    /// The engine below.
    pub fn inner(&self) -> &E {
        &self.inner
    }

    fn is_away(&self) -> bool {
        self.shared.is_away.load(Ordering::SeqCst)
    }

    /// Splitmix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
    fn draw(&self, below: u64) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let at = self.shared.random.fetch_add(STEP, Ordering::Relaxed);
        let mut z = at.wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn happens(&self, of_thousand: u64) -> bool {
        self.draw(1000) < of_thousand
    }

    /// Keeps a call back, now and then.
    async fn wait(&self) {
        if self.happens(self.faults.delayed) {
            let most = u64::try_from(self.faults.delay.as_micros()).unwrap_or(u64::MAX);
            tokio::time::sleep(Duration::from_micros(self.draw(most))).await;
        }
    }

    /// What comes before a call. `decidable` as for [`Self::after`]: otherwise the error says that nothing happened.
    async fn before(&self, decidable: bool) -> Result<()> {
        self.wait().await;
        let is_away = self.is_away();
        if !is_away && !self.happens(self.faults.errors) {
            return Ok(());
        }
        if is_away || decidable || self.faults.lose_the_undecidable {
            return Err(unavailable());
        }
        let refused = Error::new(
            Kind::ResourceExhausted,
            "kv.overloaded",
            "the engine is overloaded (an injected fault)",
        );
        Err(refused.with_retry(Retry::Yes))
    }

    /// What comes after a call that changed something. `decidable`: the caller can find out what became of it.
    fn after(&self, decidable: bool) -> Result<()> {
        if (decidable || self.faults.lose_the_undecidable) && self.happens(self.faults.lost) {
            return Err(Error::new(
                Kind::DeadlineExceeded,
                "engine.timeout",
                "the answer was lost (an injected fault)",
            ));
        }
        Ok(())
    }

    /// Whether a call that may be repeated arrives twice.
    fn twice(&self) -> bool {
        self.happens(self.faults.twice)
    }
}

fn unavailable() -> Error {
    Error::new(
        Kind::Unavailable,
        "engine.unavailable",
        "the engine is away (an injected fault)",
    )
}

/// Carries out a call that may be repeated, once or twice, with faults before and after.
macro_rules! repeatable {
    ($layer:expr, $call:expr) => {{
        $layer.before(true).await?;
        if $layer.twice() {
            let _ = $call.await;
        }
        let answer = $call.await?;
        $layer.after(true)?;
        Ok::<_, sinew_core::Error>(answer)
    }};
}
mod blob;
mod bus;
mod cache;
mod kv;
