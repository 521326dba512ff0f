use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use nix::unistd::{Pid, getppid};

/// The variable that carries the launcher's process id to its children.
pub(crate) const PARENT_PID: &str = "SINEW_PARENT_PID";

/// The last step between the launcher and a service, run in the new process: ties this process's
/// life to its parent's and becomes `program_and_args`. Returns only when that fails, with the exit
/// code to leave with: 127 when there is no such program, 126 when it cannot be run, 75 when the
/// parent was gone already.
pub fn run_child(program_and_args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = program_and_args.into_iter();
    let Some(program) = words.next() else {
        eprintln!("run-child: no program was named");
        return ExitCode::from(2);
    };
    if let Err(error) = die_with_parent() {
        eprintln!("run-child: cannot tie this process to its parent: {error}");
        return ExitCode::from(126);
    }
    // The parent may have died before the kernel was asked; then nobody would ever kill this process.
    let expected = std::env::var(PARENT_PID)
        .ok()
        .and_then(|pid| pid.parse().ok());
    if let Some(expected) = expected
        && getppid() != Pid::from_raw(expected)
    {
        eprintln!("run-child: the parent, process {expected}, is gone");
        return ExitCode::from(75);
    }
    let error = Command::new(&program).args(words).exec();
    eprintln!("run-child: cannot run {}: {error}", program.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    })
}

#[cfg(target_os = "linux")]
fn die_with_parent() -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
}

/// Other systems have no such signal: there, children outlive a parent that is killed with -9.
#[cfg(not(target_os = "linux"))]
fn die_with_parent() -> nix::Result<()> {
    Ok(())
}
