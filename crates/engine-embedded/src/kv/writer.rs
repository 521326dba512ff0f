use std::{path::PathBuf, sync::Arc, time::Duration};

use sinew_core::{Error, Kind, Result};
use sinew_engine::kv::LeaseId;
use tokio::{
    runtime::{self, Runtime},
    sync::mpsc,
};

use super::{
    Options, Shared,
    change::Commit,
    command::{Answer, Command, Request},
    store::{Head, Store, StoreError, disk_full},
    transaction::Group,
    unavailable,
};

/// Commands that are taken from the queue at once.
const MOST_COMMANDS: usize = 1024;
/// A group ends when its commands have reached this size, so that none waits for very many bytes.
const GROUP_BYTES: usize = 4 << 20;
/// After a failure, the time until the next attempt to open the store or to end leases.
const RETRY: Duration = Duration::from_secs(1);
/// With nothing to wait for, the writer looks around after this.
const IDLE: Duration = Duration::from_secs(3600);
/// Commits of the history that trimming takes in one go, at least.
const TRIM: u64 = 256;

/// The one thread that writes. It takes what waits in the queue, applies it as one group, writes it
/// with one fsync, tells the watchers, and answers. What arrives meanwhile is the next group.
pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
    dir: PathBuf,
    options: Options,
    /// After a failure: not before this moment again.
    retry_at: Duration,
    /// Set when the store shall be closed; then the answers are due.
    closing: Vec<Answer<()>>,
}

/// What a group comes to, if it is written.
#[derive(Default)]
struct Written {
    /// The head before, so that the fate of the group can be told after a failure.
    before: Option<Head>,
    head: Head,
    commits: Vec<Commit>,
    ended: Vec<LeaseId>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Command>,
        dir: PathBuf,
        options: Options,
    ) -> Self {
        Self {
            shared,
            queue,
            dir,
            options,
            retry_at: Duration::ZERO,
            closing: Vec::new(),
        }
    }

    /// What the writer waits with: for the queue, and for time to pass.
    pub(super) fn runtime() -> Result<Runtime> {
        runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| unavailable("the writer could not start").with_source(error))
    }

    /// Works until the store is closed or nobody is left who could ask.
    pub(super) fn run(mut self, runtime: &Runtime) {
        let mut commands = Vec::new();
        while self.closing.is_empty() {
            let wait = self.wait();
            let open = runtime.block_on(async {
                tokio::select! {
                    biased;
                    count = self.queue.recv_many(&mut commands, MOST_COMMANDS) => count > 0,
                    () = self.shared.clock.sleep(wait) => true,
                }
            });
            if !open {
                return;
            }
            self.turn(&mut commands);
        }
    }

    /// How long to wait for commands, at most.
    fn wait(&self) -> Duration {
        let next = if self.is_broken() {
            self.retry_at
        } else {
            let deadline = self.shared.leases.next_deadline();
            deadline.map_or(Duration::MAX, |deadline| deadline.max(self.retry_at))
        };
        next.saturating_sub(self.shared.clock.monotonic()).min(IDLE)
    }

    fn turn(&mut self, commands: &mut Vec<Command>) {
        let mut commands = self.control(commands);
        let now = self.shared.clock.monotonic();
        if self.is_broken() && now >= self.retry_at {
            self.open_again();
        }
        if self.is_broken() {
            return refuse(commands, &unavailable("the store's disk does not work"));
        }
        if self.is_nearly_full() {
            self.retry_at = now + RETRY;
            return refuse(commands, &disk_full());
        }
        let mut due = if now >= self.retry_at {
            self.shared.leases.due(now)
        } else {
            Vec::new()
        };
        while !commands.is_empty() || !due.is_empty() {
            let mut bytes = 0;
            let fits = commands.iter().take_while(|command| {
                let fits = bytes < GROUP_BYTES;
                bytes += command.bytes;
                fits
            });
            let rest = commands.split_off(fits.count());
            self.write_group(std::mem::take(&mut due), commands);
            commands = rest;
        }
    }

    /// Takes out what is not for the file.
    fn control(&mut self, commands: &mut Vec<Command>) -> Vec<Command> {
        let mut rest = Vec::with_capacity(commands.len());
        for command in commands.drain(..) {
            match command.request {
                Request::Close(answer) => self.closing.push(answer),
                Request::Reopen if self.shared.clock.monotonic() >= self.retry_at => {
                    self.shared.set_store(None);
                }
                Request::Reopen => {}
                _ => rest.push(command),
            }
        }
        rest
    }

    fn write_group(&mut self, due: Vec<LeaseId>, mut group: Vec<Command>) {
        let mut written = Written::default();
        let result = match &*self.shared.store() {
            Some(store) => apply(store, &self.shared, due, &mut group, &mut written),
            None => Err(StoreError(unavailable("the store's disk does not work"))),
        };
        if let Err(StoreError(error)) = result
            && !self.was_written_after_all(&error, &written)
        {
            self.retry_at = self.shared.clock.monotonic() + RETRY;
            return refuse(group, &error);
        }
        let (head, grown) = (written.head, written.commits.len() as u64);
        self.settle(written, &group);
        for command in group {
            command.request.send();
        }
        self.trim(head, grown);
    }

    /// Makes known what is on stable storage now. Only then may anybody be answered.
    fn settle(&self, written: Written, group: &[Command]) {
        let now = self.shared.clock.monotonic();
        for lease in written.ended {
            self.shared.leases.ended(lease);
        }
        for command in group {
            if let Request::Grant { ttl, answer } = &command.request
                && let Some(lease) = answer.prepared()
            {
                self.shared.leases.granted(*lease, *ttl, now);
            }
        }
        self.shared
            .feed
            .publish(written.commits, self.options.recent);
    }

    /// Keeps the history within its bounds, in strokes and without an fsync: should the machine crash
    /// now, a little more of the past is known afterwards.
    fn trim(&mut self, head: Head, grown: u64) {
        let keep = self.options.retention;
        let (commits, bytes) = (keep.commits as u64, keep.bytes as u64);
        if head.history_commits() <= commits.saturating_add(commits / 16)
            && head.history_bytes <= bytes.saturating_add(bytes / 16)
        {
            return;
        }
        let trimmed = match &*self.shared.store() {
            Some(store) => store.write(false, |tables| {
                for _ in 0..TRIM.max(2 * grown) {
                    let head = &tables.head;
                    if head.history_commits() <= commits && head.history_bytes <= bytes {
                        break;
                    }
                    tables.forget_oldest()?;
                }
                Ok(())
            }),
            None => Ok(()),
        };
        if let Err(StoreError(error)) = trimmed {
            tracing::warn!(
                error = error.detail(),
                "the store's history could not be trimmed"
            );
            self.open_again();
        }
    }

    /// A failed store answers nothing more until it is opened anew. That also shows whether the group
    /// has become part of it.
    fn was_written_after_all(&mut self, error: &Error, written: &Written) -> bool {
        tracing::warn!(
            error = error.detail(),
            "a write to the store failed; it is opened anew"
        );
        self.open_again();
        let head = self
            .shared
            .store()
            .as_ref()
            .and_then(|store| store.head().ok());
        match (written.before, head) {
            (Some(before), Some(now)) => now.group > before.group,
            _ => false,
        }
    }

    fn open_again(&mut self) {
        // The old one must have let go of the file.
        self.shared.set_store(None);
        let opened = Store::open(&self.dir, &self.options).and_then(|store| {
            let (head, leases) = (store.head()?, store.leases()?);
            Ok((store, head, leases))
        });
        match opened {
            Ok((store, head, leases)) => {
                self.shared
                    .leases
                    .replace(leases, self.shared.clock.monotonic());
                self.shared.feed.restart(head.revision);
                self.shared.set_store(Some(store));
                tracing::info!(revision = head.revision, "the store was opened anew");
            }
            Err(StoreError(error)) => {
                self.retry_at = self.shared.clock.monotonic() + RETRY;
                tracing::error!(error = error.detail(), "the store could not be opened anew");
            }
        }
    }

    fn is_broken(&self) -> bool {
        self.shared.store().is_none()
    }

    /// Whether there is so little space left that a group might not find enough. If the file system
    /// does not tell, the write itself will.
    fn is_nearly_full(&self) -> bool {
        // The types of the two numbers differ between systems.
        let free = nix::sys::statvfs::statvfs(&self.dir)
            .map(|stat| u128::from(stat.blocks_available()) * u128::from(stat.fragment_size()));
        free.is_ok_and(|free| free < u128::from(self.options.reserve_bytes))
    }
}

impl Drop for Writer {
    /// However the writer ends, nobody waits for it in vain.
    fn drop(&mut self) {
        self.shared.feed.close();
        self.shared.set_store(None);
        for mut answer in self.closing.drain(..) {
            answer.prepare(Ok(()));
            answer.send();
        }
    }
}

/// Applies the leases that are due and then the commands, and writes it all.
fn apply(
    store: &Store,
    shared: &Shared,
    due: Vec<LeaseId>,
    commands: &mut [Command],
    written: &mut Written,
) -> Result<(), StoreError> {
    store.write(true, |tables| {
        written.before = Some(tables.head);
        let mut group = Group::new(tables, &shared.feed);
        for lease in due {
            // One that the file does not know any more has ended, too.
            let _known = group.end(lease)?;
            written.ended.push(lease);
        }
        for command in commands {
            match &mut command.request {
                Request::Commit {
                    conditions,
                    writes,
                    answer,
                } => {
                    answer.prepare(group.commit(conditions, writes)?);
                }
                Request::Grant { ttl, answer } => answer.prepare(Ok(group.grant(*ttl)?)),
                Request::Revoke { lease, answer } => {
                    answer.prepare(group.end(*lease)?);
                    written.ended.push(*lease);
                }
                Request::Compact { revision, answer } => answer.prepare(group.compact(*revision)?),
                Request::Reopen | Request::Close(_) => {}
            }
        }
        (written.head, written.commits) = group.finish();
        Ok(())
    })
}

/// Answers a failure to everybody. What failed before its fsync was not written; for what the store
/// cannot tell, the kind is Unavailable.
fn refuse(commands: Vec<Command>, error: &Error) {
    for command in commands {
        command.request.refuse(match error.kind() {
            Kind::ResourceExhausted => disk_full(),
            _ => unavailable(error.message()),
        });
    }
}
