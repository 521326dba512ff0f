//! A random workload on a log, and what must be true of the log afterwards.

use std::collections::BTreeMap;

use super::*;
use crate::log::writer::Staged;

/// What the log must hold.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// What was acknowledged, or seen after a recovery, which is the same promise.
    records: BTreeMap<Sequence, Vec<u8>>,
    next: Sequence,
    /// What was in hand when something failed, in order: any prefix of it may be there.
    in_doubt: Vec<Vec<u8>>,
    /// Records before this one may be gone.
    released: Sequence,
    checkpoint: Option<Checkpoint>,
    checkpoint_in_doubt: Option<Checkpoint>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            released: 1,
            ..Self::default()
        }
    }

    /// Checks a log that was just opened, and takes on what it turned out to hold.
    pub(super) fn check(&mut self, opened: &Opened) {
        let found = entries(&opened.segments).unwrap();
        let Recovery { oldest, next, .. } = opened.recovery;
        assert!(
            oldest <= self.released,
            "record {oldest} is the oldest, not {}",
            self.released
        );
        assert!(
            next >= self.next,
            "record {} was acknowledged, the log ends at {next}",
            self.next
        );
        assert_eq!(
            found.len() as u64,
            next - oldest,
            "holes in {oldest}..{next}"
        );
        for (entry, sequence) in found.into_iter().zip(oldest..) {
            let Entry::Record(record) = entry else {
                panic!("{entry:?}")
            };
            assert_eq!(record.sequence, sequence);
            let in_doubt = sequence
                .checked_sub(self.next)
                .and_then(|nth| self.in_doubt.get(usize::try_from(nth).unwrap()));
            let expected = self.records.get(&sequence).or(in_doubt);
            let expected =
                expected.unwrap_or_else(|| panic!("record {sequence} came from nowhere"));
            assert!(record.payload == expected, "record {sequence} is another");
            self.records.insert(sequence, record.payload.to_vec());
        }
        self.next = next;
        self.in_doubt.clear();
        let checkpoint = opened.slots.newest();
        let in_doubt = self.checkpoint_in_doubt.take();
        assert!(
            checkpoint == self.checkpoint || (checkpoint.is_some() && checkpoint == in_doubt),
            "checkpoint {checkpoint:?} is neither {:?} nor {in_doubt:?}",
            self.checkpoint
        );
        self.checkpoint = checkpoint;
    }

    /// Does one random thing.
    pub(super) fn step(&mut self, opened: &mut Opened, random: &mut Seeded) -> Result<()> {
        match random.below(12) {
            0 => {
                let before = 1 + random.below(self.next);
                // From here on they may be gone.
                self.released = self.released.max(before);
                opened.segments.release(before)?;
            }
            1 => {
                let note = vec![1; random.index(Checkpoint::NOTE_BYTES + 1)];
                let next = 1 + random.below(self.next);
                let checkpoint = Checkpoint {
                    next,
                    note: note.into(),
                };
                self.checkpoint_in_doubt = Some(checkpoint.clone());
                opened.slots.set(checkpoint, &opened.segments.fatal)?;
                self.checkpoint = self.checkpoint_in_doubt.take();
            }
            2 | 3 => opened.pool.make()?,
            _ => {
                for _ in 0..1 + random.below(5) {
                    let payload = payload(random);
                    let from_reserve = random.below(8) == 0;
                    let mut staged = opened.writer.stage(&payload, from_reserve)?;
                    if staged == Staged::CommitFirst {
                        self.commit(opened)?;
                        staged = opened.writer.stage(&payload, from_reserve)?;
                    }
                    let Staged::Yes(appended) = staged else {
                        panic!("nothing is staged")
                    };
                    self.in_doubt.push(payload);
                    assert_eq!(
                        appended.sequence + 1,
                        self.next + self.in_doubt.len() as u64
                    );
                }
                self.commit(opened)?;
            }
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, opened: &mut Opened) -> Result<()> {
        let committed = opened.writer.commit();
        match &committed {
            Ok(()) => {
                for payload in self.in_doubt.drain(..) {
                    self.records.insert(self.next, payload);
                    self.next += 1;
                }
            }
            // Only then is there doubt; every other error means that nothing was written.
            Err(error) if error.code() == "log.failed" => {}
            Err(_) => self.in_doubt.clear(),
        }
        committed
    }

    /// Whether something is in hand that the writer has not answered.
    pub(super) fn is_staged(&self) -> bool {
        !self.in_doubt.is_empty()
    }
}

fn payload(random: &mut Seeded) -> Vec<u8> {
    let length = match random.below(10) {
        // A frame of one sector: what is left of a torn batch then begins where records end.
        5.. => 512 - frame::HEADER,
        0 => 0,
        1 => 3000,
        2 | 3 => random.index(3000),
        _ => random.index(200),
    };
    // Zeros look like what was never written.
    if random.below(5) == 0 {
        return vec![0; length];
    }
    (0..length).map(|_| random.below(256) as u8).collect()
}
