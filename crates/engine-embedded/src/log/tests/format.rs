//! The bytes on the disk are a promise: a log of every format is kept and read by every newer
//! version.

use super::*;
use crate::storage::RealStorage;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn copy_of(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

fn payload(sequence: Sequence) -> Vec<u8> {
    format!("record {sequence} ")
        .repeat(usize::try_from(sequence * 7 % 60).unwrap())
        .into_bytes()
}

/// Makes the fixture anew: `cargo test make_the_log_fixture -- --ignored`. Only ever for a new
/// format; what older versions wrote stays as it is.
#[tokio::test]
#[ignore = "writes into the source tree"]
async fn make_the_log_fixture() {
    let folder = fixture(&format!("log-{}", header::VERSION));
    let log = Log::open(Arc::new(RealStorage), &folder, &small()).unwrap();
    for sequence in 1..=60 {
        log.append(payload(sequence)).await.unwrap();
    }
    log.release(40).unwrap();
    let note = Bytes::from_static(b"a note");
    log.set_checkpoint(Checkpoint { next: 31, note }).unwrap();
}

#[tokio::test]
async fn a_log_of_format_1_is_read_and_goes_on() {
    let folder = copy_of("log-1");
    let log = Log::open(Arc::new(RealStorage), folder.path(), &small()).unwrap();
    assert_eq!(log.next(), 61);
    assert!((2..=40).contains(&log.oldest()), "{}", log.oldest());
    let note = Bytes::from_static(b"a note");
    assert_eq!(log.checkpoint(), Some(Checkpoint { next: 31, note }));
    let mut reader = log.reader(log.oldest()).unwrap();
    for sequence in log.oldest()..61 {
        let Some(Entry::Record(record)) = reader.next().unwrap() else {
            panic!("{sequence}")
        };
        assert_eq!(
            (record.sequence, &record.payload[..]),
            (sequence, &payload(sequence)[..])
        );
    }
    assert_eq!(log.append(&b"more"[..]).await.unwrap().sequence, 61);
}

#[test]
fn a_newer_format_is_refused() {
    let storage = disk(1);
    open(&storage).unwrap();
    let storage = storage.kill();
    storage
        .damage(Path::new("/data/log/0000000001.log"), |bytes| {
            bytes[8] = 2;
            let checksum = crc32c::crc32c(&bytes[..508]);
            bytes[508..512].copy_from_slice(&checksum.to_le_bytes());
        })
        .unwrap();
    let error = open(&storage).map(|_| ()).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (sinew_core::Kind::FailedPrecondition, "log.version")
    );
    let target = Path::new("/data/repaired");
    let error = super::repair(&shared(&storage), Path::new(FOLDER), target, &small()).unwrap_err();
    assert_eq!(error.code(), "log.version");
}
