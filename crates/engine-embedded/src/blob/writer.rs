//! The one thread that changes the index. It takes what waits, makes one transaction of it, and
//! answers everybody when that is durable: many changes share one fsync.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use parking_lot::Mutex;
use sinew_core::{Error, Result, Timestamp};
use sinew_engine::blob::{Attributes, Key, Object, OnlyIf, Part, Upload, unknown};
use tokio::sync::{mpsc, oneshot};

use super::{
    content::Content,
    fault,
    files::Files,
    index::{Index, Tables},
    record::{PartRecord, Segment, Stamp, UploadRecord},
};
use crate::storage::to_usize;

/// Changes that wait, at most; more wait outside.
const QUEUE: usize = 1024;
/// Changes in one transaction, at most.
const GROUP: usize = 256;

type Reply<T> = oneshot::Sender<Result<T>>;

/// One change of the index.
pub(super) enum Command {
    Put {
        object: Object,
        content: Content,
        only_if: OnlyIf,
        reply: Reply<Object>,
    },
    Delete {
        key: Key,
        reply: Reply<()>,
    },
    Copy {
        from: Key,
        to: Key,
        attributes: Option<Attributes>,
        only_if: OnlyIf,
        stamp: Stamp,
        reply: Reply<Object>,
    },
    Begin {
        upload: Upload,
        begun: Timestamp,
        attributes: Attributes,
        reply: Reply<Upload>,
    },
    Part {
        upload: Upload,
        part: Part,
        content: Content,
        reply: Reply<Part>,
    },
    Complete {
        upload: Upload,
        parts: Vec<(u32, String)>,
        only_if: OnlyIf,
        stamp: Stamp,
        reply: Reply<Object>,
    },
    Abort {
        upload: Upload,
        reply: Reply<()>,
    },
    /// The last one.
    Close {
        reply: Reply<()>,
    },
}

pub(super) struct Writer {
    queue: mpsc::Sender<Command>,
    index: Arc<Index>,
    answer_timeout: Duration,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(index: Arc<Index>, files: Arc<Files>, answer_timeout: Duration) -> Self {
        let (queue, commands) = mpsc::channel(QUEUE);
        let work = Work {
            index: index.clone(),
            files,
        };
        let thread = std::thread::Builder::new()
            .name("blob-index".to_owned())
            .spawn(move || work.run(commands))
            .map_err(|error| tracing::error!(%error, "the thread of the blob index cannot start"))
            .ok();
        Self {
            queue,
            index,
            answer_timeout,
            thread: Mutex::new(thread),
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.queue.is_closed() {
            Err(fault::closed())
        } else {
            Ok(())
        }
    }

    pub(super) async fn run<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.queue
                .send(command(reply))
                .await
                .map_err(|_| fault::closed())?;
            answer
                .await
                .unwrap_or_else(|error| Err(fault::stopped(error)))
        };
        let answered = tokio::time::timeout(self.answer_timeout, asked).await;
        answered.unwrap_or_else(|_| Err(fault::timeout()))
    }

    pub(super) async fn close(&self) -> Result<()> {
        self.run(|reply| Command::Close { reply }).await?;
        self.index.close();
        Ok(())
    }
}

impl Drop for Writer {
    /// Waits until what was begun is done, so that nobody writes any more when the folder is opened anew.
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.queue = closed;
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    index: Arc<Index>,
    files: Arc<Files>,
}

impl Work {
    fn run(self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(command) = commands.try_recv()
            {
                group.push(command);
            }
            let closing = group
                .iter()
                .position(|command| matches!(command, Command::Close { .. }))
                .map(|at| group.split_off(at));
            self.commit(group);
            if let Some(rest) = closing {
                // Nobody can ask for more; what waits behind finds the store closed.
                commands.close();
                let finished = self.finish();
                if let Some(Command::Close { reply }) = rest.into_iter().next() {
                    let _ = reply.send(finished);
                }
                return;
            }
        }
        if let Err(error) = self.finish() {
            tracing::warn!(error = %error.detail(), "the blob store was not closed cleanly");
        }
    }

    /// Marks the end of the run, unless files are left that the next one must look for.
    fn finish(&self) -> Result<()> {
        if self.files.settle()? {
            self.index.finish()
        } else {
            Ok(())
        }
    }

    fn commit(&self, group: Vec<Command>) {
        if group.is_empty() {
            return;
        }
        let mut applied = Vec::with_capacity(group.len());
        let mut number = None;
        let mut waiting = group.into_iter();
        // A broken index gets another chance with every group.
        let opened = if self.index.is_open() {
            Ok(())
        } else {
            self.index.reopen()
        };
        let written = opened.and_then(|()| {
            self.index.write(|tables| {
                number = Some(tables.name_group()?);
                let mut failed = Ok(());
                for command in waiting.by_ref() {
                    let (fate, finish) = apply(tables, command);
                    applied.push(finish);
                    failed = failed.and(fate);
                }
                failed.map(|()| std::mem::take(&mut tables.freed))
            })
        });
        match written {
            Ok(freed) => {
                applied.into_iter().for_each(|finish| finish(&Fate::Done));
                self.files.release(freed);
            }
            Err(error) => {
                waiting.for_each(|command| refuse(command, &error));
                let fate = self.look_up(number, error);
                applied.into_iter().for_each(|finish| finish(&fate));
            }
        }
    }

    /// What became of a group whose commit failed: the file on disk tells.
    fn look_up(&self, number: Option<u64>, error: Error) -> Fate {
        tracing::warn!(error = %error.detail(), "a write to the blob index failed");
        let newest = self.index.reopen().and_then(|()| self.index.group());
        match (newest, number) {
            (Ok(newest), Some(number)) if newest >= number => {
                // It freed files that nobody removes now.
                self.files.leave_untidy();
                Fate::Done
            }
            (Ok(_), _) | (Err(_), None) => Fate::Failed(error),
            (Err(_), Some(_)) => {
                self.files.leave_untidy();
                Fate::Unknown(error)
            }
        }
    }
}

/// What became of a group of changes.
enum Fate {
    Done,
    Failed(Error),
    /// It happened or not, and the disk does not tell: no file that it names may go.
    Unknown(Error),
}

/// Answers the one who asked, when the fate of the group is known.
type Finish = Box<dyn FnOnce(&Fate)>;

/// Changes the tables as a command says. The first answer is an error when the index failed, not when
/// the command was refused.
fn apply(tables: &mut Tables<'_>, command: Command) -> (Result<()>, Finish) {
    match command {
        Command::Put {
            object,
            mut content,
            only_if,
            reply,
        } => {
            let segments = content.segment().into_iter().collect();
            let done = tables.publish(object, segments, only_if);
            finish(done, reply, move || content.keep())
        }
        Command::Delete { key, reply } => finish(tables.delete(&key), reply, || ()),
        Command::Copy {
            from,
            to,
            attributes,
            only_if,
            stamp,
            reply,
        } => finish(
            copy(tables, &from, to, attributes, only_if, stamp),
            reply,
            || (),
        ),
        Command::Begin {
            upload,
            begun,
            attributes,
            reply,
        } => {
            let record = UploadRecord { begun, attributes };
            finish(
                tables.begin(&upload, &record).map(|()| upload),
                reply,
                || (),
            )
        }
        Command::Part {
            upload,
            part,
            mut content,
            reply,
        } => {
            let record = PartRecord {
                part,
                segment: content.segment(),
            };
            let done = tables.put_part(&upload, &record).map(|()| record.part);
            finish(done, reply, move || content.keep())
        }
        Command::Complete {
            upload,
            parts,
            only_if,
            stamp,
            reply,
        } => finish(
            complete(tables, &upload, &parts, only_if, stamp),
            reply,
            || (),
        ),
        Command::Abort { upload, reply } => finish(tables.drop_upload(&upload), reply, || ()),
        Command::Close { reply } => finish(Ok(()), reply, || ()),
    }
}

fn finish<T: 'static>(
    done: Result<T>,
    reply: Reply<T>,
    keep: impl FnOnce() + 'static,
) -> (Result<()>, Finish) {
    // Only what the machine did fails the whole group.
    let failed = done
        .as_ref()
        .err()
        .filter(|error| is_machine(error))
        .map(again);
    let finish = Box::new(move |fate: &Fate| {
        let answer = match fate {
            Fate::Done => done.inspect(|_| keep()),
            Fate::Failed(error) => Err(again(error)),
            Fate::Unknown(error) => {
                keep();
                Err(again(error))
            }
        };
        let _ = reply.send(answer);
    });
    (failed.map_or(Ok(()), Err), finish)
}

/// Answers a command that was not even tried.
fn refuse(command: Command, error: &Error) {
    fn answer<T>(reply: Reply<T>, error: &Error) {
        let _ = reply.send(Err(again(error)));
    }
    match command {
        Command::Put { reply, .. }
        | Command::Copy { reply, .. }
        | Command::Complete { reply, .. } => answer(reply, error),
        Command::Delete { reply, .. } | Command::Abort { reply, .. } | Command::Close { reply } => {
            answer(reply, error)
        }
        Command::Begin { reply, .. } => answer(reply, error),
        Command::Part { reply, .. } => answer(reply, error),
    }
}

fn is_machine(error: &Error) -> bool {
    matches!(
        error.code(),
        "blob.full" | "blob.unavailable" | "blob.index_damaged"
    )
}

/// The same error for another caller.
fn again(error: &Error) -> Error {
    match error.code() {
        "blob.full" => fault::disk(std::io::ErrorKind::StorageFull.into()),
        "blob.index_damaged" => fault::malformed(error.message()),
        _ => fault::unavailable(error.message()),
    }
    .with_context(error.detail())
}

fn copy(
    tables: &mut Tables<'_>,
    from: &Key,
    to: Key,
    attributes: Option<Attributes>,
    only_if: OnlyIf,
    stamp: Stamp,
) -> Result<Object> {
    let record = tables.object(from)?.ok_or_else(|| unknown(from))?;
    let object = Object {
        key: to,
        tag: stamp.tag,
        modified: stamp.now,
        attributes: attributes.unwrap_or(record.object.attributes),
        ..record.object
    };
    tables.publish(object, record.segments, only_if)
}

fn complete(
    tables: &mut Tables<'_>,
    upload: &Upload,
    parts: &[(u32, String)],
    only_if: OnlyIf,
    stamp: Stamp,
) -> Result<Object> {
    let (record, parts) = tables.assemble(upload, parts)?;
    let (mut size, mut checksum) = (0, 0);
    for PartRecord { part, .. } in &parts {
        size += part.size;
        checksum = crc32c::crc32c_combine(checksum, part.checksum, to_usize(part.size));
    }
    let object = Object {
        key: upload.key.clone(),
        size,
        checksum,
        tag: stamp.tag,
        modified: stamp.now,
        attributes: record.attributes,
    };
    let segments: Vec<Segment> = parts.iter().filter_map(|part| part.segment).collect();
    let object = tables.publish(object, segments, only_if)?;
    tables.drop_upload(upload)?;
    Ok(object)
}
