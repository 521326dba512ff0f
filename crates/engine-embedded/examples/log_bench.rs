//! How fast the commit log is on this machine:
//! `cargo run --release -p sinew-engine-embedded --example log_bench -- [FOLDER] [SECONDS]`.
//!
//! Each caller appends one record and waits until it is durable, then the next. The floor is one
//! thread that writes 4 KB into a zero-filled file and syncs.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sinew_core::Clock;
use sinew_engine_embedded::{
    log::{Entry, Log, Options},
    storage::RealStorage,
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .map_or_else(|| PathBuf::from("target/log-bench"), PathBuf::from);
    let seconds = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5);
    let time = Duration::from_secs(seconds);
    std::fs::create_dir_all(&folder).expect("the folder can be made");

    floor(&folder, time);
    for (callers, bytes) in [
        (1, 500),
        (64, 500),
        (1024, 500),
        (64, 200),
        (1024, 200),
        (64, 4096),
    ] {
        appends(&folder, callers, bytes, time);
        floor(&folder, time / 5);
    }
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
}

fn floor(folder: &Path, time: Duration) {
    let clock = Clock::system();
    let path = folder.join("floor");
    let mut file = File::create(&path).expect("a file can be made");
    let length = 64 << 20;
    file.write_all(&vec![0; length])
        .expect("the file can be filled");
    file.sync_all().expect("the file can be synced");
    let mut times = Vec::new();
    let begin = clock.monotonic();
    while clock.monotonic() - begin < time {
        let before = clock.monotonic();
        let offset = (times.len() * 4096 % length) as u64;
        file.write_all_at(&[7; 4096], offset)
            .expect("the file can be written");
        file.sync_data().expect("the file can be synced");
        times.push(clock.monotonic() - before);
    }
    report(
        "floor: write 4 KB, fdatasync",
        clock.monotonic() - begin,
        &mut times,
        "",
    );
    std::fs::remove_file(path).expect("the file can be removed");
}

fn appends(folder: &Path, callers: usize, bytes: usize, time: Duration) {
    let clock = Clock::system();
    let folder = folder.join("log");
    let _ = std::fs::remove_dir_all(&folder);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be started");
    let log = Log::open(Arc::new(RealStorage), &folder, &Options::default());
    let log = Arc::new(log.expect("the log opens"));
    let begin = clock.monotonic();
    let mut times = runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let (log, clock) = (Arc::clone(&log), clock.clone());
            let payload = Bytes::from(vec![u8::try_from(caller % 251).expect("small"); bytes]);
            running.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let before = clock.monotonic();
                    if before - begin > time {
                        return times;
                    }
                    log.append(payload.clone())
                        .await
                        .expect("the disk has room");
                    times.push(clock.monotonic() - before);
                }
            });
        }
        running
            .join_all()
            .await
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    });
    let took = clock.monotonic() - begin;

    let payloads = (log.next() - 1) as f64 * bytes as f64;
    let begin = clock.monotonic();
    let mut reader = log.reader(1).expect("everything is kept");
    let mut read = 0_u64;
    while let Some(entry) = reader.next().expect("everything is whole") {
        read += u64::from(matches!(entry, Entry::Record(_)));
    }
    let reading = clock.monotonic() - begin;
    let disk = log.bytes() as f64 / payloads;
    drop(log);
    let begin = clock.monotonic();
    Log::open(Arc::new(RealStorage), &folder, &Options::default()).expect("the log opens");
    let opening = clock.monotonic() - begin;
    let more = format!(
        "; read {:.2} M/s; {disk:.2} bytes on disk a byte (segments rounded up); opened in {:.0} ms",
        read as f64 / reading.as_secs_f64() / 1e6,
        opening.as_secs_f64() * 1e3,
    );
    report(
        &format!("{callers} callers, {bytes} B"),
        took,
        &mut times,
        &more,
    );
    let _ = std::fs::remove_dir_all(&folder);
}

fn report(what: &str, took: Duration, times: &mut [Duration], more: &str) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{what:<28} {:>8.0}/s  p50 {:.3} ms  p99 {:.3} ms  p99.9 {:.3} ms  max {:.1} ms{more}",
        times.len() as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
}
