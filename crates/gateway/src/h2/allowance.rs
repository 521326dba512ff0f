//! How much a client may ask of a connection that costs it nothing: frames that carry no request and
//! no body, and streams that it takes back. Floods of them are known attacks (CVE-2019-9511 to 9518,
//! CVE-2023-44487 "rapid reset", CVE-2024-27316 "CONTINUATION"), and no limit on streams sees them.

use std::{cell::Cell, rc::Rc};

use crate::timer::{Millis, Ticker};

/// What a client of this connection may still send.
#[derive(Debug)]
pub(super) struct Allowance {
    ticker: Rc<Ticker>,
    refilled: Cell<Millis>,
    /// Frames without a request or body, in thousandths.
    control: Cell<u64>,
    /// Streams taken back, in thousandths.
    resets: Cell<u64>,
    exceeded: Cell<bool>,
}

const ONE: u64 = 1_000;
/// At once, and per second. A client answers each DATA frame with up to two WINDOW_UPDATEs, which is
/// why what is sent to it earns some.
const CONTROL: (u64, u64) = (1_000, 100);
/// A page that is left takes all its requests back at once; nobody goes on doing so.
const RESETS: (u64, u64) = (200, 10);

impl Allowance {
    pub(super) fn new(ticker: Rc<Ticker>) -> Rc<Self> {
        Rc::new(Self {
            refilled: Cell::new(ticker.now()),
            ticker,
            control: Cell::new(CONTROL.0 * ONE),
            resets: Cell::new(RESETS.0 * ONE),
            exceeded: Cell::new(false),
        })
    }

    /// The thread's time.
    pub(super) fn now(&self) -> Millis {
        self.ticker.now()
    }

    pub(super) fn exceeded(&self) -> bool {
        self.exceeded.get()
    }

    /// A DATA frame was sent.
    pub(super) fn sent_data(&self) {
        earn(&self.control, 2 * ONE, CONTROL.0);
    }

    /// A request was answered whole.
    pub(super) fn answered(&self) {
        earn(&self.resets, ONE, RESETS.0);
    }

    /// A frame has come in.
    pub(super) fn heard(&self, kind: u8, flags: u8, length: usize) {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        const SETTINGS: u8 = 4;
        const PING: u8 = 6;
        const END_STREAM_OR_ACK: u8 = 1;
        let flagged = flags & END_STREAM_OR_ACK != 0;
        match kind {
            DATA if length > 0 => earn(&self.control, ONE, CONTROL.0),
            DATA | SETTINGS | PING if flagged => {}
            HEADERS => earn(&self.control, ONE, CONTROL.0),
            RST_STREAM => self.spend(&self.resets),
            _ => self.spend(&self.control),
        }
    }

    fn spend(&self, from: &Cell<u64>) {
        if from.get() < ONE {
            self.refill();
        }
        match from.get().checked_sub(ONE) {
            Some(rest) => from.set(rest),
            None => self.exceeded.set(true),
        }
    }

    fn refill(&self) {
        let now = self.ticker.now();
        let past = now.saturating_sub(self.refilled.replace(now));
        // So many per second are as many thousandths per millisecond.
        earn(&self.control, past.saturating_mul(CONTROL.1), CONTROL.0);
        earn(&self.resets, past.saturating_mul(RESETS.1), RESETS.0);
    }
}

fn earn(balance: &Cell<u64>, amount: u64, most: u64) {
    balance.set(balance.get().saturating_add(amount).min(most * ONE));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_end_and_honest_use_does_not() {
        let ticker = Rc::new(Ticker::default());
        let fresh = || Allowance::new(ticker.clone());
        for (kind, flags, length) in [
            (0, 0, 0),
            (2, 0, 5),
            (3, 0, 4),
            (4, 0, 0),
            (6, 0, 8),
            (8, 0, 4),
            (9, 0, 0),
            (77, 0, 100),
        ] {
            let allowance = fresh();
            (0..1_001).for_each(|_| allowance.heard(kind, flags, length));
            assert!(allowance.exceeded(), "frame type {kind}");
        }
        let allowance = fresh();
        for _ in 0..10_000 {
            allowance.heard(1, 5, 30);
            allowance.heard(0, 0, 100);
            allowance.heard(0, 1, 0);
            allowance.heard(4, 1, 0);
            allowance.heard(6, 1, 8);
            allowance.sent_data();
            allowance.heard(8, 0, 4);
            allowance.heard(8, 0, 4);
            allowance.heard(3, 0, 4);
            allowance.answered();
        }
        assert!(!allowance.exceeded());
    }

    #[test]
    fn time_gives_some_back() {
        let ticker = Rc::new(Ticker::default());
        let allowance = Allowance::new(ticker.clone());
        for second in 0..100 {
            ticker.tick(second * 1_000);
            (0..100).for_each(|_| allowance.heard(6, 0, 8));
            (0..10).for_each(|_| allowance.heard(3, 0, 4));
        }
        assert!(!allowance.exceeded());
        (0..1_001).for_each(|_| allowance.heard(6, 0, 8));
        assert!(allowance.exceeded());
    }
}
