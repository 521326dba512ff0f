//! What a decaying disk, or a hand that slips, does to a log: each case with what must come of it.

use sinew_core::Kind;

use super::*;

const SEGMENT: &str = "/data/log/0000000001.log";
const SECOND: &str = "/data/log/0000000002.log";
const LAST: &str = "/data/log/0000000003.log";

/// A log of three segments and more, one record of 480 bytes a batch, two in the last segment.
fn log() -> (SimulatedStorage, Vec<Position>) {
    let storage = disk(1);
    let mut opened = open(&storage).unwrap();
    let mut positions = Vec::new();
    loop {
        let position = append(&mut opened, &[u8::try_from(positions.len()).unwrap(); 480]).position;
        positions.push(position);
        let in_last = positions
            .iter()
            .filter(|position| position.segment == 3)
            .count();
        if in_last == 3 {
            return (storage.kill(), positions);
        }
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// What came of it: an error when opening, or one when reading, or this many records.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    RefusedToOpen(String),
    StoppedReading(usize, String),
    Records(usize),
}

fn look(storage: &SimulatedStorage) -> Found {
    let told = |error: sinew_core::Error| {
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::DataLoss, "log.corrupt"),
            "{error:?}"
        );
        assert!(
            error.message().contains("sinew repair"),
            "{}",
            error.message()
        );
        let message = error
            .message()
            .strip_prefix("the log is damaged in ")
            .unwrap();
        message.split(':').next().unwrap().to_owned()
    };
    let opened = match open(storage) {
        Ok(opened) => opened,
        Err(error) => return Found::RefusedToOpen(told(error)),
    };
    let mut reader = Reader::new(Arc::clone(&opened.segments), opened.segments.oldest()).unwrap();
    let mut records = 0;
    loop {
        match reader.next() {
            Ok(Some(_)) => records += 1,
            Ok(None) => return Found::Records(records),
            Err(error) => return Found::StoppedReading(records, told(error)),
        }
    }
}

fn place(position: Position) -> String {
    position.to_string().replace(" byte", " at byte")
}

#[test]
fn a_changed_byte_of_a_record_is_found_wherever_it_is() {
    let (_, positions) = log();
    let last = positions.len() - 1;
    for (nth, position) in positions.iter().copied().enumerate() {
        for byte in [0, 5, 9, 17, 20, 23, 24, 300, 503] {
            let (storage, _) = log();
            let path = Path::new(FOLDER).join(segment::file_name(position.segment));
            storage
                .damage(&path, |bytes| bytes[at(position.offset) + byte] ^= 0x10)
                .unwrap();
            let found = look(&storage);
            let is_first = position.offset == header::FIRST_FRAME;
            let expected = if nth == last {
                // Nothing tells it from a batch that power was lost over: this one is cut.
                Found::Records(last)
            } else if position.segment == 3 || is_first {
                Found::RefusedToOpen(place(position))
            } else {
                Found::StoppedReading(nth, place(position))
            };
            assert_eq!(found, expected, "record {nth}, byte {byte}");
        }
    }
}

#[test]
fn records_that_are_zeroed_or_exchanged_are_missed() {
    let (storage, positions) = log();
    let in_second = *positions
        .iter()
        .find(|position| position.segment == 2)
        .unwrap();
    let middle = Position {
        offset: in_second.offset + 2 * 504,
        ..in_second
    };
    storage
        .damage(Path::new(SECOND), |bytes| {
            bytes[at(middle.offset)..][..504].fill(0)
        })
        .unwrap();
    let before = positions
        .iter()
        .position(|position| *position == middle)
        .unwrap();
    assert_eq!(look(&storage), Found::StoppedReading(before, place(middle)));

    // Whole, and of this segment, but in the wrong place.
    let (storage, _) = log();
    storage
        .damage(Path::new(SECOND), |bytes| {
            let next = at(middle.offset) + 504;
            bytes.copy_within(next..next + 504, at(middle.offset));
        })
        .unwrap();
    assert_eq!(look(&storage), Found::StoppedReading(before, place(middle)));
}

#[test]
fn an_exchanged_record_of_the_last_segment_is_missed() {
    let (storage, positions) = log();
    let nth = positions.len() - 2;
    let offset = at(positions[nth].offset);
    storage
        .damage(Path::new(LAST), |bytes| {
            bytes.copy_within(offset + 504..offset + 1008, offset)
        })
        .unwrap();
    assert_eq!(look(&storage), Found::RefusedToOpen(place(positions[nth])));
}

#[test]
fn a_segment_full_of_another_ones_records_is_not_taken_for_it() {
    let (storage, positions) = log();
    let file = storage.open(Path::new(SEGMENT)).unwrap();
    let mut other = vec![0; 8192 - header::SIZE];
    file.read_at(&mut other, header::FIRST_FRAME).unwrap();
    // The prepared one after the last.
    let fourth = Path::new("/data/log/0000000004.log");
    open(&storage).unwrap().pool.make().unwrap();
    storage
        .damage(fourth, |bytes| {
            bytes[header::SIZE..].copy_from_slice(&other)
        })
        .unwrap();
    assert_eq!(look(&storage), Found::Records(positions.len()));
}

#[test]
fn a_missing_or_misnamed_file_is_damage() {
    let corrupt =
        |file: &str, offset: u64| Found::RefusedToOpen(format!("{file} at byte {offset}"));
    let (storage, _) = log();
    storage.remove(Path::new(SECOND)).unwrap();
    assert_eq!(look(&storage), corrupt("0000000002.log", 0));

    let (storage, _) = log();
    storage.remove(Path::new("/data/log/checkpoint")).unwrap();
    assert_eq!(look(&storage), corrupt("checkpoint", 0));

    let (storage, _) = log();
    storage
        .rename(Path::new(SEGMENT), Path::new(SECOND))
        .unwrap();
    assert_eq!(look(&storage), corrupt("0000000002.log", 32));

    let (storage, _) = log();
    let other = disk(9);
    let options = Options {
        identity: Some([8; 16]),
        ..small()
    };
    let mut opened = recovery::open(&shared(&other), Path::new(FOLDER), &options).unwrap();
    opened.writer.stage(b"x", false).unwrap();
    opened.writer.commit().unwrap();
    let mut foreign = vec![0; 8192];
    other
        .open(Path::new(SEGMENT))
        .unwrap()
        .read_at(&mut foreign, 0)
        .unwrap();
    let header = header::Header {
        log: [8; 16],
        segment: 3,
        capacity: 8192,
    }
    .encode();
    foreign[..header::SIZE].copy_from_slice(&header);
    storage
        .damage(Path::new(LAST), |bytes| *bytes = foreign)
        .unwrap();
    assert_eq!(look(&storage), corrupt("0000000003.log", 16));
}

#[test]
fn a_header_or_a_length_that_is_wrong_is_damage() {
    for (path, name) in [(SEGMENT, "0000000001.log"), (LAST, "0000000003.log")] {
        let (storage, _) = log();
        storage
            .damage(Path::new(path), |bytes| bytes[40] ^= 1)
            .unwrap();
        assert_eq!(
            look(&storage),
            Found::RefusedToOpen(format!("{name} at byte 0"))
        );
        let (storage, _) = log();
        storage
            .damage(Path::new(path), |bytes| bytes.truncate(100))
            .unwrap();
        assert_eq!(
            look(&storage),
            Found::RefusedToOpen(format!("{name} at byte 0"))
        );
        let (storage, _) = log();
        storage
            .damage(Path::new(path), |bytes| bytes.truncate(8000))
            .unwrap();
        assert_eq!(
            look(&storage),
            Found::RefusedToOpen(format!("{name} at byte 8000"))
        );
    }
}

#[test]
fn the_first_records_of_the_only_segment_are_missed_by_the_ones_after_them() {
    let storage = disk(1);
    let mut opened = open(&storage).unwrap();
    for _ in 0..3 {
        append(&mut opened, b"abc");
    }
    let storage = storage.kill();
    storage
        .damage(Path::new(SEGMENT), |bytes| bytes[600..].fill(0))
        .unwrap();
    // Byte 600 is in the third record; the first two are whole.
    assert_eq!(look(&storage), Found::Records(2));
    storage
        .damage(Path::new(SEGMENT), |bytes| bytes[512] ^= 1)
        .unwrap();
    assert_eq!(
        look(&storage),
        Found::RefusedToOpen("0000000001.log at byte 512".into())
    );
}

#[test]
fn one_broken_slot_of_the_checkpoint_leaves_the_other() {
    let storage = disk(1);
    let opened = open(&storage).unwrap();
    for next in 1..=2 {
        let checkpoint = Checkpoint {
            next,
            note: Bytes::new(),
        };
        opened
            .slots
            .set(checkpoint, &opened.segments.fatal)
            .unwrap();
    }
    let storage = storage.kill();
    storage
        .damage(Path::new("/data/log/checkpoint"), |bytes| bytes[16] ^= 1)
        .unwrap();
    assert_eq!(open(&storage).unwrap().slots.newest().unwrap().next, 1);
}

/// Any damage at all: no panic, and no record that was never appended.
#[test]
fn random_damage_never_invents_a_record() {
    let (_, positions) = log();
    for seed in 0..from_environment("SINEW_DAMAGES", 500) {
        let mut random = Seeded::new(seed);
        let (storage, _) = log();
        for _ in 0..=random.below(3) {
            let path = Path::new(FOLDER).join(segment::file_name(1 + random.below(3)));
            storage
                .damage(&path, |bytes| {
                    let from = random.index(bytes.len());
                    let length = random.index(700).min(bytes.len() - from);
                    let to = random.index(bytes.len() - length);
                    match random.below(3) {
                        0 => bytes[from..from + length].fill(0),
                        1 => bytes.copy_within(from..from + length, to),
                        _ => bytes[from..from + length].fill_with(|| random.below(256) as u8),
                    }
                })
                .unwrap();
        }
        let Ok(opened) = open(&storage) else { continue };
        let mut reader = Reader::new(Arc::clone(&opened.segments), 1).unwrap();
        while let Ok(Some(entry)) = reader.next() {
            let Entry::Record(record) = entry else {
                panic!("seed {seed}: {entry:?}")
            };
            let nth = usize::try_from(record.sequence).unwrap() - 1;
            assert_eq!(record.position, positions[nth], "seed {seed}");
            assert!(
                record.payload == vec![u8::try_from(nth).unwrap(); 480],
                "seed {seed}"
            );
        }
    }
}
