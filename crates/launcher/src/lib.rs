//! Runs a team's services as processes: starts them, watches them, restarts them when they fall,
//! drains them on the way out, and leaves no orphan behind.
//!
//! ```text
//! Launcher ── spawner (one thread that lives as long as the launcher; every child is its child)
//!    └─ one task per instance:  start → running → exited → wait (backoff) → start …
//!                                          └─ stop: SIGTERM → grace → SIGKILL, to the whole group
//! ```
//!
//! **No orphans.** Each child is started as `<wrapper> program args…`, where the wrapper is this
//! executable's hidden subcommand that calls [`run_child`]. It asks the kernel to kill it when its
//! parent dies (`PR_SET_PDEATHSIG`, which survives `exec`), makes sure that the parent is still there,
//! and becomes the program. So even `kill -9` of the parent takes the children with it. The kernel
//! sends that signal when the *thread* that made the child ends, not the process: hence the one
//! spawner thread. It reaches direct children only; what these started in turn is ended through
//! their process group while the launcher lives.
//!
//! **Ctrl-C.** Each child leads its own process group, so the terminal's interrupt reaches the
//! launcher alone, which then drains in its own order.

mod child;
mod event;
mod instance;
mod launcher;
mod logs;
mod restart;
mod spawner;
mod spec;

pub use child::run_child;
pub use event::{Event, Exit, InstanceStatus, Phase, What};
pub use launcher::{Launcher, Stopped};
pub use logs::Logs;
pub use restart::RestartPolicy;
pub use spec::{Options, ServiceSpec};
