use std::{collections::HashSet, io::Read};

use bytes::BytesMut;
use futures_util::{StreamExt, stream};
use sinew_core::{Error, Kind, Result};
use sinew_engine::kv::{Key, Kv, Outcome, Revision, Span, Write};

use super::frame::{Change, Frame, damaged};

/// Writes of one commit, and their bytes.
const WRITES: usize = 500;
const BYTES: usize = 1 << 20;
/// Commits at once while the revision is raised.
const RAISERS: usize = 256;
/// The key that is written meanwhile; it is deleted in the end.
const RAISED: &[u8] = b"restore/revision";

/// What a backup holds, as its last frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The revision that it begins after; 0 for a full one.
    pub since: Revision,
    /// The revision that it reaches.
    pub revision: Revision,
    /// Keys in it.
    pub entries: u64,
    /// Commits in it.
    pub commits: u64,
}

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The revision of the store that the backups were taken of.
    pub revision: Revision,
    /// Keys that were written, repeated ones too.
    pub writes: u64,
}

/// Reads a backup and checks it: every checksum, the counts, and that it is whole. `backup.damaged` (DataLoss)
/// otherwise.
pub fn check(backup: impl Read) -> Result<Summary> {
    let mut frames = Frames::new(backup);
    while frames.next()?.is_some() {}
    frames.summary()
}

/// Writes a full backup and those that follow it, in their order, into an empty store. `backup.not_empty`
/// (FailedPrecondition) when it holds something, `backup.chain` (InvalidArgument) when one does not follow on the other.
pub(super) async fn restore<R: Read + Send>(
    kv: &dyn Kv,
    backups: impl IntoIterator<Item = R>,
) -> Result<Restored> {
    if !kv.range(Span::all(), 1, None).await?.entries.is_empty() {
        return Err(Error::new(
            Kind::FailedPrecondition,
            "backup.not_empty",
            "the store holds keys already; restore into an empty one",
        ));
    }
    let mut target = Target::new(kv);
    let mut reached = 0;
    for backup in backups {
        let mut frames = Frames::new(backup);
        while let Some(frame) = frames.next()? {
            match frame {
                Frame::Begin { since, .. } if since != reached => return Err(gap(reached, since)),
                Frame::Begin { .. } | Frame::End { .. } => {}
                Frame::Entry { key, value } => target.write(Change::Put(key, value)).await?,
                Frame::Commit { changes, .. } => {
                    for change in changes {
                        target.write(change).await?;
                    }
                }
            }
        }
        reached = frames.summary()?.revision;
    }
    target.flush().await?;
    raise(kv, reached).await?;
    Ok(Restored {
        revision: reached,
        writes: target.written,
    })
}

/// Gathers writes into commits.
struct Target<'a> {
    kv: &'a dyn Kv,
    writes: Vec<Write>,
    keys: HashSet<Key>,
    bytes: usize,
    written: u64,
}

impl<'a> Target<'a> {
    fn new(kv: &'a dyn Kv) -> Self {
        Self {
            kv,
            writes: Vec::new(),
            keys: HashSet::new(),
            bytes: 0,
            written: 0,
        }
    }

    async fn write(&mut self, change: Change) -> Result<()> {
        let write = match change {
            Change::Put(key, value) => Write::Put {
                key,
                value,
                lease: None,
            },
            Change::Delete(key) => Write::Delete { key },
        };
        let bytes = match &write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
        };
        let limits = &self.kv.capability().limits;
        let is_full = self.writes.len() >= WRITES.min(limits.transaction_operations)
            || self.bytes + bytes > BYTES.min(limits.transaction_bytes);
        // A commit writes a key once.
        if is_full || self.keys.contains(write.key()) {
            self.flush().await?;
        }
        self.keys.insert(write.key().clone());
        self.bytes += bytes;
        self.writes.push(write);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if self.writes.is_empty() {
            return Ok(());
        }
        self.written += self.writes.len() as u64;
        self.keys.clear();
        self.bytes = 0;
        let writes = std::mem::take(&mut self.writes);
        // Without conditions there is no conflict.
        let _: Outcome = self.kv.commit(Vec::new(), writes).await?;
        Ok(())
    }
}

/// Commits until the store's revision is at least this one.
async fn raise(kv: &dyn Kv, to: Revision) -> Result<()> {
    let mut now = kv.revision().await?;
    if now >= to {
        return Ok(());
    }
    while now < to {
        let missing = usize::try_from(to - now).unwrap_or(usize::MAX);
        let commits = (0..missing.min(100_000)).map(|_| {
            kv.commit(
                Vec::new(),
                vec![Write::Put {
                    key: Key::from_static(RAISED),
                    value: Default::default(),
                    lease: None,
                }],
            )
        });
        let mut running = stream::iter(commits).buffer_unordered(RAISERS);
        while let Some(outcome) = running.next().await {
            let _: Outcome = outcome?;
        }
        now = kv.revision().await?;
    }
    let key = Key::from_static(RAISED);
    let _: Outcome = kv.commit(Vec::new(), vec![Write::Delete { key }]).await?;
    Ok(())
}

/// Reads frames and counts them.
struct Frames<R> {
    from: R,
    read: BytesMut,
    begun: Option<Revision>,
    entries: u64,
    commits: u64,
    end: Option<Summary>,
}

impl<R: Read> Frames<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            read: BytesMut::new(),
            begun: None,
            entries: 0,
            commits: 0,
            end: None,
        }
    }

    fn next(&mut self) -> Result<Option<Frame>> {
        let frame = loop {
            if let Some(frame) = Frame::take(&mut self.read)? {
                break frame;
            }
            let mut more = vec![0; 256 << 10];
            let count = self.from.read(&mut more).map_err(|why| {
                Error::new(
                    Kind::Unavailable,
                    "backup.unreadable",
                    format!("the backup cannot be read: {why}"),
                )
            })?;
            if count == 0 {
                return match self.read.is_empty() {
                    true => Ok(None),
                    false => Err(damaged("it ends in the middle of a frame")),
                };
            }
            self.read.extend_from_slice(&more[..count]);
        };
        if self.end.is_some() {
            return Err(damaged("it goes on after its end"));
        }
        match (&frame, self.begun) {
            (Frame::Begin { since, .. }, None) => self.begun = Some(*since),
            (Frame::Begin { .. }, Some(_)) | (_, None) => {
                return Err(damaged("it does not begin once, at its beginning"));
            }
            (Frame::Entry { .. }, _) => self.entries += 1,
            (Frame::Commit { .. }, _) => self.commits += 1,
            (
                Frame::End {
                    revision,
                    entries,
                    commits,
                },
                Some(since),
            ) => {
                if (*entries, *commits) != (self.entries, self.commits) {
                    return Err(damaged("frames are missing"));
                }
                self.end = Some(Summary {
                    since,
                    revision: *revision,
                    entries: *entries,
                    commits: *commits,
                });
            }
        }
        Ok(Some(frame))
    }

    fn summary(&self) -> Result<Summary> {
        self.end
            .ok_or_else(|| damaged("its end is missing, so it was never finished"))
    }
}

fn gap(reached: Revision, since: Revision) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "backup.chain",
        format!(
            "this backup follows on revision {since}, but those before it reach {reached}; name a full one \
             first and the others in their order"
        ),
    )
}
