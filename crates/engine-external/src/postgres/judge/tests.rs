use sinew_core::Kind;

use super::*;

/// The store after what was staged is written. For `Unchanged`, every change ever made is kept in `log`.
fn written(mut view: View, staged: &Staged, log: &mut Vec<(Key, Revision)>) -> View {
    for change in &staged.changes {
        log.push((change.key.clone(), change.revision));
        if !change.is_last {
            continue;
        }
        match &change.value {
            Some(value) => {
                let known = Known {
                    revision: change.revision,
                    lease: change.lease,
                    bytes: value.len(),
                };
                view.keys.insert(change.key.clone(), known);
            }
            None => drop(view.keys.remove(&change.key)),
        }
    }
    view.leases.extend(staged.granted.iter().copied());
    view.renewals
        .extend(staged.granted.iter().map(|(lease, _)| (*lease, 0)));
    for lease in &staged.ended {
        view.leases.remove(lease);
        view.renewals.remove(lease);
    }
    view.revision = staged.revision;
    view.last_lease = staged.last_lease;
    view
}

/// Answers the questions about spans.
fn look(view: &mut View, requests: &[Request], log: &[(Key, Revision)]) {
    let spans = Questions::of(requests.iter()).spans;
    let touched = spans.iter().enumerate().filter(|(_, (span, since))| {
        log.iter()
            .any(|(key, revision)| revision > since && span.contains(key))
    });
    view.touched = touched.map(|(place, _)| place).collect();
}

fn key(n: u64) -> Key {
    Key::from(format!("k{}", n % 5))
}

fn lease(n: u64) -> LeaseId {
    LeaseId(n % 4 + 1)
}

/// A request made of a number.
fn request(n: u64, revision: Revision) -> Request {
    let since = (revision + 1).saturating_sub(n >> 8 & 7);
    let condition = match n >> 12 & 7 {
        0 => Some(Condition::KeyAt(key(n >> 16), since)),
        1 => Some(Condition::Absent(key(n >> 16))),
        2 => Some(Condition::Present(key(n >> 16))),
        3 => Some(Condition::Unchanged(Span::key(key(n >> 16)), since)),
        4 => Some(Condition::Unchanged(
            Span::between(key(n >> 16), key(n >> 20)),
            since,
        )),
        5 => Some(Condition::Unchanged(Span::all(), since)),
        _ => None,
    };
    match n & 15 {
        0 => Request::Grant(1_000_000),
        1 => Request::Revoke(lease(n >> 4)),
        2 => Request::Expire(lease(n >> 4), 0),
        3 => Request::Revive(lease(n >> 4)),
        kind => {
            let put = |n: u64| Write::Put {
                key: key(n),
                value: vec![b'v'; (n & 7) as usize].into(),
                lease: (n >> 3 & 3 == 0).then(|| lease(n >> 5)),
            };
            let mut writes = vec![put(n >> 24)];
            if kind > 8 && key(n >> 32) != key(n >> 24) {
                writes.push(Write::Delete { key: key(n >> 32) });
            }
            if kind == 15 {
                writes.clear();
            }
            Request::Commit {
                conditions: condition.into_iter().collect(),
                writes,
            }
        }
    }
}

/// A reply, or the kind and code of an error.
fn shown(reply: &Result<Reply>) -> String {
    match reply {
        Ok(reply) => format!("{reply:?}"),
        Err(error) => format!("{:?} {}", error.kind(), error.code()),
    }
}

#[test]
fn a_batch_does_what_its_commands_do_one_after_the_other() {
    let mut seed = 20_261_121u64;
    let mut random = || {
        // Marsaglia, "Xorshift RNGs", 2003.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut effects = 0;
    for _ in 0..3000 {
        let (mut together, mut alone) = (View::default(), View::default());
        let (mut log, mut alone_log) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let count = random() % 12;
            let requests: Vec<Request> = (0..count)
                .map(|_| match request(random(), together.revision) {
                    // Nobody has looked at a lease before it was granted.
                    Request::Expire(lease, _) if number(lease) > together.last_lease => {
                        Request::Revoke(lease)
                    }
                    request => request,
                })
                .collect();
            look(&mut together, &requests, &log);
            let (replies, staged) = judge(&together, requests.iter());
            let mut singly = Vec::new();
            let mut bytes = 0;
            for request in requests {
                let requests = [request];
                look(&mut alone, &requests, &alone_log);
                let (reply, staged) = judge(&alone, requests.iter());
                alone = written(alone, &staged, &mut alone_log);
                singly.extend(reply.iter().map(shown));
                bytes += staged.bytes;
            }
            assert_eq!(replies.iter().map(shown).collect::<Vec<_>>(), singly);
            assert_eq!(staged.bytes, bytes);
            for change in &staged.changes {
                let known = together.keys.contains_key(&change.key);
                match change.before {
                    Before::Stored => assert!(known),
                    Before::Staged(place) => assert_eq!(staged.changes[place].key, change.key),
                    Before::Nothing => {}
                }
            }
            effects += staged.changes.len();
            together = written(together, &staged, &mut log);
            assert_eq!(
                (&together.keys, together.revision),
                (&alone.keys, alone.revision)
            );
            assert_eq!((&together.leases, &log), (&alone.leases, &alone_log));
        }
    }
    assert!(effects > 10_000, "only {effects} changes were made");
}

#[test]
fn an_expiry_that_was_overtaken_ends_nothing() {
    let mut view = View::default();
    view.leases.insert(1, 1_000_000);
    view.renewals.insert(1, 7);
    for (seen, ended) in [(6, vec![]), (7, vec![1])] {
        let requests = [Request::Expire(LeaseId(1), seen)];
        let (replies, staged) = judge(&view, requests.iter());
        assert_eq!(shown(&replies[0]), "Ended");
        assert_eq!(staged.ended, ended);
    }
    // The table of renewals was emptied: nobody knows how long it stood still.
    view.renewals.clear();
    let (_, staged) = judge(&view, [Request::Expire(LeaseId(1), 7)].iter());
    assert!(staged.is_empty());
}

#[test]
fn a_lease_that_nobody_granted_is_unknown() {
    let requests = [
        Request::Revoke(LeaseId(u64::MAX)),
        Request::Revive(LeaseId(3)),
    ];
    let (replies, staged) = judge(&View::default(), requests.iter());
    for reply in replies {
        assert_eq!(reply.expect_err("it is unknown").kind(), Kind::NotFound);
    }
    assert!(staged.is_empty());
}
