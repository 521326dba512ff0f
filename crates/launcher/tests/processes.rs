//! The launcher with real processes: `/bin/sh` stands in for the services.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say so and stop"
)]

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sinew_core::Name;
use sinew_launcher::{
    Event, Exit, Launcher, Logs, Options, Phase, RestartPolicy, ServiceSpec, What, run_child,
};
use tokio::sync::broadcast;

/// Far more than anything here needs, on a machine that is busy with other things too.
const LONG: Duration = Duration::from_secs(60);

/// Not a test: what this executable does when it is started again as the wrapper of a child, with
/// the child's words after the name of this function.
#[test]
#[ignore = "the entry point of the wrapped children of the other tests"]
fn role_child() {
    let words = std::env::args_os()
        .skip_while(|word| word != "role_child")
        .skip(1);
    let _ = run_child(words);
    std::process::exit(1);
}

/// Not a test: a launcher in a process of its own, to be killed with -9.
#[test]
#[ignore = "the entry point of the parent that is killed in another test"]
fn role_parent() {
    let folder = PathBuf::from(std::env::var_os("SINEW_TEST_FOLDER").unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let launcher = Launcher::start(wrapped()).unwrap();
        let script = "echo $$ > $FOLDER/$SINEW_INSTANCE.new && mv $FOLDER/$SINEW_INSTANCE.new $FOLDER/$SINEW_INSTANCE.pid; exec sleep 600";
        let spec = ServiceSpec { replicas: 3, ..shell("sleeper", script) };
        launcher.run(spec.env("FOLDER", &folder)).unwrap();
        tokio::time::sleep(LONG * 2).await;
    });
}

fn wrapped() -> Options {
    let this = std::env::current_exe().unwrap();
    let words = ["--exact", "--ignored", "--nocapture", "--", "role_child"];
    let wrapper = std::iter::once(this.into_os_string())
        .chain(words.map(OsString::from))
        .collect();
    Options {
        wrapper,
        logs: Logs::Discard,
    }
}

fn plain() -> Options {
    Options {
        wrapper: Vec::new(),
        logs: Logs::Discard,
    }
}

fn shell(name: &str, script: &str) -> ServiceSpec {
    let quick = RestartPolicy {
        base: Duration::from_millis(5),
        cap: Duration::from_millis(20),
        ..RestartPolicy::default()
    };
    let spec = ServiceSpec::new(Name::new(name).unwrap(), "/bin/sh").args(["-c", script]);
    ServiceSpec {
        restart: quick,
        grace: LONG,
        ..spec
    }
}

async fn next(events: &mut broadcast::Receiver<Event>) -> Event {
    tokio::time::timeout(LONG, events.recv())
        .await
        .expect("an event in time")
        .unwrap()
}

async fn started(events: &mut broadcast::Receiver<Event>) -> u32 {
    loop {
        if let What::Started { pid } = next(events).await.what {
            return pid;
        }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn alive(pid: u32) -> bool {
    // A zombie still answers signal 0, but it is no running process.
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = state
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('Z'));
    kill(Pid::from_raw(pid as i32), None) != Err(Errno::ESRCH) && !zombie
}

fn pid_in(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[tokio::test]
async fn a_killed_service_comes_back() {
    let launcher = Launcher::start(wrapped()).unwrap();
    let mut events = launcher.events();
    launcher.run(shell("sleeper", "exec sleep 600")).unwrap();
    let first = started(&mut events).await;
    kill(Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
    let exited = next(&mut events).await.what;
    assert_eq!(
        exited,
        What::Exited {
            pid: first,
            exit: Exit::Signal(9),
            asked: false
        }
    );
    assert!(matches!(
        next(&mut events).await.what,
        What::Restarting { attempt: 1, .. }
    ));
    let second = started(&mut events).await;
    let status = launcher.instances();
    assert_eq!(
        (status[0].phase, status[0].pid),
        (Phase::Running, Some(second))
    );
    assert_eq!(status[0].restarts, 1);
    launcher.shutdown().await;
    assert!(!alive(first) && !alive(second));
}

#[tokio::test]
async fn a_service_that_never_starts_is_given_up() {
    let launcher = Launcher::start(wrapped()).unwrap();
    let mut events = launcher.events();
    let mut spec = shell("broken", "exit 3");
    spec.program = "/no/such/program".into();
    spec.restart.give_up_after = Some(3);
    launcher.run(spec).unwrap();
    let mut exits = 0;
    loop {
        match next(&mut events).await.what {
            What::Exited { exit, .. } => {
                // What `role_child` leaves with when `run_child` came back.
                assert_eq!(exit, Exit::Code(1));
                exits += 1;
            }
            What::GaveUp => break,
            _ => {}
        }
    }
    assert_eq!(exits, 3);
    assert_eq!(launcher.instances()[0].phase, Phase::GaveUp);
    launcher.shutdown().await;
}

#[tokio::test]
async fn a_parent_killed_with_9_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "role_parent"])
        .env("SINEW_TEST_FOLDER", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let files: Vec<_> = (1..=3)
        .map(|n| folder.path().join(format!("sleeper-{n}.pid")))
        .collect();
    until("three children", || {
        files.iter().all(|file| pid_in(file).is_some())
    })
    .await;
    let pids: Vec<u32> = files.iter().filter_map(|file| pid_in(file)).collect();
    assert!(pids.iter().all(|pid| alive(*pid)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("no child", || !pids.iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn a_child_whose_parent_is_gone_does_not_begin() {
    let this = std::env::current_exe().unwrap();
    let status = Command::new(this)
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "--",
            "role_child",
            "/bin/true",
        ])
        // The launcher that started this one is not its parent any more.
        .env("SINEW_PARENT_PID", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1), "it became /bin/true");
}

#[tokio::test]
async fn services_are_drained_in_reverse_order_each_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = Launcher::start(plain()).unwrap();
    let script = "trap 'echo $SINEW_SERVICE begins >> $FOLDER/log; sleep 0.2; echo $SINEW_SERVICE ends >> $FOLDER/log; exit 0' TERM; \
                  touch $FOLDER/$SINEW_SERVICE.ready; while :; do sleep 0.05; done";
    for name in ["below", "above"] {
        launcher
            .run(shell(name, script).env("FOLDER", folder.path()))
            .unwrap();
        until("ready", || {
            folder.path().join(format!("{name}.ready")).exists()
        })
        .await;
    }
    let stopped = launcher.shutdown().await;
    assert_eq!((stopped.killed.len(), stopped.survivors.len()), (0, 0));
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log, "above begins\nabove ends\nbelow begins\nbelow ends\n");
    assert_eq!(
        launcher.run(shell("late", "true")).unwrap_err().code(),
        "launcher.stopped"
    );
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_with_all_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = Launcher::start(wrapped()).unwrap();
    let script = "trap '' TERM; sh -c 'echo $$ > $FOLDER/grandchild; while :; do sleep 1; done' & \
                  echo $$ > $FOLDER/child; while :; do sleep 1; done";
    let spec = ServiceSpec {
        grace: Duration::from_millis(200),
        ..shell("stubborn", script)
    };
    launcher.run(spec.env("FOLDER", folder.path())).unwrap();
    let files = ["child", "grandchild"].map(|name| folder.path().join(name));
    until("both run", || {
        files.iter().all(|file| pid_in(file).is_some())
    })
    .await;
    let pids = files.map(|file| pid_in(&file).unwrap());
    let stopped = launcher.shutdown().await;
    assert_eq!(
        stopped
            .killed
            .iter()
            .map(|id| id.as_str())
            .collect::<Vec<_>>(),
        ["stubborn-1"]
    );
    assert!(stopped.survivors.is_empty());
    until("both gone", || !pids.iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn what_a_dead_service_had_started_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = Launcher::start(plain()).unwrap();
    let mut events = launcher.events();
    let script = "sleep 600 & echo $! > $FOLDER/grandchild; while :; do sleep 1; done";
    launcher
        .run(shell("leaver", script).env("FOLDER", folder.path()))
        .unwrap();
    let file = folder.path().join("grandchild");
    until("it runs", || pid_in(&file).is_some()).await;
    let grandchild = pid_in(&file).unwrap();
    let pid = started(&mut events).await;
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    until("it is gone", || !alive(grandchild)).await;
    launcher.shutdown().await;
}

#[tokio::test]
async fn output_and_environment_reach_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    let options = Options {
        logs: Logs::files(&logs),
        ..wrapped()
    };
    let launcher = Launcher::start(options).unwrap();
    let script = "echo out $SINEW_SERVICE $SINEW_INSTANCE $PORT $EXTRA $SINEW_PARENT_PID; echo err $SINEW_DATA >&2; \
                  touch $SINEW_DATA/$SINEW_INSTANCE; exec sleep 600";
    let data = folder.path().join("data");
    let mut spec = shell("speaker", script).env("EXTRA", "x").env("PORT", "7");
    spec.data = Some(data.clone());
    spec.replicas = 2;
    launcher.run(spec.clone()).unwrap();
    assert_eq!(
        launcher.run(spec).unwrap_err().code(),
        "launcher.service_exists"
    );
    until("both spoke", || {
        ["speaker-1", "speaker-2"]
            .iter()
            .all(|id| data.join(id).exists())
    })
    .await;
    launcher.shutdown().await;
    let text = fs::read_to_string(logs.join("speaker-2.log")).unwrap();
    let parent = std::process::id();
    assert!(
        text.contains(&format!("out speaker speaker-2 7 x {parent}\n")),
        "{text}"
    );
    assert!(
        text.contains(&format!("err {}\n", data.display())),
        "{text}"
    );
}
