use proptest::prelude::*;

use super::*;

const GOOD: Outcome = Outcome {
    failed: false,
    slow: false,
};
const BAD: Outcome = Outcome {
    failed: true,
    slow: false,
};
const SLOW: Outcome = Outcome {
    failed: false,
    slow: true,
};

fn breaker(change: impl FnOnce(&mut policy::Breaker)) -> Breaker {
    let mut policy = policy::Breaker {
        minimum_requests: 4,
        probes: 2,
        ..policy::Breaker::default()
    };
    change(&mut policy);
    Breaker::new(&policy)
}

/// Requests one after the other; whether each passed.
fn ask(breaker: &mut Breaker, now: Millis, outcomes: &[Outcome]) -> Vec<bool> {
    let each = outcomes.iter().map(|outcome| match breaker.admit(now) {
        Ok(permit) => {
            breaker.report(now, permit, *outcome);
            true
        }
        Err(_) => false,
    });
    each.collect()
}

#[test]
fn it_opens_half_opens_and_closes() {
    let mut breaker = breaker(|_| {});
    assert_eq!(
        ask(&mut breaker, 1_000, &[BAD, BAD, BAD]),
        [true; 3],
        "too few to tell"
    );
    assert_eq!(ask(&mut breaker, 1_000, &[GOOD, GOOD]), [true, false]);
    assert_eq!(breaker.state(), State::Open { until: 6_000 });
    assert_eq!(breaker.admit(5_990), Err(10));
    // Half open: two may ask, the others wait for their answers.
    let first = breaker.admit(6_000).unwrap();
    let second = breaker.admit(6_000).unwrap();
    assert!(breaker.admit(6_000).is_err());
    assert!(!breaker.report(6_000, first, GOOD));
    assert!(breaker.admit(6_000).is_err());
    assert!(breaker.report(6_000, second, GOOD));
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(
        ask(&mut breaker, 6_000, &[BAD, BAD, BAD]),
        [true; 3],
        "it counts anew"
    );
}

#[test]
fn one_bad_answer_opens_it_again_and_one_forgotten_asks_again() {
    let mut breaker = breaker(|_| {});
    ask(&mut breaker, 0, &[BAD; 4]);
    let (one, two) = (breaker.admit(5_000).unwrap(), breaker.admit(5_000).unwrap());
    breaker.forget(one);
    let three = breaker.admit(5_000).unwrap();
    assert!(breaker.admit(5_000).is_err());
    assert!(breaker.report(5_000, two, BAD));
    assert_eq!(breaker.state(), State::Open { until: 10_000 });
    // From before it opened: it says nothing any more.
    assert!(!breaker.report(5_000, three, GOOD));
    breaker.forget(three);
    assert_eq!(breaker.state(), State::Open { until: 10_000 });
}

#[test]
fn slow_requests_open_it_too() {
    let mut breaker = breaker(|policy| policy.slow_percent = 60);
    ask(&mut breaker, 0, &[SLOW, GOOD, SLOW, GOOD]);
    assert_eq!(breaker.state(), State::Closed);
    ask(&mut breaker, 0, &[SLOW]);
    assert!(matches!(breaker.state(), State::Open { .. }));
    ask(&mut breaker, 5_000, &[SLOW]);
    assert_eq!(breaker.state(), State::Open { until: 10_000 });
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let mut in_time = breaker(|_| {});
    ask(&mut in_time, 0, &[BAD, BAD, BAD]);
    ask(&mut in_time, 10_000, &[BAD, BAD, BAD]);
    assert_eq!(in_time.state(), State::Closed);
    ask(&mut in_time, 19_000, &[BAD]);
    assert!(matches!(in_time.state(), State::Open { .. }));

    let mut of_last = breaker(|policy| policy.window_requests = Some(4));
    ask(
        &mut of_last,
        0,
        &[BAD, GOOD, GOOD, GOOD, GOOD, BAD, GOOD, GOOD],
    );
    assert_eq!(of_last.state(), State::Closed);
    ask(&mut of_last, 9_999_999, &[BAD]);
    assert!(
        matches!(of_last.state(), State::Open { .. }),
        "two of the last four"
    );
}

proptest! {
    /// Whatever comes in whatever order: never more probes than allowed are on their way while it is
    /// half open, and nothing passes while it is open.
    #[test]
    fn probes_are_bounded(steps in prop::collection::vec((0u8..5, 0u64..2_000), 1..300)) {
        let mut breaker = breaker(|_| {});
        let (mut now, mut held) = (0, Vec::new());
        for (what, passes) in steps {
            now += passes;
            let before = breaker.state();
            if what < 2 {
                let admitted = breaker.admit(now);
                if let State::Open { until } = before {
                    prop_assert_eq!(admitted.is_ok(), now >= until);
                }
                held.extend(admitted);
            } else if let Some(permit) = held.pop() {
                match what {
                    2 => breaker.forget(permit),
                    3 => drop(breaker.report(now, permit, GOOD)),
                    _ => drop(breaker.report(now, permit, BAD)),
                }
            }
            if let State::HalfOpen { asked, answered } = breaker.state() {
                let waiting = held.iter().filter(|one| one.0 == breaker.generation).count();
                prop_assert!(asked <= 2 && answered <= asked);
                prop_assert_eq!(waiting as u32, asked - answered);
            }
        }
    }

    /// The time window agrees with the naive reading to a tenth of the window.
    #[test]
    fn counts_what_is_in_the_window(
        steps in prop::collection::vec((0u64..900, any::<bool>()), 1..200),
    ) {
        let policy = policy::Breaker { minimum_requests: 1, ..policy::Breaker::default() };
        let mut window = Window::new(&policy);
        let (mut now, mut all) = (0, Vec::new());
        for (passes, failed) in steps {
            now += passes;
            let outcome = Outcome { failed, slow: false };
            window.count(now, outcome);
            all.push((now / 1_000, failed));
            let recent = all.iter().filter(|(part, _)| part + PARTS > now / 1_000);
            let (requests, failures) = recent.fold((0, 0), |(requests, failures), (_, failed)| {
                (requests + 1, failures + u64::from(*failed))
            });
            prop_assert_eq!(window.is_bad(&policy), failures * 2 >= requests);
        }
    }
}
