//! A process that writes is killed in the middle, again and again, and each time the store must hold
//! all that it acknowledged, nothing in part, and go on from there.

use std::{
    collections::BTreeMap,
    env,
    io::{BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use sinew_core::Clock;
use sinew_engine::kv::{Entry, Event, Kv, Outcome, Revision, Span, Write};
use sinew_engine_embedded::{EmbeddedKv, Options};

/// The folder that the child process shall write in.
const DIR: &str = "SINEW_CRASH_DIR";
/// How often the child is killed; 20 times unless this says otherwise.
const ROUNDS: &str = "SINEW_CRASH_ROUNDS";
const TASKS: u64 = 8;
/// Of its records, each task keeps this many.
const KEPT: u64 = 40;

/// A commit that the child has been told is written: task, its number, revision.
type Acknowledged = (u64, u64, Revision);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of the crash test"]
async fn writes_until_killed() {
    let Ok(dir) = env::var(DIR) else { return };
    let kv = EmbeddedKv::open(dir, Clock::system(), options()).unwrap();
    let kv: &'static EmbeddedKv = Box::leak(Box::new(kv));
    print("open");
    for task in 0..TASKS {
        tokio::spawn(async move {
            let last = kv.get(first_key(task).as_bytes()).await.unwrap();
            let mut number = last.map_or(0, |entry| number_of(&entry));
            loop {
                number += 1;
                let revision = write(kv, task, number).await;
                print(&format!("ack {task} {number} {revision}"));
            }
        });
    }
    std::future::pending().await
}

/// With layers so small that kills come in the middle of checkpoints and merges, too.
fn options() -> Options {
    let mut options = Options::default();
    options.layer_bytes = 100_000;
    options
}

/// One transaction: two keys that must always agree, a new record, and the end of an old one.
async fn write(kv: &EmbeddedKv, task: u64, number: u64) -> Revision {
    // Some values fill pages of their own.
    let value = number.to_string() + &" ".repeat((number * 37 % 700) as usize);
    let put = |key: String| Write::Put {
        key: key.into(),
        value: value.clone().into(),
        lease: None,
    };
    let writes = vec![
        put(first_key(task)),
        put(second_key(task)),
        put(record_key(task, number)),
        Write::Delete {
            key: record_key(task, number.saturating_sub(KEPT)).into(),
        },
    ];
    match kv.commit(vec![], writes).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(_) => unreachable!("there were no conditions"),
    }
}

fn first_key(task: u64) -> String {
    format!("a/{task}")
}

fn second_key(task: u64) -> String {
    format!("z/{task}")
}

fn record_key(task: u64, number: u64) -> String {
    format!("m/{task}/{number:012}")
}

fn number_of(entry: &Entry) -> u64 {
    std::str::from_utf8(&entry.value)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// A whole line in one write, so that a kill cannot tear it.
fn print(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_writing() {
    let rounds = env::var(ROUNDS).map_or(20_u64, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut newest = 0;
    let mut total = 0;
    for round in 0..rounds {
        // From the middle of opening to a good number of groups.
        let patience = Duration::from_micros(round * 7919 % 61 * 1500);
        let acks = killed_child(dir.path(), round % 5 == 4, patience);
        total += acks.len();
        for (task, number, revision) in acks {
            acknowledged.insert(task, (number, revision));
            newest = newest.max(revision);
        }
        newest = check(dir.path(), &acknowledged, newest).await;
    }
    println!("{rounds} kills, {total} acknowledged commits, revision {newest}");
    assert!(total > 0, "no child lived long enough to write anything");
}

/// Starts the child, lets it write for a while (or only open), kills it and answers what it was told.
fn killed_child(dir: &Path, while_opening: bool, patience: Duration) -> Vec<Acknowledged> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "kv_crash::writes_until_killed",
            "--include-ignored",
            "--nocapture",
        ])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    if !while_opening {
        while !printed.contains("ack ") {
            let length = read_line_soon(&mut child, &mut stdout, &mut printed);
            assert!(length > 0, "the child ended by itself: {printed}");
        }
    }
    // What it prints meanwhile fits into the pipe or is read here.
    let reader = thread::spawn(move || {
        stdout.read_to_string(&mut printed).unwrap();
        printed
    });
    thread::sleep(patience);
    child.kill().unwrap();
    child.wait().unwrap();
    let printed = reader.join().unwrap();
    let acks = printed.lines().filter_map(|line| line.strip_prefix("ack "));
    acks.map(|line| {
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        (next(), next(), next())
    })
    .collect()
}

/// Reads a line; a child that prints none for a long time is killed, which ends its output.
fn read_line_soon(child: &mut Child, from: &mut impl std::io::BufRead, to: &mut String) -> usize {
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(Duration::from_secs(60)).is_err() {
                let _ = child.kill();
            }
        });
        let length = from.read_line(to).unwrap();
        done.send(()).unwrap();
        length
    })
}

/// Opens what the child has left behind and looks at everything. Answers the newest revision.
async fn check(
    dir: &Path,
    acknowledged: &BTreeMap<u64, (u64, Revision)>,
    newest: Revision,
) -> Revision {
    let kv = EmbeddedKv::open(dir, Clock::system(), options()).unwrap();
    let revision = kv.revision().await.unwrap();
    assert!(
        revision >= newest,
        "revision {newest} was known, now it is {revision}"
    );
    let mut stored = BTreeMap::new();
    let mut rest = Span::all();
    loop {
        let page = kv.range(rest.clone(), 1000, Some(revision)).await.unwrap();
        for entry in page.entries {
            assert!(entry.revision <= revision);
            stored.insert(String::from_utf8(entry.key.to_vec()).unwrap(), entry);
        }
        match page.next {
            Some(next) => rest.start = next,
            None => break,
        }
    }
    let mut records = 0;
    for task in 0..TASKS {
        let Some(first) = stored.get(&first_key(task)) else {
            assert!(
                !acknowledged.contains_key(&task),
                "task {task} lost everything"
            );
            continue;
        };
        let number = number_of(first);
        // Whole transactions only.
        let second = &stored[&second_key(task)];
        assert_eq!(
            (&second.value, second.revision),
            (&first.value, first.revision)
        );
        let oldest = number.saturating_sub(KEPT) + 1;
        for kept in oldest..=number {
            let record = stored.get(&record_key(task, kept));
            let record = record.unwrap_or_else(|| panic!("task {task} lost its {kept}"));
            assert_eq!(number_of(record), kept);
            records += 1;
        }
        assert_eq!(stored[&record_key(task, number)].revision, first.revision);
        // What was acknowledged is there, under the revision that was named.
        let Some(&(last, at)) = acknowledged.get(&task) else {
            continue;
        };
        assert!(
            number >= last,
            "task {task} was told of {last}, but the store ends at {number}"
        );
        if let Some(record) = stored.get(&record_key(task, last)) {
            assert_eq!(record.revision, at);
        }
    }
    assert_eq!(
        stored.len() as u64,
        records + 2 * stored.keys().filter(|key| key.starts_with("a/")).count() as u64
    );
    check_history(&kv, revision, stored).await;
    kv.close().await.unwrap();
    revision
}

/// The history, replayed, leads to what is stored.
async fn check_history(kv: &EmbeddedKv, newest: Revision, stored: BTreeMap<String, Entry>) {
    if newest == 0 {
        return;
    }
    let mut watch = kv.watch(Span::all(), 0).await.unwrap();
    let mut replayed = BTreeMap::new();
    for expected in 1..=newest {
        let batch = watch.next().await.unwrap();
        assert_eq!(batch.revision, expected);
        for event in batch.events {
            let key = String::from_utf8(event.key().to_vec()).unwrap();
            match event {
                Event::Put(entry) => replayed.insert(key, entry),
                Event::Delete(_) => replayed.remove(&key),
            };
        }
    }
    assert!(
        replayed == stored,
        "the history and the entries are not of one mind"
    );
}
