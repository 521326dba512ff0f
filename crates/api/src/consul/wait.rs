//! Blocking queries: how long one waits, and when it is answered with which index.

use std::time::Duration;

use sinew_core::Result;

use super::{duration, query::Query, reply};

const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How long a node that is behind another may take to catch up.
pub(super) const CATCH_UP: Duration = Duration::from_secs(1);

/// What a request waits for: that the index is greater than the one it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocking {
    index: u64,
    wait: Duration,
}

/// What is to be done about a request that may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Answer, with this index.
    Answer(u64),
    /// Wait for a change.
    Wait,
    /// Its index comes from a future that this node has not seen; it may be behind another.
    CatchUp,
}

impl Blocking {
    /// What the query asks for. `index=0`, and what is less, does not wait.
    pub(super) fn of(query: &Query) -> Result<Option<Self>> {
        let index = match query.get("index").filter(|text| !text.is_empty()) {
            None => 0,
            // Spring's watch of the configuration begins with -1.
            Some(text) => match text.parse::<i128>().map(u64::try_from) {
                Ok(index) => index.unwrap_or(0),
                Err(_) => return Err(reply::invalid("Invalid index")),
            },
        };
        let wait = match query.get("wait").filter(|text| !text.is_empty()) {
            None => Duration::ZERO,
            Some(text) => {
                duration::parse(text).ok_or_else(|| reply::invalid("Invalid wait time"))?
            }
        };
        let wait = if wait.is_zero() { DEFAULT_WAIT } else { wait };
        Ok((index > 0).then_some(Self {
            index,
            wait: wait.min(LONGEST_WAIT),
        }))
    }

    /// How long it waits; `share`, from 0 to 1, is of the sixteenth that spreads those who began
    /// together.
    pub(super) fn patience(&self, share: f64) -> Duration {
        self.wait + (self.wait / 16).mul_f64(share.clamp(0.0, 1.0))
    }

    /// Decides when what was asked for is at `index`, and this node has seen the store's revision
    /// `seen`.
    pub(super) fn turn(&self, index: u64, seen: u64) -> Turn {
        if index > self.index {
            Turn::Answer(index)
        } else if self.index > seen.max(index) {
            Turn::CatchUp
        } else {
            Turn::Wait
        }
    }

    /// The index to answer with when its time is over and nothing has changed.
    pub(super) fn over(&self, index: u64, seen: u64) -> u64 {
        match self.turn(index, seen) {
            // It never was: the store is another, or was restored. The client begins anew.
            Turn::CatchUp => index,
            // The node that gave this index may have counted otherwise; there is nothing newer.
            _ => index.max(self.index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocking(query: &str) -> Option<Blocking> {
        Blocking::of(&Query::parse(query).unwrap()).unwrap()
    }

    #[test]
    fn what_waits_and_how_long() {
        for at_once in ["", "index=0", "index=-1", "wait=10s", "index="] {
            assert_eq!(blocking(at_once), None, "{at_once}");
        }
        let seconds = |query| blocking(query).unwrap().patience(0.0).as_secs();
        assert_eq!(seconds("index=1"), 300);
        assert_eq!(seconds("index=1&wait=0s"), 300);
        assert_eq!(seconds("index=1&wait=10s"), 10);
        assert_eq!(seconds("index=1&wait=2h"), 600);
        let longest = blocking("index=1&wait=16s").unwrap().patience(7.0);
        assert_eq!(longest, Duration::from_secs(17));
        for bad in ["index=x", "index=1&wait=10", "index=1&wait=-1s"] {
            Blocking::of(&Query::parse(bad).unwrap()).unwrap_err();
        }
    }

    #[test]
    fn when_it_is_answered() {
        let seven = blocking("index=7").unwrap();
        assert_eq!(seven.turn(8, 8), Turn::Answer(8));
        assert_eq!(seven.turn(7, 9), Turn::Wait);
        assert_eq!(
            seven.turn(5, 9),
            Turn::Wait,
            "another node counted otherwise"
        );
        assert_eq!(seven.turn(5, 6), Turn::CatchUp);
        assert_eq!(seven.over(5, 9), 7, "never backwards without reason");
        assert_eq!(seven.over(8, 9), 8);
        assert_eq!(seven.over(5, 6), 5, "another store");
    }
}
