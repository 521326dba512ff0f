use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules {
        ack_timeout: SECOND * 10,
        backoff: SECOND,
        backoff_most: SECOND * 8,
        dead_after: Some(3),
        window: 8,
    }
}

fn at(offset: u64) -> Position {
    Position {
        partition: 0,
        offset,
    }
}

/// A group of one partition with messages of these keys.
fn group(rules: Rules, keys: &[Option<&'static str>]) -> Group {
    let mut group = Group::new(rules, Snapshot::starting([0]), 0);
    let messages = (0..)
        .zip(keys)
        .map(|(offset, key)| (offset, key.map(Bytes::from)))
        .collect();
    let until = keys.len() as u64;
    let load = Input::Load {
        partition: 0,
        messages,
        until,
    };
    assert_eq!(group.step(load, Duration::ZERO), []);
    group
}

fn take(group: &mut Group, most: usize, now: Duration) -> Vec<(u64, u32, u64)> {
    let effects = group.step(Input::Take { consumer: 1, most }, now);
    effects
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Deliver {
                position,
                attempt,
                token,
            } => Some((position.offset, attempt, token)),
            _ => None,
        })
        .collect()
}

fn offsets(taken: &[(u64, u32, u64)]) -> Vec<u64> {
    taken.iter().map(|(offset, _, _)| *offset).collect()
}

#[test]
fn a_key_goes_on_only_when_its_ack_is_durable() {
    let mut group = group(rules(), &[Some("a"), Some("a"), Some("b"), None]);
    let taken = take(&mut group, 10, Duration::ZERO);
    assert_eq!(offsets(&taken), [0, 2, 3]);
    let token = taken[0].2;
    let effects = group.step(
        Input::Ack {
            position: at(0),
            token,
        },
        Duration::ZERO,
    );
    assert_eq!(
        effects,
        [Effect::Settle {
            position: at(0),
            token
        }]
    );
    assert_eq!(take(&mut group, 10, Duration::ZERO), []);
    group.step(
        Input::Settled {
            position: at(0),
            token,
        },
        Duration::ZERO,
    );
    assert_eq!(offsets(&take(&mut group, 10, Duration::ZERO)), [1]);
    assert_eq!(group.cursor(0), 1);
}

#[test]
fn a_refused_ack_brings_the_message_back() {
    let mut group = group(rules(), &[Some("a"), Some("a")]);
    let token = take(&mut group, 1, Duration::ZERO)[0].2;
    group.step(
        Input::Ack {
            position: at(0),
            token,
        },
        Duration::ZERO,
    );
    group.step(
        Input::Refused {
            position: at(0),
            token,
        },
        Duration::ZERO,
    );
    let again = take(&mut group, 10, SECOND);
    assert_eq!((again[0].0, again[0].1), (0, 1));
    // What comes late says nothing about the new delivery.
    group.step(
        Input::Settled {
            position: at(0),
            token,
        },
        SECOND,
    );
    assert!(!group.is_settled(at(0)));
}

#[test]
fn the_backoff_doubles_up_to_its_cap_and_ends_as_a_dead_letter() {
    let mut group = group(
        Rules {
            dead_after: Some(6),
            ..rules()
        },
        &[None],
    );
    let mut now = Duration::ZERO;
    for seconds in [1, 2, 4, 8, 8] {
        let token = take(&mut group, 1, now)[0].2;
        let redeliver = Redeliver::Backoff;
        group.step(
            Input::Nack {
                position: at(0),
                token,
                redeliver,
            },
            now,
        );
        now += SECOND * seconds - Duration::from_millis(1);
        assert_eq!(take(&mut group, 1, now), []);
        now += Duration::from_millis(1);
    }
    let (_, attempt, token) = take(&mut group, 1, now)[0];
    assert_eq!(attempt, 6);
    let nack = Input::Nack {
        position: at(0),
        token,
        redeliver: Redeliver::Backoff,
    };
    let effects = group.step(nack, now);
    let [
        Effect::DeadLetter {
            attempts: 6, token, ..
        },
    ] = effects[..]
    else {
        panic!("{effects:?}");
    };
    // The append fails once: it is tried again, the message is not delivered again.
    group.step(
        Input::Refused {
            position: at(0),
            token,
        },
        now,
    );
    now += SECOND * 8;
    let effects = group.step(
        Input::Take {
            consumer: 1,
            most: 1,
        },
        now,
    );
    let [
        Effect::DeadLetter {
            attempts: 6, token, ..
        },
    ] = effects[..]
    else {
        panic!("{effects:?}");
    };
    group.step(
        Input::Settled {
            position: at(0),
            token,
        },
        now,
    );
    assert_eq!((group.cursor(0), group.messages.len()), (1, 0));
}

#[test]
fn deliveries_end_in_time_unless_they_are_extended() {
    let mut group = group(rules(), &[None, None]);
    let taken = take(&mut group, 2, Duration::ZERO);
    let extend = Input::Extend {
        position: at(1),
        token: taken[1].2,
        time: SECOND * 15,
    };
    assert_eq!(group.step(extend, SECOND), []);
    assert_eq!(group.next_timer(), Some(SECOND * 10));
    assert_eq!(offsets(&take(&mut group, 2, SECOND * 10)), [0]);
    let stale = Input::Ack {
        position: at(0),
        token: taken[0].2,
    };
    assert_eq!(
        group.step(stale, SECOND * 10),
        [Effect::Stale { position: at(0) }]
    );
    let late = Input::Ack {
        position: at(1),
        token: taken[1].2,
    };
    let effects = group.step(late, SECOND * 15);
    assert!(
        matches!(effects[..], [Effect::Settle { .. }]),
        "{effects:?}"
    );
}

#[test]
fn without_a_dead_letter_topic_never_means_dropped() {
    let mut group = group(
        Rules {
            dead_after: None,
            ..rules()
        },
        &[None],
    );
    let token = take(&mut group, 1, Duration::ZERO)[0].2;
    let nack = Input::Nack {
        position: at(0),
        token,
        redeliver: Redeliver::Never,
    };
    let effects = group.step(nack, Duration::ZERO);
    assert!(
        matches!(effects[..], [Effect::Settle { .. }]),
        "{effects:?}"
    );
}

#[test]
fn what_is_trimmed_is_lost_and_what_waits_behind_it_comes() {
    let mut group = group(rules(), &[Some("a"), None, Some("a"), Some("a")]);
    let taken = take(&mut group, 2, Duration::ZERO);
    let token = taken[1].2;
    group.step(
        Input::Ack {
            position: at(1),
            token,
        },
        Duration::ZERO,
    );
    group.step(
        Input::Settled {
            position: at(1),
            token,
        },
        Duration::ZERO,
    );
    group.step(Input::Trim { first: at(3) }, Duration::ZERO);
    assert_eq!(
        (group.lost(), group.cursor(0), group.in_flight()),
        (2, 3, 0)
    );
    assert_eq!(offsets(&take(&mut group, 9, Duration::ZERO)), [3]);
    group.step(Input::Trim { first: at(10) }, Duration::ZERO);
    assert_eq!((group.lost(), group.wanted(0)), (9, 10));
}

/// What may happen to a group, in any order.
#[derive(Clone, Debug)]
enum Act {
    Publish {
        partition: u32,
        key: u8,
    },
    Load(u32, u64),
    Take(ConsumerId, usize),
    Ack(usize),
    Nack(usize, Redeliver),
    Extend(usize),
    Leave(ConsumerId),
    /// The n-th settlement under way becomes durable, or fails.
    Finish(usize, bool),
    Pass(u64),
    Crash,
    Seek(u32, u64),
    Trim(u32, u64),
}

fn act() -> impl Strategy<Value = Act> {
    let partition = || 0..2u32;
    prop_oneof![
        8 => (partition(), 0..4u8).prop_map(|(partition, key)| Act::Publish { partition, key }),
        6 => (partition(), 1..5u64).prop_map(|(partition, most)| Act::Load(partition, most)),
        8 => (0..3u64, 1..4usize).prop_map(|(consumer, most)| Act::Take(consumer, most)),
        8 => (0..6usize).prop_map(Act::Ack),
        4 => (0..6usize, prop_oneof![
            Just(Redeliver::Backoff),
            Just(Redeliver::Never),
            (0..20u64).prop_map(|seconds| Redeliver::After(SECOND * seconds as u32)),
        ]).prop_map(|(index, redeliver)| Act::Nack(index, redeliver)),
        1 => (0..6usize).prop_map(Act::Extend),
        1 => (0..3u64).prop_map(Act::Leave),
        8 => (0..4usize, prop::bool::weighted(0.8)).prop_map(|(n, well)| Act::Finish(n, well)),
        4 => (1..12u64).prop_map(Act::Pass),
        1 => Just(Act::Crash),
        1 => (partition(), 0..20u64).prop_map(|(partition, offset)| Act::Seek(partition, offset)),
        1 => (partition(), 0..6u64).prop_map(|(partition, count)| Act::Trim(partition, count)),
    ]
}

/// A shell in miniature that knows what must hold.
struct World {
    group: Group,
    now: Duration,
    /// Keys of each partition's messages; 0 means none.
    log: Vec<Vec<u8>>,
    first: Vec<u64>,
    settled: BTreeSet<Position>,
    /// Deliveries that were given out, current or not, oldest first.
    given: Vec<(Position, u64)>,
    current: HashMap<Position, (u64, Duration)>,
    settling: Vec<(Position, u64)>,
    attempts: HashMap<Position, u32>,
    not_before: HashMap<Position, Duration>,
    tokens: BTreeSet<u64>,
    repeats_an_ack: bool,
}

impl World {
    fn new() -> Self {
        Self {
            group: Group::new(rules(), Snapshot::starting([0, 0]), 0),
            now: Duration::ZERO,
            log: vec![Vec::new(); 2],
            first: vec![0; 2],
            settled: BTreeSet::new(),
            given: Vec::new(),
            current: HashMap::new(),
            settling: Vec::new(),
            attempts: HashMap::new(),
            not_before: HashMap::new(),
            tokens: BTreeSet::new(),
            repeats_an_ack: false,
        }
    }

    fn step(&mut self, input: Input) {
        for effect in self.group.step(input, self.now) {
            self.effect(effect);
        }
        self.check();
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver {
                position,
                attempt,
                token,
            } => {
                assert!(!self.settled.contains(&position), "{position:?} is settled");
                let over = self
                    .current
                    .get(&position)
                    .is_none_or(|(_, until)| *until <= self.now);
                assert!(over, "{position:?} is with two");
                assert!(self.first[index(position.partition)] <= position.offset);
                let counted = self.attempts.entry(position).or_default();
                *counted += 1;
                assert_eq!(attempt, *counted, "{position:?}");
                assert!(
                    attempt <= 3,
                    "{position:?} is delivered although it is dead"
                );
                assert!(
                    self.not_before
                        .get(&position)
                        .is_none_or(|at| *at <= self.now)
                );
                self.check_key(position);
                assert!(self.tokens.insert(token), "a token twice");
                self.current
                    .insert(position, (token, self.now + rules().ack_timeout));
                self.given.push((position, token));
            }
            Effect::Settle { position, token } => self.begin(position, token),
            Effect::DeadLetter {
                position,
                token,
                attempts,
                ..
            } => {
                assert_eq!(attempts, self.attempts[&position]);
                assert!(self.tokens.insert(token) || self.settling.contains(&(position, token)));
                self.begin(position, token);
            }
            Effect::Retry(position, retry) => {
                assert_eq!(retry.attempts, self.attempts[&position]);
                assert!(retry.attempts < 3);
                self.current.remove(&position);
                self.not_before.insert(position, self.now + retry.wait);
            }
            Effect::Stale { .. } => assert!(!self.repeats_an_ack, "acknowledging twice is well"),
        }
    }

    fn begin(&mut self, position: Position, token: u64) {
        self.current.remove(&position);
        assert!(
            !self.settled.contains(&position),
            "{position:?} is settled twice"
        );
        if !self.settling.contains(&(position, token)) {
            assert!(self.settling.iter().all(|(other, _)| *other != position));
            self.settling.push((position, token));
        }
    }

    /// Every older message of the key is settled or gone.
    fn check_key(&self, position: Position) {
        let log = &self.log[index(position.partition)];
        let key = log[position.offset as usize];
        let start = self.first[index(position.partition)];
        for offset in start..position.offset {
            let older = Position { offset, ..position };
            let same = key != 0 && log[offset as usize] == key;
            // Whoever seeks forward wants to skip.
            let skipped = self.group.cursor(position.partition) > offset;
            assert!(
                !same || self.settled.contains(&older) || skipped,
                "{older:?} before {position:?}"
            );
        }
    }

    fn check(&self) {
        assert!(self.group.messages.len() <= rules().window);
        for partition in 0..2 {
            let cursor = self.group.cursor(partition);
            let loaded = self.group.wanted(partition);
            assert!(cursor <= loaded);
            for offset in cursor..loaded {
                let position = Position { partition, offset };
                let tracked = self.group.messages.contains_key(&position);
                assert_ne!(tracked, self.group.is_settled(position), "{position:?}");
                assert_eq!(self.settled.contains(&position), !tracked, "{position:?}");
            }
            let stands_at = Position {
                partition,
                offset: cursor,
            };
            assert!(cursor == loaded || !self.group.is_settled(stands_at));
        }
    }

    fn given(&self, ago: usize) -> Option<(Position, u64)> {
        self.given.iter().rev().nth(ago).copied()
    }

    fn load(&mut self, partition: u32, most: u64) {
        let from = self.group.wanted(partition);
        let log = &self.log[index(partition)];
        let until = (from + most.min(self.group.room() as u64)).min(log.len() as u64);
        let key = |offset: u64| match log[offset as usize] {
            0 => None,
            key => Some(Bytes::from(vec![key])),
        };
        if from < until {
            let messages = (from..until).map(|offset| (offset, key(offset))).collect();
            self.step(Input::Load {
                partition,
                messages,
                until,
            });
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Publish { partition, key } => self.log[index(partition)].push(key),
            Act::Load(partition, most) => self.load(partition, most),
            Act::Take(consumer, most) => self.step(Input::Take { consumer, most }),
            Act::Ack(ago) => {
                if let Some((position, token)) = self.given(ago) {
                    self.repeats_an_ack = self.settled.contains(&position);
                    self.step(Input::Ack { position, token });
                    self.repeats_an_ack = false;
                }
            }
            Act::Nack(ago, redeliver) => {
                if let Some((position, token)) = self.given(ago) {
                    self.step(Input::Nack {
                        position,
                        token,
                        redeliver,
                    });
                }
            }
            Act::Extend(ago) => {
                if let Some((position, token)) = self.given(ago) {
                    let time = SECOND * 3;
                    self.step(Input::Extend {
                        position,
                        token,
                        time,
                    });
                    if let Some((current, until)) = self.current.get_mut(&position)
                        && *current == token
                    {
                        *until = self.now + time;
                    }
                }
            }
            Act::Leave(consumer) => self.step(Input::Leave { consumer }),
            Act::Finish(number, well) => {
                if number < self.settling.len() {
                    let (position, token) = self.settling.remove(number);
                    if well {
                        self.settled.insert(position);
                        self.step(Input::Settled { position, token });
                    } else {
                        // An ack that could not be written: the delivery did not fail.
                        if self.given.contains(&(position, token)) {
                            self.attempts
                                .entry(position)
                                .and_modify(|count| *count -= 1);
                        }
                        self.step(Input::Refused { position, token });
                    }
                }
            }
            Act::Pass(seconds) => {
                self.now += SECOND * seconds as u32;
                self.step(Input::Tick);
            }
            Act::Crash => {
                let snapshot = self.group.snapshot(self.now);
                let token = self.tokens.last().copied().unwrap_or_default();
                self.group = Group::new(rules(), snapshot.clone(), token);
                assert_eq!(self.group.snapshot(self.now), snapshot);
                self.current.clear();
                self.settling.clear();
                self.check();
            }
            Act::Seek(partition, offset) => {
                let end = self.log[index(partition)].len() as u64;
                let offset = offset.clamp(self.first[index(partition)], end);
                let elsewhere = |position: &Position| position.partition != partition;
                self.settled.retain(|p| elsewhere(p) || p.offset < offset);
                self.attempts.retain(|p, _| elsewhere(p));
                self.not_before.retain(|p, _| elsewhere(p));
                self.current.retain(|p, _| elsewhere(p));
                self.settling.retain(|(p, _)| elsewhere(p));
                self.step(Input::Seek {
                    position: Position { partition, offset },
                });
            }
            Act::Trim(partition, count) => {
                let end = self.log[index(partition)].len() as u64;
                let first = (self.first[index(partition)] + count).min(end);
                self.first[index(partition)] = first;
                let kept = |p: &Position| p.partition != partition || p.offset >= first;
                self.current.retain(|p, _| kept(p));
                self.settling.retain(|(p, _)| kept(p));
                self.step(Input::Trim {
                    first: Position {
                        partition,
                        offset: first,
                    },
                });
            }
        }
    }

    /// With consumers that work and a disk that writes, everything is settled in the end.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            (0..2).for_each(|partition| self.load(partition, 8));
            while !self.settling.is_empty() {
                self.act(Act::Finish(0, true));
            }
            let done = (0..2).all(|p| self.group.cursor(p) == self.log[index(p)].len() as u64);
            if done {
                assert!(self.group.messages.is_empty() && self.group.keys.is_empty());
                assert!(self.group.ready.is_empty() && self.group.timers.is_empty());
                assert_eq!(self.group.in_flight(), 0);
                return;
            }
            let before = self.given.len();
            self.act(Act::Take(9, 3));
            for ago in 0..self.given.len() - before {
                self.act(Act::Ack(ago));
            }
            self.act(Act::Pass(7));
        }
        panic!("{:?} {:?}", self.group.partitions, self.group.messages);
    }
}

#[test]
fn offsets_that_do_not_exist_are_not_owed() {
    let mut group = Group::new(rules(), Snapshot::starting([0]), 0);
    let messages = vec![(3, None), (7, None)];
    let load = Input::Load {
        partition: 0,
        messages,
        until: 10,
    };
    group.step(load, Duration::ZERO);
    assert_eq!((group.cursor(0), group.wanted(0)), (3, 10));
    assert_eq!(group.owed(0, 10), 2);
    let token = take(&mut group, 1, Duration::ZERO)[0].2;
    let position = at(3);
    group.step(Input::Ack { position, token }, Duration::ZERO);
    group.step(Input::Settled { position, token }, Duration::ZERO);
    assert_eq!((group.cursor(0), group.owed(0, 10)), (7, 1));
}

#[test]
fn partitions_come_and_go() {
    let mut group = group(rules(), &[Some("a"), Some("a"), None]);
    let taken = take(&mut group, 1, Duration::ZERO);
    assert!(!group.is_idle(0));
    group.pause(0);
    assert_eq!(take(&mut group, 9, Duration::ZERO), []);
    // What is with a consumer stays there until it is settled, given back or late.
    let (offset, _, token) = taken[0];
    let position = at(offset);
    group.step(Input::Ack { position, token }, Duration::ZERO);
    assert!(!group.is_idle(0));
    group.step(Input::Settled { position, token }, Duration::ZERO);
    assert!(group.is_idle(0));
    assert_eq!(take(&mut group, 9, Duration::ZERO), []);
    group.resume(0);
    assert_eq!(offsets(&take(&mut group, 1, Duration::ZERO)), [2]);

    let retry = Retry {
        attempts: 1,
        wait: SECOND,
    };
    let snapshot = PartitionSnapshot {
        cursor: 1,
        retries: [(1, retry)].into(),
        ..PartitionSnapshot::default()
    };
    group.adopt(0, snapshot);
    assert_eq!((group.wanted(0), group.room()), (1, rules().window));
    let load = Input::Load {
        partition: 0,
        messages: vec![(1, Some("a".into())), (2, None)],
        until: 3,
    };
    group.step(load, Duration::ZERO);
    assert_eq!(offsets(&take(&mut group, 9, Duration::ZERO)), [2]);
    assert_eq!(take(&mut group, 9, SECOND)[0].1, 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_contract_holds(acts in prop::collection::vec(act(), 1..200)) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.drain();
    }
}
