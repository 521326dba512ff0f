use std::time::Duration;

use super::*;
use crate::policy::Conditions;

fn failed(health: &mut Health, now: Millis, policy: &Ejection) -> Change {
    health.failed(now, Cause::Timeout, false, policy)
}

#[test]
fn a_part_of_the_requests_failing_ejects_too() {
    let policy = Ejection {
        consecutive: 0,
        ..Ejection::default()
    };
    let mut health = Health::default();
    // Too few to say anything.
    for now in 0..19 {
        assert_eq!(failed(&mut health, now, &policy), Change::Nothing);
    }
    // Long ago: of no importance any more.
    for now in 20_000..20_011 {
        health.succeeded(now, false, &policy);
    }
    for now in 20_011..20_021 {
        assert_eq!(failed(&mut health, now, &policy), Change::Nothing);
    }
    // Eleven of twenty-two.
    assert_eq!(
        failed(&mut health, 20_021, &policy),
        Change::Ejected(10_000)
    );
    assert!(!health.is_due(30_020) && health.is_due(30_021));
}

#[test]
fn what_does_not_count_is_a_success() {
    let policy = Ejection::default();
    let mut health = Health::default();
    for now in 0..1_000 {
        for cause in [Cause::Status(500), Cause::Status(404), Cause::Connect] {
            assert_eq!(
                health.failed(now, cause, false, &policy),
                Change::Nothing,
                "{cause:?}"
            );
        }
    }
    let counting = Ejection {
        on: Conditions::all_failures(),
        ..policy
    };
    let changes: Vec<_> = (0..5)
        .map(|now| health.failed(now, Cause::Status(500), false, &counting))
        .collect();
    assert_eq!(changes[4], Change::Ejected(10_000));
    assert_eq!(changes[..4], [Change::Nothing; 4]);
}

#[test]
fn ejections_grow_to_the_longest_and_shrink_while_it_does_well() {
    let policy = Ejection {
        consecutive: 1,
        longest: Duration::from_secs(25),
        ..Ejection::default()
    };
    let mut health = Health::default();
    let mut now = 1_000;
    let mut lasted = Vec::new();
    for _ in 0..4 {
        let Change::Ejected(lasts) = failed(&mut health, now, &policy) else {
            panic!("not ejected");
        };
        lasted.push(lasts);
        now += lasts;
        health.begin_probe();
        assert!(!health.is_due(now));
        let back = health.succeeded(now, true, &policy);
        assert_eq!(back, Change::Returned { ejected: true });
    }
    assert_eq!(lasted, [10_000, 20_000, 25_000, 25_000]);
    // Four ejections, three times `time` without: two are left to grow from.
    assert_eq!(
        failed(&mut health, now + 30_000, &policy),
        Change::Ejected(20_000)
    );
    let mut again = Health::default();
    failed(&mut again, 1_000, &policy);
    again.succeeded(11_000, true, &policy);
    assert_eq!(
        failed(&mut again, 11_000_000, &policy),
        Change::Ejected(10_000)
    );
}

#[test]
fn those_on_their_way_change_nothing_any_more() {
    let policy = Ejection::default();
    let mut health = Health::default();
    let changes = (0..100).map(|now| failed(&mut health, now, &policy));
    let told = changes.filter(|change| *change != Change::Nothing).count();
    assert_eq!(told, 1);
    assert_eq!(health.succeeded(100, false, &policy), Change::Nothing);
    assert!(health.is_ejected());
    // A connection taken says nothing about answers; a refusal does not shorten the time much less.
    assert_eq!(health.connected(100), Change::Nothing);
    assert!(health.is_ejected());
}

#[test]
fn refusals_wait_longer_each_time_and_a_connection_ends_it() {
    let mut health = Health::default();
    let mut now = 0;
    for expected in [200, 400, 800, 1_600, 3_000, 3_000] {
        assert_eq!(health.refused(now, true, u64::MAX), Change::SetAside);
        let waits = (now..).find(|at| health.is_due(*at)).unwrap() - now;
        assert!(
            (expected / 4..=expected).contains(&waits),
            "{expected}: {waits}"
        );
        assert_eq!(
            health.refused(now, false, 0),
            Change::Nothing,
            "one of many"
        );
        now += waits;
    }
    assert_eq!(health.connected(now), Change::Returned { ejected: false });
    assert!(health.is_in());
    health.refused(now, false, 0);
    assert!(health.is_due(now + ASIDE.0 / 4));
}
