//! From memory to files: messages into those of their topics, all else into the tables, off the
//! commit thread. Then memory and the log are let go.
//!
//! What a checkpoint takes is fixed in a moment on the commit thread ([`State::capture`]), at the
//! end of a record; a failed one is tried again with the same, so nothing is ever half in it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use sinew_core::{Backoff, Result, Timestamp};

use super::{
    Shared,
    command::Answer,
    fault,
    files::{Place, Segment},
    message::Stored,
    state::State,
    tables::{Changes, GroupRow, View},
    topic::{FIRST_DUE, cost_of_ids, cost_of_schedule},
};
use crate::{journal::Hold, log::Sequence};

/// What one checkpoint takes.
pub(super) struct Job {
    changes: Changes,
    appends: Vec<Append>,
    /// Files that no row names any more when the changes are in the tables.
    unlink: Vec<(Place, u64)>,
}

/// Messages for the files of a partition.
struct Append {
    place: Place,
    last: Option<Segment>,
    from: u64,
    messages: Vec<Stored>,
    segment_bytes: u64,
}

pub(super) struct Request {
    pub(super) job: Job,
    pub(super) answers: Vec<Answer<()>>,
}

/// The thread that makes checkpoints, one at a time.
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    jobs: Option<mpsc::SyncSender<Request>>,
    is_busy: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(shared: Arc<Shared>, hold: Hold) -> Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Request>(1);
        let is_busy = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            shared: Arc::clone(&shared),
            hold,
            is_busy: Arc::clone(&is_busy),
        };
        let thread = thread::Builder::new()
            .name("bus-checkpoint".to_owned())
            .spawn(move || worker.run(&queue))
            .map_err(|cause| {
                fault::unavailable("the checkpoint thread could not start").with_source(cause)
            })?;
        Ok(Self {
            shared,
            jobs: Some(jobs),
            is_busy,
            thread: Some(thread),
        })
    }

    /// Whether one should be taken now.
    pub(super) fn is_wanted(&self, state: &State, asked: &[Answer<()>]) -> bool {
        if self.is_busy.load(Ordering::Acquire) {
            return false;
        }
        let options = &self.shared.options;
        let is_large = || state.memory.load(Ordering::Relaxed) >= options.checkpoint_bytes();
        let is_old = |since: Duration| {
            self.shared.clock.monotonic() >= since.saturating_add(options.checkpoint_after)
        };
        !asked.is_empty()
            || state
                .dirty_since
                .is_some_and(|since| is_large() || is_old(since))
    }

    /// When one is due for its age.
    pub(super) fn deadline(&self, state: &State) -> Option<Duration> {
        if self.is_busy.load(Ordering::Acquire) {
            return None;
        }
        let after = self.shared.options.checkpoint_after;
        state.dirty_since.map(|since| since.saturating_add(after))
    }

    pub(super) fn ask(&self, request: Request) {
        self.is_busy.store(true, Ordering::Release);
        // The thread lives as long as this, and takes no other job before it is done.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(request);
        }
    }

    /// Waits for what is being written. What was not captured stays in the log.
    pub(super) fn end(&mut self) {
        self.shared.is_ending.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    hold: Hold,
    is_busy: Arc<AtomicBool>,
}

impl Worker {
    fn run(&self, queue: &mpsc::Receiver<Request>) {
        while let Ok(request) = queue.recv() {
            let is_done = self.make(&request.job);
            self.is_busy.store(false, Ordering::Release);
            for answer in request.answers {
                let result = if is_done {
                    Ok(())
                } else {
                    Err(fault::closed())
                };
                let _ = answer.send(result);
            }
            self.shared.nudge();
        }
    }

    /// Tells whether it was made; it was not when the bus is closed while the disk fails.
    fn make(&self, job: &Job) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            match self.attempt(job) {
                Ok(()) => return true,
                Err(error) => tracing::warn!(
                    error = error.detail(),
                    "a checkpoint of the bus failed; it is tried again, and the log keeps it all"
                ),
            }
            let mut left = backoff.next_delay();
            while !left.is_zero() {
                if self.shared.is_ending.load(Ordering::Acquire) {
                    return false;
                }
                let step = left.min(Duration::from_millis(50));
                thread::sleep(step);
                left -= step;
            }
        }
    }

    fn attempt(&self, job: &Job) -> Result<()> {
        let Shared { files, tables, .. } = &*self.shared;
        let mut written = Vec::new();
        for append in &job.appends {
            let messages = append.messages.iter().cloned();
            let segments = files.append(
                append.place,
                append.last,
                append.from,
                messages,
                append.segment_bytes,
            )?;
            written.extend(segments.into_iter().map(|segment| (append.place, segment)));
        }
        if !written.is_empty() {
            files.sync_folder()?;
        }
        tables.apply(&job.changes, &written)?;
        let view = tables.view()?;
        let mut state = self.shared.state.lock();
        state.finish(job, &written, view);
        drop(state);
        for (place, first) in &job.unlink {
            // What stays is removed at the next opening.
            if let Err(error) = files.remove(*place, *first) {
                tracing::warn!(error = error.detail(), "an old file of a topic stays");
            }
        }
        if let Err(error) = self.hold.let_go(job.changes.next) {
            tracing::warn!(error = error.detail(), "the log keeps old records");
        }
        Ok(())
    }
}

impl State {
    /// Fixes what the next checkpoint takes: everything before record `next`.
    pub(super) fn capture(&mut self, next: Sequence, shared: &Shared) -> Job {
        let now = shared.now();
        let mut job = Job {
            changes: Changes {
                next,
                last_id: self.last_id,
                deleted_topics: std::mem::take(&mut self.deleted_topics),
                deleted_groups: std::mem::take(&mut self.deleted_groups),
                ..Changes::default()
            },
            appends: Vec::new(),
            unlink: std::mem::take(&mut self.doomed),
        };
        self.dirty_since = None;
        let changes = &mut job.changes;
        for topic in self.topics.values_mut() {
            for (id, member) in &mut topic.groups {
                if std::mem::take(&mut member.is_dirty) {
                    let row = GroupRow {
                        name: member.name.clone(),
                        config: member.config.clone(),
                        snapshot: member.machine.snapshot(now.monotonic),
                    };
                    changes.groups.push((topic.id, *id, row));
                }
            }
            if !std::mem::take(&mut topic.is_dirty) {
                continue;
            }
            changes.topics.push((topic.id, topic.row()));
            let segment_bytes = segment_bytes(topic.config.retention.bytes, shared);
            let id = topic.id;
            for (partition, log) in (0..).zip(&mut topic.partitions) {
                let place = Place {
                    topic: id,
                    partition,
                };
                while let Some(segment) = log
                    .segments
                    .pop_front_if(|segment| segment.end <= log.edges.first)
                {
                    changes.removed_segments.push((place, segment.first));
                    job.unlink.push((place, segment.first));
                }
                let messages: Vec<Stored> = log.head.iter().cloned().collect();
                if !messages.is_empty() {
                    job.appends.push(Append {
                        place,
                        last: log.segments.back().copied(),
                        from: log.head_start,
                        messages,
                        segment_bytes,
                    });
                }
            }
            if !topic.schedule.fresh.is_empty() {
                topic.schedule.frozen = Arc::new(std::mem::take(&mut topic.schedule.fresh));
                let layer = Arc::clone(&topic.schedule.frozen);
                changes.schedule.push((topic.id, layer));
            }
            let window = topic.config.deduplication;
            let forget = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
            let forget = Timestamp(now.wall.0.saturating_sub(forget));
            topic.ids.frozen = Arc::new(std::mem::take(&mut topic.ids.fresh));
            if !topic.ids.frozen.is_empty() || topic.ids_filed > Timestamp(0) {
                let layer = Arc::clone(&topic.ids.frozen);
                changes.ids.push((topic.id, layer, forget));
            }
        }
        job
    }

    /// What was captured is in files: memory lets go of it.
    fn finish(&mut self, job: &Job, written: &[(Place, Segment)], view: View) {
        self.view = Arc::new(view);
        self.next = job.changes.next;
        let mut freed = 0;
        for (place, segment) in written {
            let topic = self.topics.get_mut(&place.topic);
            let log = topic.and_then(|topic| topic.partitions.get_mut(place.partition as usize));
            let Some(log) = log else {
                // Deleted meanwhile; the tables name the file until the next checkpoint.
                self.doomed.push((*place, segment.first));
                continue;
            };
            log.segments.pop_back_if(|last| last.first == segment.first);
            log.segments.push_back(*segment);
            freed += log.drop_head(segment.end);
        }
        for (id, layer) in &job.changes.schedule {
            if let Some(topic) = self.topics.get_mut(id) {
                freed += cost_of_schedule(layer);
                topic.schedule.frozen = Arc::default();
                topic.due_from = FIRST_DUE;
            }
        }
        for (id, layer, forget) in &job.changes.ids {
            if let Some(topic) = self.topics.get_mut(id) {
                freed += cost_of_ids(layer);
                let newest = layer.values().max().copied().unwrap_or_default();
                topic.ids_filed = topic.ids_filed.max(newest);
                if topic.ids_filed <= *forget {
                    topic.ids_filed = Timestamp(0);
                }
                topic.ids.frozen = Arc::default();
            }
        }
        self.memory.fetch_sub(freed, Ordering::Relaxed);
    }
}

/// Segments of topics that keep little are small, so that they go soon.
fn segment_bytes(keeps: Option<u64>, shared: &Shared) -> u64 {
    let most = shared.options.segment_bytes;
    keeps.map_or(most, |keeps| {
        (keeps / 16).clamp(64 << 10, most.max(64 << 10))
    })
}
