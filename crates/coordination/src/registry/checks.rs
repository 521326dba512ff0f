//! Which checks are due, and what their outcomes mean: thresholds and damping, without network,
//! clock or tasks. Some task looks into [`Checks::due`] and tells [`Checks::done`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sinew_core::InstanceId;

use super::{Check, Edit, Health, Probe, Service, ServiceId};

/// So many successes in a row, and it has never flapped.
const STEADY: u32 = 20;
/// Each failure of one that has flapped doubles the successes that it needs, so many times at most.
const MOST_DOUBLINGS: u32 = 3;

/// One check of one instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckKey {
    /// The service.
    pub service: ServiceId,
    /// The instance.
    pub instance: InstanceId,
    /// The check's id.
    pub check: Arc<str>,
}

/// A check that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose outcome to tell.
    pub key: CheckKey,
    /// What to do.
    pub probe: Probe,
    /// How long it may take.
    pub timeout: Duration,
    /// The instance's address.
    pub address: Arc<str>,
    /// The instance's main port.
    pub port: u16,
}

/// All checks that a node is to do.
#[derive(Debug, Default)]
pub struct Checks(BTreeMap<CheckKey, Tracked>);

#[derive(Debug)]
struct Tracked {
    check: Check,
    address: Arc<str>,
    port: u16,
    next: Duration,
    running: bool,
    /// Outcomes of one kind in a row.
    failures: u32,
    successes: u32,
    /// How often it failed after it had passed, until it is steady.
    flaps: u32,
}

impl Checks {
    /// Takes in the checks that there are. A new one is due at a moment within its interval that
    /// `spread` (0 to 1) tells, so that those that came together are not done together.
    pub fn take(
        &mut self,
        services: &[Arc<Service>],
        now: Duration,
        mut spread: impl FnMut() -> f64,
    ) {
        let mut before = std::mem::take(&mut self.0);
        for service in services {
            for instance in &service.instances {
                for check in instance.checks() {
                    if check.probe == Probe::Reported {
                        continue;
                    }
                    let key = CheckKey {
                        service: service.id.clone(),
                        instance: instance.id.clone(),
                        check: check.id.clone(),
                    };
                    let known = before.remove(&key).filter(|known| {
                        known.check.probe == check.probe && known.check.interval == check.interval
                    });
                    let mut tracked = known.unwrap_or_else(|| Tracked {
                        check: check.clone(),
                        address: instance.address.clone(),
                        port: instance.port,
                        next: now + check.interval.mul_f64(spread().clamp(0.0, 1.0)),
                        running: false,
                        failures: 0,
                        successes: 0,
                        flaps: 0,
                    });
                    tracked.check = check.clone();
                    tracked.address = instance.address.clone();
                    tracked.port = instance.port;
                    self.0.insert(key, tracked);
                }
            }
        }
    }

    /// Forgets all: another node does them.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `most` checks that are due, which are then taken to be under way.
    pub fn due(&mut self, now: Duration, most: usize) -> Vec<Due> {
        let due = self.0.iter_mut();
        due.filter(|(_, tracked)| !tracked.running && tracked.next <= now)
            .take(most)
            .map(|(key, tracked)| {
                tracked.running = true;
                Due {
                    key: key.clone(),
                    probe: tracked.check.probe.clone(),
                    timeout: tracked.check.timeout,
                    address: tracked.address.clone(),
                    port: tracked.port,
                }
            })
            .collect()
    }

    /// Takes in what a check saw: `Ok` with whether it warns, or why it failed. Answers what is to be
    /// changed, if the instance's health changes by it. The next one is due after the interval, give
    /// or take a tenth, as `spread` (0 to 1) tells.
    pub fn done(
        &mut self,
        key: &CheckKey,
        outcome: Result<Health, String>,
        now: Duration,
        spread: f64,
    ) -> Option<Edit> {
        let tracked = self.0.get_mut(key)?;
        tracked.running = false;
        let jitter = 0.9 + 0.2 * spread.clamp(0.0, 1.0);
        tracked.next = now + tracked.check.interval.mul_f64(jitter);
        let (health, output) = tracked.judge(outcome);
        if health == tracked.check.health {
            return None;
        }
        // What is written is seen here only when the store shows it.
        tracked.check.health = health;
        Some(Edit::Report(key.check.clone(), health, output))
    }
}

impl Tracked {
    fn judge(&mut self, outcome: Result<Health, String>) -> (Health, String) {
        let is = self.check.health;
        match outcome {
            Err(why) => {
                self.successes = 0;
                self.failures += 1;
                if self.failures < u32::from(self.check.failures) || is == Health::Critical {
                    return (is, why);
                }
                if is != Health::Unknown {
                    self.flaps = (self.flaps + 1).min(MOST_DOUBLINGS + 1);
                }
                (Health::Critical, why)
            }
            Ok(health) => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                if self.successes >= STEADY {
                    self.flaps = 0;
                }
                // The first failure is none of flapping.
                let doublings = self.flaps.saturating_sub(1);
                let needed = u32::from(self.check.passes) << doublings;
                if is == Health::Critical && self.successes < needed {
                    return (is, String::new());
                }
                (health, String::new())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sinew_core::Name;

    use super::*;
    use crate::registry::{Config, Registration};

    const INTERVAL: Duration = Duration::from_secs(10);

    fn services(checks: &[Check]) -> Vec<Arc<Service>> {
        let id = ServiceId::from(Name::new("orders").unwrap());
        let instance = InstanceId::new("orders-1").unwrap();
        let mut registration = Registration::new(id.clone(), instance, "10.0.0.1", 80);
        registration.checks = checks.to_vec();
        let instance = registration.check(&Config::default()).unwrap();
        let instances = vec![Arc::new(instance)];
        vec![Arc::new(Service {
            instances,
            ..Service::empty(id, 1)
        })]
    }

    fn tcp() -> Check {
        Check::new("tcp", Probe::Tcp { target: "".into() })
    }

    fn run(checks: &mut Checks, now: &mut Duration, passes: bool) -> Option<Health> {
        *now += INTERVAL;
        let due = checks.due(*now, 10);
        assert_eq!(due.len(), 1);
        assert_eq!(checks.due(*now, 10), [], "it is under way");
        let outcome = match passes {
            true => Ok(Health::Passing),
            false => Err("refused".to_owned()),
        };
        match checks.done(&due[0].key, outcome, *now, 0.5)? {
            Edit::Report(_, health, _) => Some(health),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn checks_come_due_apart_and_at_their_interval() {
        let mut checks = Checks::default();
        let other = Check::new("other", Probe::Reported);
        let now = Duration::from_secs(100);
        checks.take(&services(&[tcp(), other]), now, || 0.3);
        assert_eq!(checks.len(), 1, "nobody looks at what is reported");
        assert_eq!(checks.due(now + Duration::from_secs(2), 10), []);
        let due = checks.due(now + Duration::from_secs(3), 10);
        assert_eq!((&*due[0].address, due[0].port), ("10.0.0.1", 80));
        let done = now + Duration::from_secs(4);
        checks.done(&due[0].key, Ok(Health::Passing), done, 0.0);
        assert_eq!(checks.due(done + Duration::from_secs(8), 10), []);
        assert_eq!(checks.due(done + Duration::from_secs(9), 10).len(), 1);
        checks.take(&[], done, || 0.0);
        assert!(checks.is_empty());
        assert_eq!(
            checks.done(&due[0].key, Ok(Health::Passing), done, 0.0),
            None
        );
    }

    #[test]
    fn thresholds_and_damping() {
        let (mut checks, mut now) = (Checks::default(), Duration::ZERO);
        checks.take(&services(&[tcp()]), now, || 0.0);
        let mut runs = |checks: &mut Checks, passes: &str| -> String {
            let seen = passes.chars().map(|c| run(checks, &mut now, c == '+'));
            let shown = seen.map(|health| match health {
                None => '.',
                Some(Health::Passing) => 'P',
                Some(Health::Critical) => 'C',
                Some(other) => panic!("{other:?}"),
            });
            shown.collect()
        };
        // The first success tells; three failures in a row, then two successes.
        assert_eq!(runs(&mut checks, "+--+---+++"), "P.....C.P.");
        // It flaps: it takes four successes, then eight, sixteen, and no more.
        assert_eq!(runs(&mut checks, "---+++++"), "..C...P.");
        assert_eq!(runs(&mut checks, "---++++++++"), "..C.......P");
        let (flap, calm) = ("---++++++++++++++++", "..C...............P");
        assert_eq!(runs(&mut checks, flap), calm);
        assert_eq!(runs(&mut checks, flap), calm);
        // Twenty successes in a row forgive.
        assert_eq!(runs(&mut checks, "++++---++"), "......C.P");
    }

    proptest! {
        /// Whatever is seen: it becomes critical only after as many failures in a row as it says, and
        /// passes again only after as many successes at least; each report is a change.
        #[test]
        fn no_report_without_reason(seen in proptest::collection::vec(any::<bool>(), 1..200)) {
            let (mut checks, mut now) = (Checks::default(), Duration::ZERO);
            checks.take(&services(&[tcp()]), now, || 0.0);
            let mut is = Health::Unknown;
            for (at, &passes) in seen.iter().enumerate() {
                let row = |what: bool| seen[..=at].iter().rev().take_while(|s| **s == what).count();
                if let Some(health) = run(&mut checks, &mut now, passes) {
                    prop_assert_ne!(health, is);
                    match health {
                        Health::Critical => prop_assert!(row(false) >= 3),
                        _ => prop_assert!(is == Health::Unknown || row(true) >= 2),
                    }
                    is = health;
                } else {
                    prop_assert!(is != Health::Passing || row(false) < 3);
                }
            }
        }
    }
}
