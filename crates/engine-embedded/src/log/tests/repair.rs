use super::*;

const TARGET: &str = "/data/repaired";

/// Forty records of one batch each, over a few segments.
fn log() -> (SimulatedStorage, Vec<Position>) {
    let storage = disk(1);
    let mut opened = open(&storage).unwrap();
    let positions = (0..40)
        .map(|nth| append(&mut opened, &[nth; 480]).position)
        .collect();
    let checkpoint = Checkpoint {
        next: 5,
        note: Bytes::from_static(b"note"),
    };
    opened
        .slots
        .set(checkpoint, &opened.segments.fatal)
        .unwrap();
    (storage.kill(), positions)
}

fn file(position: Position) -> std::path::PathBuf {
    Path::new(FOLDER).join(segment::file_name(position.segment))
}

fn change(storage: &SimulatedStorage, position: Position) {
    let at = usize::try_from(position.offset).unwrap() + 30;
    storage
        .damage(&file(position), |bytes| bytes[at] ^= 1)
        .unwrap();
}

/// Repairs, and reads the new log: the records that are there, and the gaps.
fn repaired(storage: &SimulatedStorage) -> (Repaired, Vec<Sequence>, Vec<(Sequence, Sequence)>) {
    let options = Options {
        identity: None,
        ..small()
    };
    let report = repair(
        &shared(storage),
        Path::new(FOLDER),
        Path::new(TARGET),
        &options,
    )
    .unwrap();
    // As good as any log: also after a loss of power.
    let storage = storage.crash();
    let opened = recovery::open(&shared(&storage), Path::new(TARGET), &options).unwrap();
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    for entry in entries(&opened.segments).unwrap() {
        match entry {
            Entry::Gap { from, until } => gaps.push((from, until)),
            Entry::Record(record) => {
                let nth = u8::try_from(record.sequence - 1).unwrap();
                assert!(
                    record.payload == vec![nth; 480],
                    "record {}",
                    record.sequence
                );
                records.push(record.sequence);
            }
        }
    }
    assert_eq!(report.records, records.len() as u64);
    assert_eq!(
        opened.slots.newest().map(|checkpoint| checkpoint.next),
        Some(5)
    );
    (report, records, gaps)
}

#[test]
fn a_whole_log_is_copied_whole() {
    let (storage, _) = log();
    let (report, records, gaps) = repaired(&storage);
    assert_eq!((records, gaps), ((1..=40).collect(), vec![]));
    assert_eq!(
        report,
        Repaired {
            records: 40,
            bytes: 40 * 480,
            oldest: Some(1),
            dropped: vec![]
        }
    );
}

#[test]
fn damaged_records_become_gaps_and_are_reported() {
    let (storage, positions) = log();
    for nth in [0, 7, 8, 20] {
        change(&storage, positions[nth]);
    }
    assert_eq!(
        open(&storage).map(|_| ()).unwrap_err().code(),
        "log.corrupt"
    );
    let (report, records, gaps) = repaired(&storage);
    let lost = [1, 8, 9, 21];
    assert_eq!(
        records,
        (1..=40)
            .filter(|number| !lost.contains(number))
            .collect::<Vec<_>>()
    );
    assert_eq!(gaps, [(1, 2), (8, 10), (21, 22)]);
    let dropped: Vec<_> = report
        .dropped
        .iter()
        .map(|dropped| {
            (
                dropped.file.clone(),
                dropped.from,
                dropped.records,
                dropped.why,
            )
        })
        .collect();
    let expected = [(0, (1, 2)), (7, (8, 10)), (20, (21, 22))].map(|(nth, lost)| {
        (
            file(positions[nth]),
            positions[nth].offset,
            Some(lost),
            "damaged",
        )
    });
    assert_eq!(dropped, expected);
}

#[test]
fn a_missing_segment_is_one_gap() {
    let (storage, positions) = log();
    storage.remove(&file(positions[20])).unwrap();
    let (report, records, gaps) = repaired(&storage);
    let lost = |number: &Sequence| {
        positions[usize::try_from(*number - 1).unwrap()].segment == positions[20].segment
    };
    assert_eq!(
        records,
        (1..=40).filter(|number| !lost(number)).collect::<Vec<_>>()
    );
    assert_eq!(gaps.len(), 1);
    assert_eq!(report.dropped.len(), 1);
    assert_eq!(report.dropped[0].records, Some(gaps[0]));
}

#[test]
fn a_broken_header_costs_nothing() {
    let (storage, positions) = log();
    storage
        .damage(&file(positions[20]), |bytes| bytes[..100].fill(0xff))
        .unwrap();
    let (report, records, gaps) = repaired(&storage);
    assert_eq!((records, gaps), ((1..=40).collect(), vec![]));
    assert_eq!(report.dropped, []);
}

#[test]
fn the_damaged_end_of_a_segment_belongs_to_its_gap() {
    let (storage, positions) = log();
    let next = positions
        .iter()
        .position(|position| position.segment == 2)
        .unwrap();
    change(&storage, positions[next - 1]);
    let (report, records, gaps) = repaired(&storage);
    let lost = next as Sequence;
    assert_eq!(gaps, [(lost, lost + 1)]);
    assert_eq!(records.len(), 39);
    assert_eq!(report.dropped.len(), 1, "{:?}", report.dropped);
    assert_eq!(report.dropped[0].from, positions[next - 1].offset);
    assert_eq!(report.dropped[0].records, Some((lost, lost + 1)));
}

#[test]
fn an_unfinished_batch_is_dropped_as_such() {
    let (storage, positions) = log();
    change(&storage, positions[39]);
    let (report, records, gaps) = repaired(&storage);
    assert_eq!((records, gaps), ((1..=39).collect(), vec![]));
    assert_eq!(
        report.dropped[0].why,
        "an unfinished batch, never acknowledged"
    );
}

#[test]
fn a_repaired_log_goes_on_and_can_be_repaired_again() {
    let (storage, positions) = log();
    change(&storage, positions[10]);
    repair(
        &shared(&storage),
        Path::new(FOLDER),
        Path::new(TARGET),
        &small(),
    )
    .unwrap();
    let mut opened = recovery::open(&shared(&storage), Path::new(TARGET), &small()).unwrap();
    assert_eq!(append(&mut opened, b"more").sequence, 41);
    drop(opened);
    let again = Path::new("/data/again");
    let report = repair(&shared(&storage), Path::new(TARGET), again, &small()).unwrap();
    assert_eq!((report.records, report.dropped), (40, vec![]));
    let opened = recovery::open(&shared(&storage), again, &small()).unwrap();
    let found = entries(&opened.segments).unwrap();
    assert_eq!(
        found[10],
        Entry::Gap {
            from: 11,
            until: 12
        }
    );
    // Reading may begin in a gap, too.
    let mut reader = Reader::new(Arc::clone(&opened.segments), 11).unwrap();
    assert_eq!(
        reader.next().unwrap(),
        Some(Entry::Gap {
            from: 11,
            until: 12
        })
    );
}

#[test]
fn nothing_is_repaired_over_something() {
    let (storage, _) = log();
    let error = repair(
        &shared(&storage),
        Path::new(FOLDER),
        Path::new(FOLDER),
        &small(),
    )
    .unwrap_err();
    assert_eq!(error.code(), "log.not_empty");
}

#[test]
fn a_repair_that_did_not_finish_leaves_nothing_that_opens() {
    let (storage, _) = log();
    let before = storage.operations();
    repair(
        &shared(&storage),
        Path::new(FOLDER),
        Path::new(TARGET),
        &small(),
    )
    .unwrap();
    let calls = storage.operations() - before;
    for call in 1..calls {
        let (storage, _) = log();
        storage.fail_at(
            storage.operations() + call,
            crate::storage::Fault::PowerLoss,
        );
        repair(
            &shared(&storage),
            Path::new(FOLDER),
            Path::new(TARGET),
            &small(),
        )
        .unwrap_err();
        let storage = storage.crash();
        match recovery::open(&shared(&storage), Path::new(TARGET), &small()) {
            Err(error) => assert_eq!(error.code(), "log.corrupt", "call {call}"),
            // Before its first file was safe it is an empty folder, or not there: a new log.
            Ok(opened) if opened.recovery.next == 1 => {}
            // The last calls are the checkpoint's: its file is there, its contents may not be.
            Ok(opened) => assert_eq!(opened.recovery.next, 41, "call {call}"),
        }
    }
}
