use std::{path::Path, sync::mpsc as std_mpsc};

use sinew_core::{ManualClock, Timestamp};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::{
    log::{FailedSync, Options},
    storage::{Fault, SimulatedStorage, Storage},
};

/// A list of bytes that does not take what it has already.
struct List<const TAG: u8> {
    durable: Vec<u8>,
    staged: Vec<u8>,
    answers: Vec<oneshot::Sender<Result<Vec<u8>>>>,
    next: Sequence,
    shown: std_mpsc::Sender<Vec<u8>>,
}

struct Add(u8, oneshot::Sender<Result<Vec<u8>>>);

impl<const TAG: u8> List<TAG> {
    fn new(next: Sequence, shown: std_mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            durable: Vec::new(),
            staged: Vec::new(),
            answers: Vec::new(),
            next,
            shown,
        }
    }

    fn has(&self, byte: u8) -> bool {
        self.durable.contains(&byte) || self.staged.contains(&byte)
    }
}

impl<const TAG: u8> Face for List<TAG> {
    type Command = Add;

    const TAG: u8 = TAG;

    fn stage(&mut self, Add(byte, answer): Add, part: &mut Vec<u8>) {
        if !self.has(byte) {
            self.staged.push(byte);
            part.push(byte);
        }
        self.answers.push(answer);
    }

    fn durable(&mut self, _sequence: Sequence, part: Bytes) {
        assert_eq!(part, self.staged);
        self.durable.append(&mut self.staged);
        for answer in self.answers.drain(..) {
            let _ = answer.send(Ok(self.durable.clone()));
        }
    }

    fn refused(&mut self, error: &Error) {
        self.staged.clear();
        for answer in self.answers.drain(..) {
            let refused = Error::new(error.kind(), "bus.full", error.message());
            let _ = answer.send(Err(refused));
        }
    }

    fn next(&self) -> Sequence {
        self.next
    }

    fn replay(&mut self, sequence: Sequence, part: Bytes) -> Result<()> {
        assert!(sequence >= self.next);
        self.durable.extend_from_slice(&part);
        let _ = self.shown.send(self.durable.clone());
        Ok(())
    }
}

fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        record_bytes: 4096,
        reserve_bytes: 1024,
        full_retry: Duration::from_millis(1),
        failed_sync: FailedSync::call(|_| {}),
        ..Options::default()
    }
}

fn opening(disk: &SimulatedStorage) -> Opening {
    let storage = Arc::new(disk.clone());
    storage.create_dir(Path::new("/log")).unwrap();
    storage.sync_dir(Path::new("/")).unwrap();
    Opening::new(OwnedLog::open(storage, Path::new("/log"), &options()).unwrap())
}

struct Alone {
    journal: Journal,
    adds: mpsc::Sender<Add>,
    replayed: std_mpsc::Receiver<Vec<u8>>,
}

fn alone(disk: &SimulatedStorage, next: Sequence) -> Alone {
    let opening = opening(disk);
    let (adds, queue) = mpsc::channel(16);
    let (shown, replayed) = std_mpsc::channel();
    let slot = Slot::new(List::<1>::new(next, shown), opening.hold(), queue);
    let clock = ManualClock::new(Timestamp(0)).clock();
    let journal = opening.start(slot, clock, ()).unwrap();
    Alone {
        journal,
        adds,
        replayed,
    }
}

async fn add(to: &mpsc::Sender<Add>, byte: u8) -> Result<Vec<u8>> {
    let (answer, answered) = oneshot::channel();
    to.send(Add(byte, answer)).await.ok().unwrap();
    answered.await.unwrap()
}

#[tokio::test]
async fn what_was_answered_is_replayed() {
    let disk = SimulatedStorage::new(1);
    let store = alone(&disk, 1);
    assert_eq!(add(&store.adds, 7).await.unwrap(), [7]);
    assert_eq!(add(&store.adds, 8).await.unwrap(), [7, 8]);
    assert_eq!(add(&store.adds, 7).await.unwrap(), [7, 8]);
    store.journal.close().await;
    let disk = disk.crash();
    let again = alone(&disk, 1);
    assert_eq!(again.replayed.try_iter().last().unwrap(), [7, 8]);
    assert_eq!(add(&again.adds, 9).await.unwrap(), [7, 8, 9]);
    again.journal.close().await;
    // What a face has in its own files is not replayed.
    let later = alone(&disk.crash(), 2);
    assert_eq!(later.replayed.try_iter().count(), 2);
}

#[tokio::test]
async fn closing_writes_what_is_queued() {
    let store = alone(&SimulatedStorage::new(1), 1);
    let (answer, answered) = oneshot::channel();
    store.adds.send(Add(1, answer)).await.ok().unwrap();
    store.journal.close().await;
    assert_eq!(answered.await.unwrap().unwrap(), [1]);
    assert!(store.adds.is_closed());
    store.journal.close().await;
}

#[tokio::test]
async fn what_is_refused_is_forgotten() {
    let disk = SimulatedStorage::new(1);
    let store = alone(&disk, 1);
    // The thread that makes segments ahead may be the one that meets the fault.
    let mut kept = Vec::new();
    let error = loop {
        let byte = kept.len() as u8;
        disk.fail_at(disk.operations() + 1, Fault::InputOutput);
        match add(&store.adds, byte).await {
            Ok(_) => kept.push(byte),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Unavailable);
    kept.push(200);
    assert_eq!(add(&store.adds, 200).await.unwrap(), kept);
    store.journal.close().await;
    let again = alone(&disk.crash(), 1);
    assert_eq!(again.replayed.try_iter().last().unwrap(), kept);
}

#[tokio::test]
async fn a_part_that_nobody_knows_stops_the_reader() {
    let disk = SimulatedStorage::new(1);
    let store = alone(&disk, 1);
    add(&store.adds, 1).await.unwrap();
    store.journal.close().await;
    let opening = opening(&disk.crash());
    let (_adds, queue) = mpsc::channel(1);
    let slot = Slot::new(
        List::<2>::new(1, std_mpsc::channel().0),
        opening.hold(),
        queue,
    );
    let clock = ManualClock::new(Timestamp(0)).clock();
    let error = opening.start(slot, clock, ()).err().unwrap();
    assert_eq!(error.code(), "store.format_newer");
}

struct Both {
    journal: Journal,
    first: mpsc::Sender<Add>,
    second: mpsc::Sender<Add>,
    units: mpsc::Sender<Unit<List<1>, List<2>>>,
    replayed: [std_mpsc::Receiver<Vec<u8>>; 2],
    holds: [Hold; 2],
}

fn both(disk: &SimulatedStorage, next: [Sequence; 2]) -> Both {
    let opening = opening(disk);
    let (first, first_queue) = mpsc::channel(16);
    let (second, second_queue) = mpsc::channel(16);
    let (units, unit_queue) = mpsc::channel(16);
    let ((shown, first_replayed), (shown_too, second_replayed)) =
        (std_mpsc::channel(), std_mpsc::channel());
    let holds = [opening.hold(), opening.hold()];
    let faces = Pair::new(
        Slot::new(List::new(next[0], shown), holds[0].share(), first_queue),
        Slot::new(
            List::new(next[1], shown_too),
            holds[1].share(),
            second_queue,
        ),
        unit_queue,
    );
    let clock = ManualClock::new(Timestamp(0)).clock();
    let journal = opening.start(faces, clock, ()).unwrap();
    Both {
        journal,
        first,
        second,
        units,
        replayed: [first_replayed, second_replayed],
        holds,
    }
}

/// Adds to both lists, or to none when one has the byte.
async fn add_to_both(store: &Both, byte: u8) -> bool {
    let (answer, answered) = oneshot::channel();
    let mut answer = Some(answer);
    let unit = move |a: Staging<'_, List<1>>, b: Staging<'_, List<2>>| {
        let fits = !a.face.has(byte) && !b.face.has(byte);
        if fits {
            a.face.stage(Add(byte, oneshot::channel().0), a.part);
            b.face.stage(Add(byte, oneshot::channel().0), b.part);
        }
        let answer = answer.take().unwrap();
        Outcome::Done(Box::new(move |result| {
            let _ = answer.send(fits && result.is_ok());
        }))
    };
    store.units.send(Box::new(unit)).await.ok().unwrap();
    answered.await.unwrap()
}

#[tokio::test]
async fn a_unit_is_in_both_faces_or_in_none() {
    // At every operation of the disk, power is lost once.
    for operation in 0..60 {
        let disk = SimulatedStorage::new(operation);
        let store = both(&disk, [1, 1]);
        assert_eq!(add(&store.first, 1).await.unwrap(), [1]);
        assert_eq!(add(&store.second, 2).await.unwrap(), [2]);
        disk.fail_at(disk.operations() + 1 + operation / 10, Fault::PowerLoss);
        assert!(!add_to_both(&store, 1).await);
        assert!(!add_to_both(&store, 2).await);
        let _ = add_to_both(&store, 3).await;
        store.journal.close().await;
        // It goes at the latest now.
        while disk.sync_dir(Path::new("/")).is_ok() {}
        let again = both(&disk.crash(), [1, 1]);
        let [first, second] = again
            .replayed
            .each_ref()
            .map(|r| r.try_iter().last().unwrap());
        assert_eq!(first.contains(&3), second.contains(&3));
        assert!(first.starts_with(&[1]) && second.starts_with(&[2]));
    }
}

#[tokio::test]
async fn the_log_keeps_what_one_face_needs() {
    let disk = SimulatedStorage::new(1);
    let store = both(&disk, [1, 1]);
    let segments = || {
        let names = disk.list(Path::new("/log")).unwrap();
        names.iter().filter(|name| name.ends_with(".log")).count()
    };
    add(&store.second, 1).await.unwrap();
    // Each record ends a segment's room soon.
    for byte in 0..=255 {
        let (answer, answered) = oneshot::channel();
        let mut answer = Some(answer);
        let unit = move |a: Staging<'_, List<1>>, _: Staging<'_, List<2>>| {
            a.face.staged.extend([byte; 1000]);
            a.part.extend([byte; 1000]);
            let answer = answer.take().unwrap();
            Outcome::Done(Box::new(move |_| {
                let _ = answer.send(());
            }))
        };
        store.units.send(Box::new(unit)).await.ok().unwrap();
        answered.await.unwrap();
    }
    add(&store.first, 1).await.unwrap();
    let many = segments();
    assert!(many > 10, "{many}");
    store.holds[0].let_go(200).unwrap();
    assert_eq!(segments(), many, "the second face needs the first record");
    store.holds[1].let_go(2).unwrap();
    assert!(segments() < many / 2, "{} of {many}", segments());
    // A face with nothing in the log holds nothing.
    store.holds[0].let_go(1000).unwrap();
    assert!(segments() <= 3, "{}", segments());
    assert!(add(&store.second, 5).await.unwrap().ends_with(&[5]));
}
