//! The log as its users see it: threads, queue and all, on a real disk and on a simulated one.

use std::collections::BTreeMap;

use sinew_core::Kind;

use super::*;
use crate::storage::{Fault, RealStorage};

fn real(folder: &Path, options: &Options) -> Log {
    Log::open(Arc::new(RealStorage), folder, options).unwrap()
}

fn payloads(log: &Log, from: Sequence) -> Vec<Bytes> {
    let mut reader = log.reader(from).unwrap();
    let mut found = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let Entry::Record(record) = entry else {
            panic!("{entry:?}")
        };
        assert_eq!(record.sequence, from + found.len() as u64);
        found.push(record.payload);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_get_distinct_numbers_and_find_their_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut expected = BTreeMap::new();
    {
        let log = Arc::new(real(&path, &small()));
        let callers: Vec<_> = (0..32_u32)
            .map(|caller| {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    let mut mine = Vec::new();
                    for turn in 0..20_u32 {
                        let payload = Bytes::from(format!("{caller}/{turn}/{}", "x".repeat(40)));
                        let appended = log.append(payload.clone()).await.unwrap();
                        assert_eq!(log.read(appended.position).unwrap().payload, payload);
                        mine.push((appended.sequence, payload));
                    }
                    assert!(mine.is_sorted_by_key(|(sequence, _)| *sequence));
                    mine
                })
            })
            .collect();
        for caller in callers {
            expected.extend(caller.await.unwrap());
        }
        assert_eq!((log.oldest(), log.next()), (1, 641));
        assert_eq!(
            payloads(&log, 1),
            expected.values().cloned().collect::<Vec<_>>()
        );
    }
    assert_eq!(expected.len(), 640);
    let log = real(&path, &small());
    assert_eq!(
        log.recovery(),
        Recovery {
            oldest: 1,
            next: 641,
            cut_bytes: 0
        }
    );
    let expected: Vec<_> = expected.into_values().collect();
    for from in [1, 2, 300, 639, 640, 641] {
        assert_eq!(
            payloads(&log, from),
            expected[usize::try_from(from).unwrap() - 1..]
        );
    }
    assert_eq!(log.verify().unwrap(), 640);
}

#[tokio::test]
async fn a_reader_follows_what_becomes_durable() {
    let folder = tempfile::tempdir().unwrap();
    let log = real(&folder.path().join("log"), &small());
    let mut reader = log.reader(1).unwrap();
    let mut durable = log.durable();
    assert_eq!(reader.next().unwrap(), None);
    for turn in 1..=100_u64 {
        let payload = vec![7; usize::try_from(turn * 20).unwrap()];
        let appended = log.append(payload.clone()).await.unwrap();
        assert_eq!(
            *durable.wait_for(|next| *next > turn).await.unwrap(),
            turn + 1
        );
        let Some(Entry::Record(record)) = reader.next().unwrap() else {
            panic!("nothing")
        };
        assert_eq!(
            (record.sequence, record.position),
            (turn, appended.position)
        );
        assert!(record.payload == payload);
        assert_eq!(reader.next().unwrap(), None);
    }
}

#[tokio::test]
async fn released_segments_are_gone_and_the_newest_record_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let first = {
        let log = real(&path, &small());
        let mut early = log.reader(1).unwrap();
        let mut positions = Vec::new();
        for turn in 0..100_u8 {
            positions.push(log.append(vec![turn; 500]).await.unwrap().position);
            if turn == 0 {
                assert!(early.next().unwrap().is_some());
            }
        }
        let before = log.bytes();
        assert!(log.release(50).unwrap() > 0);
        assert!(log.oldest() > 1 && log.oldest() <= 50, "{}", log.oldest());
        assert!(log.bytes() < before);
        assert_eq!(log.reader(1).unwrap_err().code(), "log.released");
        assert_eq!(log.read(positions[0]).unwrap_err().code(), "log.released");
        assert_eq!(log.read(positions[60]).unwrap().payload[..], [60; 500]);
        // A reader that was in there finds out, and not by reading nonsense.
        let error = loop {
            match early.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it skipped what is gone"),
                Err(error) => break error,
            }
        };
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::OutOfRange, "log.released")
        );
        log.release(u64::MAX).unwrap();
        assert_eq!(log.next(), 101);
        log.oldest()
    };
    let log = real(&path, &small());
    assert_eq!((log.oldest(), log.next()), (first, 101));
    assert!(first <= 100);
    assert_eq!(log.append(Bytes::new()).await.unwrap().sequence, 101);
    assert_eq!(
        std::fs::read_dir(&path).unwrap().count(),
        3,
        "a segment, the next, the checkpoint"
    );
}

#[tokio::test]
async fn unknown_places_and_oversized_records_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = real(&folder.path().join("log"), &small());
    let appended = log.append(vec![1; 3000]).await.unwrap();
    let error = log.append(vec![1; 3001]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::InvalidArgument, "log.record_too_large")
    );
    let Position { segment, offset } = appended.position;
    for beyond in [offset + 4096, u64::MAX] {
        let error = log
            .read(Position {
                segment,
                offset: beyond,
            })
            .unwrap_err();
        assert_eq!(error.code(), "log.unknown");
    }
    assert_eq!(
        log.read(Position { segment: 9, offset })
            .unwrap_err()
            .code(),
        "log.unknown"
    );
    let inside = Position {
        segment,
        offset: offset + 8,
    };
    assert_eq!(log.read(inside).unwrap_err().code(), "log.corrupt");
    let options = Options {
        segment_bytes: 4096,
        ..small()
    };
    let error = Log::open(Arc::new(RealStorage), folder.path(), &options).unwrap_err();
    assert_eq!(error.code(), "log.options");
}

#[tokio::test]
async fn a_checkpoint_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let checkpoint = |next| Checkpoint {
        next,
        note: Bytes::from(format!("index {next}")),
    };
    {
        let log = real(&path, &small());
        assert_eq!(log.checkpoint(), None);
        for next in 1..=3 {
            log.set_checkpoint(checkpoint(next)).unwrap();
        }
        let long = Checkpoint {
            next: 4,
            note: vec![0; Checkpoint::NOTE_BYTES + 1].into(),
        };
        assert_eq!(
            log.set_checkpoint(long).unwrap_err().code(),
            "log.record_too_large"
        );
    }
    assert_eq!(real(&path, &small()).checkpoint(), Some(checkpoint(3)));
}

#[tokio::test]
async fn a_log_may_be_opened_with_another_segment_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let large = Options {
        segment_bytes: 32768,
        record_bytes: 20_000,
        ..small()
    };
    let mut expected = Vec::new();
    for options in [small(), large.clone(), small(), large] {
        let log = real(&path, &options);
        for _ in 0..12 {
            let payload = Bytes::from(vec![u8::try_from(expected.len()).unwrap(); 2500]);
            log.append(payload.clone()).await.unwrap();
            expected.push(payload);
        }
        if options.record_bytes > 10_000 {
            let payload = Bytes::from(vec![255; 20_000]);
            log.append(payload.clone()).await.unwrap();
            expected.push(payload);
        }
        assert!(payloads(&log, 1) == expected);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_serves_and_recovers_by_itself() {
    let storage = disk(1);
    let log = Log::open(shared(&storage), Path::new(FOLDER), &small()).unwrap();
    log.append(&b"first"[..]).await.unwrap();
    storage.set_capacity(Some(storage.used() + 100));
    let error = loop {
        if let Err(error) = log.append(vec![1; 1000]).await {
            break error;
        }
    };
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::ResourceExhausted, "log.full")
    );
    let held = log.next();
    assert_eq!(payloads(&log, 1).len() as u64, held - 1);
    let reserved = log.append_from_reserve(vec![2; 500]).await.unwrap();
    assert_eq!(log.read(reserved.position).unwrap().payload[..], [2; 500]);
    storage.set_capacity(None);
    // The thread tries again on its own.
    while log.append(vec![3; 1000]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn releasing_makes_room_on_a_full_disk() {
    let storage = disk(1);
    let options = Options {
        full_retry: Duration::from_secs(3600),
        ..small()
    };
    let log = Log::open(shared(&storage), Path::new(FOLDER), &options).unwrap();
    storage.set_capacity(Some(storage.used() + 3 * 8192));
    while log.append(vec![1; 1000]).await.is_ok() {}
    log.release(log.next()).unwrap();
    // Room is looked for because of the release: the next regular attempt is an hour away.
    while log.append(vec![3; 1000]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_failed_sync_fails_everyone_and_reads_go_on() {
    let storage = disk(1);
    let log = Log::open(shared(&storage), Path::new(FOLDER), &small()).unwrap();
    log.append(&b"first"[..]).await.unwrap();
    // The next segment may be on its way, so the number of the sync is not known: all fail.
    for call in 1..200 {
        storage.fail_at(storage.operations() + call, Fault::InputOutput);
    }
    let error = loop {
        match log.append(&b"more"[..]).await {
            Ok(_) => panic!("acknowledged on a broken disk"),
            Err(error) if error.code() == "log.failed" => break error,
            Err(error) => assert_eq!(error.code(), "log.io"),
        }
    };
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(error.retry(), sinew_core::Retry::No);
    assert_eq!(payloads(&log, 1), [&b"first"[..]]);
}

#[tokio::test]
async fn a_full_queue_pushes_back() {
    let options = Options {
        queue_bytes: 1024,
        queue_timeout: Duration::from_millis(5),
        timeout: Duration::from_millis(10),
        ..small()
    };
    let queue = Queue::new(&options);
    // Nobody writes: the first waits for its answer, which fills the queue.
    let (first, second) = tokio::join!(
        queue.append(vec![0; 900].into(), false),
        queue.append(vec![0; 900].into(), false)
    );
    assert_eq!(second.unwrap_err().code(), "log.busy");
    let error = first.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::DeadlineExceeded, "log.timeout")
    );
    queue.close();
    assert_eq!(
        queue.append(Bytes::new(), false).await.unwrap_err().code(),
        "log.failed"
    );
}

/// Threads run as they like, power is lost at some call.
#[test]
fn power_is_lost_under_many_callers() {
    let rounds = from_environment("SINEW_THREADED_POWER_LOSSES", 150);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for seed in 0..rounds {
        let storage = disk(seed);
        let mut random = Seeded::new(seed);
        let log = Log::open(shared(&storage), Path::new(FOLDER), &small()).unwrap();
        storage.fail_at(
            storage.operations() + 1 + random.below(60),
            Fault::PowerLoss,
        );
        let acknowledged = runtime.block_on(async {
            let mut callers = tokio::task::JoinSet::new();
            let log = Arc::new(log);
            for caller in 0..8_u8 {
                let log = Arc::clone(&log);
                callers.spawn(async move {
                    let mut mine = Vec::new();
                    for turn in 0..40_u8 {
                        let payload = [caller, turn].repeat(100 + usize::from(turn));
                        match log.append(payload.clone()).await {
                            Ok(appended) => mine.push((appended.sequence, payload)),
                            Err(_) => break,
                        }
                    }
                    mine
                });
            }
            callers
                .join_all()
                .await
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
        });
        let opened = open(&storage.crash()).unwrap();
        let found = entries(&opened.segments).unwrap();
        for (sequence, payload) in acknowledged {
            let Entry::Record(record) = &found[usize::try_from(sequence).unwrap() - 1] else {
                panic!("seed {seed}: a gap");
            };
            assert!(record.payload == payload, "seed {seed}: record {sequence}");
        }
    }
}
