//! One JSON line per request, written by a thread of its own behind a bounded queue: a disk that
//! stalls costs lines, which are counted, and never requests.

mod line;
mod logging;

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};
use sinew_core::{Error, Kind, Result};

use crate::{config::AccessLog, random::Random};

pub(crate) use line::Line;
pub use logging::{LogField, Logging, QueryValues, Share};

/// Lines that may wait for the writer.
const QUEUE: usize = 8_192;

#[derive(Clone, Debug)]
pub(crate) struct Sender {
    lines: crossbeam_channel::Sender<Vec<u8>>,
    logging: Logging,
}

impl Sender {
    /// Whether there is a line of a request that ended like this.
    pub(crate) fn wants(&self, failed: bool, took: Duration, random: &Random) -> bool {
        self.logging.wants(failed, took, random)
    }

    /// `false` when there was no room.
    pub(crate) fn send(&self, line: &Line<'_>) -> bool {
        let bytes = line.bytes(&self.logging);
        bytes.is_ok_and(|bytes| self.lines.try_send(bytes).is_ok())
    }
}

/// Starts the writer; it ends when all senders are gone. `None` when nothing is to be logged.
pub(crate) fn start(to: &AccessLog, logging: &Logging) -> Result<Option<Sender>> {
    let failed = |error: io::Error| {
        Error::new(
            Kind::Unavailable,
            "gateway.access_log",
            "the access log cannot be opened",
        )
        .with_context(format!("{to:?}"))
        .with_source(error)
    };
    let out: Box<dyn Write + Send> = match to {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => Box::new(io::stdout()),
        AccessLog::Stderr => Box::new(io::stderr()),
        AccessLog::File(path) => Box::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(failed)?,
        ),
    };
    let (sender, lines) = bounded(QUEUE);
    std::thread::Builder::new()
        .name("access-log".into())
        .spawn(move || write(&lines, BufWriter::with_capacity(64 << 10, out)))
        .map_err(failed)?;
    Ok(Some(Sender {
        lines: sender,
        logging: logging.clone(),
    }))
}

fn write(lines: &Receiver<Vec<u8>>, mut out: impl Write) {
    let mut healthy = true;
    while let Ok(line) = lines.recv() {
        let mut written = out.write_all(&line);
        while let Ok(line) = lines.try_recv() {
            written = written.and_then(|()| out.write_all(&line));
        }
        match written.and_then(|()| out.flush()) {
            Ok(()) => healthy = true,
            Err(error) if healthy => {
                tracing::error!(%error, "the access log cannot be written");
                healthy = false;
            }
            Err(_) => {}
        }
    }
}
