//! What the services print, line by line: to this process's standard error with the instance's name
//! in front, or to one file per instance. A bounded queue and one writing thread lie between: a
//! stalled terminal costs lines (counted and said), never a service's progress.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use sinew_core::{Error, InstanceId, Kind, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    sync::{mpsc, oneshot},
};

use self::rotating::RotatingFile;

mod rotating;
#[cfg(test)]
mod tests;

/// Where the services' output goes.
#[derive(Clone, Debug, Default)]
pub enum Logs {
    /// To this process's standard error, each line as `orders-1 | …`.
    #[default]
    Stderr,
    /// To `<folder>/<instance>.log`. At `max_bytes` it becomes `<instance>.log.1`, and so on up to
    /// `keep` old files.
    Files {
        /// Made when missing.
        folder: PathBuf,
        /// The size of one file.
        max_bytes: u64,
        /// How many full files are kept besides the current one.
        keep: u32,
    },
    /// Nowhere.
    Discard,
}

impl Logs {
    /// Files in `folder`, at most 24 MiB per instance.
    pub fn files(folder: impl Into<PathBuf>) -> Self {
        Self::Files {
            folder: folder.into(),
            max_bytes: 8 << 20,
            keep: 2,
        }
    }
}

/// Longer lines are cut here; the rest of the line is dropped and the cut is marked.
const MAX_LINE: usize = 16 << 10;
/// Lines waiting to be written. With `MAX_LINE`, at most 4 MiB.
const QUEUE: usize = 256;
/// How long a line waits for a place in the queue before it and those after it are dropped.
const PATIENCE: Duration = Duration::from_millis(250);

struct Line {
    instance: InstanceId,
    text: Vec<u8>,
}

/// The way to the writing thread; `None` when output is discarded.
#[derive(Clone)]
pub(crate) struct LogSink(Option<mpsc::Sender<Line>>);

/// Resolves when everything was written, after the last sink is gone.
pub(crate) struct Written(Option<oneshot::Receiver<()>>);

impl Written {
    /// Waits, at most `limit`.
    pub(crate) async fn wait(self, limit: Duration) {
        if let Some(done) = self.0 {
            let _ = tokio::time::timeout(limit, done).await;
        }
    }
}

pub(crate) fn start(logs: Logs) -> Result<(LogSink, Written)> {
    let mut output = match logs {
        Logs::Discard => return Ok((LogSink(None), Written(None))),
        Logs::Stderr => Output::Stderr,
        Logs::Files {
            folder,
            max_bytes,
            keep,
        } => {
            std::fs::create_dir_all(&folder).map_err(|error| {
                failed(
                    &format!("cannot make the log folder {}", folder.display()),
                    error,
                )
            })?;
            Output::Files {
                folder,
                max_bytes,
                keep,
                open: HashMap::new(),
            }
        }
    };
    let (sender, mut queue) = mpsc::channel::<Line>(QUEUE);
    let (done, written) = oneshot::channel();
    std::thread::Builder::new()
        .name("service-logs".into())
        .spawn(move || {
            let mut broken = false;
            while let Some(line) = queue.blocking_recv() {
                match output.write(&line) {
                    Ok(()) => broken = false,
                    // Said once, not once per line: the disk is probably full.
                    Err(error) if !broken => {
                        broken = true;
                        tracing::warn!(instance = %line.instance, %error, "a service's log cannot be written");
                    }
                    Err(_) => {}
                }
            }
            let _ = done.send(());
        })
        .map_err(|error| failed("cannot start a thread", error))?;
    Ok((LogSink(Some(sender)), Written(Some(written))))
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "launcher.logs_unwritable",
        format!("{what}: {error}"),
    )
    .with_source(error)
}

enum Output {
    Stderr,
    Files {
        folder: PathBuf,
        max_bytes: u64,
        keep: u32,
        open: HashMap<InstanceId, RotatingFile>,
    },
}

impl Output {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        match self {
            Self::Stderr => {
                // One write per line, so that lines of several services do not mix.
                let mut whole = format!("{} | ", line.instance).into_bytes();
                whole.extend_from_slice(&line.text);
                whole.push(b'\n');
                io::stderr().lock().write_all(&whole)
            }
            Self::Files {
                folder,
                max_bytes,
                keep,
                open,
            } => {
                if !open.contains_key(&line.instance) {
                    let path = folder.join(format!("{}.log", line.instance));
                    let file = RotatingFile::open(path, *max_bytes, *keep)?;
                    open.insert(line.instance.clone(), file);
                }
                let file = open.get_mut(&line.instance).expect("it was opened above");
                file.write_line(&line.text)
            }
        }
    }
}

impl LogSink {
    /// Whether anybody wants the output.
    pub(crate) fn wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Forwards `stream` line by line until it ends. It ends when the last process that inherited
    /// it is gone, which may be later than the service itself.
    pub(crate) fn capture<R>(&self, instance: &InstanceId, stream: Option<R>)
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let (Some(sender), Some(stream)) = (self.0.clone(), stream) else {
            return;
        };
        let instance = instance.clone();
        tokio::spawn(async move {
            let mut lines = Lines {
                stream: BufReader::new(stream),
            };
            let mut dropped = 0u64;
            while let Ok(Some(text)) = lines.next().await {
                if dropped > 0 {
                    let note = format!("[{dropped} lines were dropped: the log could not keep up]");
                    let note = Line {
                        instance: instance.clone(),
                        text: note.into_bytes(),
                    };
                    if sender.try_send(note).is_err() {
                        dropped += 1;
                        continue;
                    }
                    dropped = 0;
                }
                let line = Line {
                    instance: instance.clone(),
                    text,
                };
                match sender.send_timeout(line, PATIENCE).await {
                    Ok(()) => {}
                    Err(mpsc::error::SendTimeoutError::Timeout(_)) => dropped += 1,
                    Err(mpsc::error::SendTimeoutError::Closed(_)) => return,
                }
            }
        });
    }
}

/// Splits a stream into lines without their ends, each at most [`MAX_LINE`] bytes.
struct Lines<R> {
    stream: BufReader<R>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut cut = false;
        let mut any = false;
        loop {
            let buffer = self.stream.fill_buf().await?;
            if buffer.is_empty() {
                break;
            }
            any = true;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let piece = &buffer[..end.unwrap_or(buffer.len())];
            let room = MAX_LINE - line.len();
            cut |= piece.len() > room;
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            let used = end.map_or(buffer.len(), |end| end + 1);
            self.stream.consume(used);
            if end.is_some() {
                break;
            }
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if cut {
            line.extend_from_slice(b" [cut]");
        }
        Ok(any.then_some(line))
    }
}
