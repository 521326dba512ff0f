//! A real process on a real disk, killed with -9 in the middle of appends, again and again.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::storage::RealStorage;

const FOLDER_VARIABLE: &str = "SINEW_LOG_KILL_FOLDER";

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        record_bytes: 4096,
        ..small()
    }
}

/// What record `sequence` is, when it is `callers` who each append their own count.
fn payload(caller: u64, turn: u64) -> Vec<u8> {
    let mut payload = format!("{caller} {turn} ").into_bytes();
    payload.resize(
        payload.len() + usize::try_from((caller * 131 + turn * 17) % 700).unwrap(),
        b'.',
    );
    payload
}

/// The child: appends until it is killed, and says on standard output what was acknowledged.
#[test]
#[ignore = "started by the test below"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER_VARIABLE) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let log = Log::open(Arc::new(RealStorage), Path::new(&folder), &options()).unwrap();
    let log = Arc::new(log);
    runtime.block_on(async {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..8_u64 {
            let log = Arc::clone(&log);
            callers.spawn(async move {
                for turn in 0.. {
                    let appended = log.append(payload(caller, turn)).await.unwrap();
                    // A whole line at once: several callers write here.
                    println!("acknowledged {} {caller} {turn}", appended.sequence);
                    if turn % 50 == 0 {
                        log.release(appended.sequence.saturating_sub(300)).unwrap();
                    }
                }
            });
        }
        callers.join_all().await;
    });
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_killed_again_and_again_loses_nothing_acknowledged() {
    let rounds = from_environment("SINEW_KILLS", 10);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut random = Seeded::new(7);
    for round in 0..rounds {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "log::tests::kill::child",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(FOLDER_VARIABLE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = KillOnDrop(child);
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        let wanted = 1 + random.index(800);
        let mut note = |line: std::io::Result<String>| {
            // The last line may be cut by the kill.
            let line = line.unwrap_or_default();
            let words: Vec<_> = line.split(' ').collect();
            if let ["acknowledged", numbers @ ..] = &words[..]
                && let [Ok(sequence), Ok(caller), Ok(turn)] = numbers
                    .iter()
                    .map(|word| word.parse::<u64>())
                    .collect::<Vec<_>>()[..]
            {
                acknowledged.push((sequence, caller, turn));
            }
            acknowledged.len()
        };
        for line in lines.by_ref() {
            if note(line) >= wanted {
                break;
            }
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        // What it had said before it died counts, all but a line that may be cut.
        lines.for_each(|line| {
            note(line);
        });
        assert!(
            acknowledged.len() >= wanted,
            "round {round}: the child died by itself"
        );
        acknowledged.pop();

        let log = Log::open(Arc::new(RealStorage), &path, &options()).unwrap();
        let mut found = std::collections::BTreeMap::new();
        let mut reader = log.reader(log.oldest()).unwrap();
        while let Some(entry) = reader.next().unwrap() {
            let Entry::Record(record) = entry else {
                panic!("{entry:?}")
            };
            found.insert(record.sequence, record.payload);
        }
        for (sequence, caller, turn) in acknowledged {
            if sequence >= log.oldest() {
                let held = found.get(&sequence).map(|payload| &payload[..]);
                assert_eq!(held, Some(&payload(caller, turn)[..]), "round {round}");
            } else {
                assert!(
                    sequence + 300 <= log.next(),
                    "round {round}: released too early"
                );
            }
        }
    }
}
