//! Deadlines for many connections at the price of a comparison: a thread's ticker looks over all
//! timers some twenty times a second and wakes the tasks whose time has come. A timer is only ever
//! moved forward when its task waits longer than before, so a busy connection touches it about
//! once per deadline instead of once per request. Deadlines are late by up to one [`TICK`].

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// How often timers are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// A moment, in milliseconds of the thread's monotonic clock.
pub(crate) type Millis = u64;

/// The timers of one thread.
#[derive(Debug, Default)]
pub(crate) struct Ticker {
    now: Cell<Millis>,
    timers: RefCell<Vec<Option<Rc<Alarm>>>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Debug)]
struct Alarm {
    due: Cell<Millis>,
    waker: RefCell<Option<Waker>>,
}

/// One task's timer.
#[derive(Debug)]
pub(crate) struct Timer {
    ticker: Rc<Ticker>,
    alarm: Rc<Alarm>,
    index: usize,
}

/// A deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

impl Ticker {
    /// A timer for the task that calls.
    pub(crate) fn timer(self: &Rc<Self>) -> Timer {
        let alarm = Rc::new(Alarm {
            due: Cell::new(Millis::MAX),
            waker: RefCell::new(None),
        });
        let mut timers = self.timers.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            timers.push(None);
            timers.len() - 1
        });
        timers[index] = Some(alarm.clone());
        Timer {
            ticker: self.clone(),
            alarm,
            index,
        }
    }

    /// The time of the last tick.
    pub(crate) fn now(&self) -> Millis {
        self.now.get()
    }

    /// Sets the time and wakes all whose deadline has passed.
    pub(crate) fn tick(&self, now: Millis) {
        self.now.set(now);
        self.wake(|alarm| alarm.due.get() <= now);
    }

    /// Wakes all tasks, so that they see what changed around them.
    pub(crate) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, chosen: impl Fn(&Alarm) -> bool) {
        for alarm in self
            .timers
            .borrow()
            .iter()
            .flatten()
            .filter(|alarm| chosen(alarm))
        {
            alarm.due.set(Millis::MAX);
            if let Some(waker) = &*alarm.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Timer {
    pub(crate) fn now(&self) -> Millis {
        self.ticker.now()
    }

    /// To be called before a task returns Pending: it will be polled again at `due`.
    /// `Err` when that moment has passed.
    pub(crate) fn arm(&self, due: Millis, cx: &Context<'_>) -> Result<(), Elapsed> {
        if self.ticker.now() >= due {
            return Err(Elapsed);
        }
        if due < self.alarm.due.get() {
            self.alarm.due.set(due);
        }
        let mut waker = self.alarm.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Ok(())
    }

    /// The outcome of `work`, if it is there before `due`.
    pub(crate) async fn before<T>(
        &self,
        due: Millis,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
            Poll::Pending => match self.arm(due, cx) {
                Ok(()) => Poll::Pending,
                Err(elapsed) => Poll::Ready(Err(elapsed)),
            },
        })
        .await
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.ticker.timers.borrow_mut()[self.index] = None;
        self.ticker.free.borrow_mut().push(self.index);
    }
}

/// A duration as it is added to a [`Millis`]; at least one.
pub(crate) fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis())
        .unwrap_or(Millis::MAX / 2)
        .clamp(1, Millis::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_wake_at_their_deadline_and_slots_are_reused() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let ticker = Rc::new(Ticker::default());
            let task = tokio::task::spawn_local({
                let timer = ticker.timer();
                async move {
                    let early = timer.before(20, std::future::pending::<()>()).await;
                    let late = timer.before(100, std::future::pending::<()>()).await;
                    (early, late)
                }
            });
            for now in [10, 20, 50] {
                tokio::task::yield_now().await;
                ticker.tick(now);
                tokio::task::yield_now().await;
                assert!(!task.is_finished());
            }
            ticker.tick(100);
            assert_eq!(task.await.unwrap(), (Err(Elapsed), Err(Elapsed)));
            drop((ticker.timer(), ticker.timer()));
            assert_eq!(ticker.timers.borrow().len(), 2);
        });
    }
}
