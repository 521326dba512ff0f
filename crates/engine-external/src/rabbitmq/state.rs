//! What a seat holds under its lock: the group's machine, the messages it has loaded, and what is to be made durable.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use sinew_core::Name;
use sinew_engine::bus::{
    GroupConfig, Message, Record,
    group::{Group as Machine, PartitionSnapshot, Retry, Rules, Snapshot},
};

use super::progress::Progress;

/// What a seat keeps in memory of messages, bytes; beyond it waits with loading.
const HELD_BYTES: u64 = 64 << 20;

/// A message that goes to the dead-letter topic.
pub(super) struct DeadLetter {
    pub(super) topic: Name,
    pub(super) message: Message,
    pub(super) offset: u64,
    pub(super) token: u64,
}

/// What the task shall make durable.
#[derive(Default)]
pub(super) struct Outbox {
    /// Offset and token.
    pub(super) settled: Vec<(u64, u64)>,
    pub(super) retries: BTreeMap<u64, Retry>,
    pub(super) dead: Vec<DeadLetter>,
}

/// Of a seat.
pub(super) struct State {
    pub(super) config: GroupConfig,
    pub(super) version: u64,
    pub(super) partitions: usize,
    pub(super) machine: Option<Machine>,
    /// Whether the machine may deliver.
    pub(super) is_held: bool,
    /// Whether the machine only knows what another node has told.
    pub(super) is_standing_by: bool,
    pub(super) records: BTreeMap<u64, Record>,
    pub(super) record_bytes: u64,
    pub(super) outbox: Outbox,
    /// The tokens in the outbox and under way: an ack may be repeated.
    pub(super) settling: HashSet<u64>,
    /// Settled messages in entries that were written and do not count yet, by the entry's number.
    pub(super) under_way: VecDeque<(u64, Vec<(u64, u64)>)>,
    /// The group, or its topic, was deleted.
    pub(super) is_ended: bool,
}

impl State {
    pub(super) fn new(config: GroupConfig, version: u64, partitions: usize) -> Self {
        Self {
            config,
            version,
            partitions,
            machine: None,
            is_held: false,
            is_standing_by: false,
            records: BTreeMap::new(),
            record_bytes: 0,
            outbox: Outbox::default(),
            settling: HashSet::new(),
            under_way: VecDeque::new(),
            is_ended: false,
        }
    }

    pub(super) fn rules(&self) -> Rules {
        let mut rules = Rules::from(&self.config);
        rules.window = (rules.window / self.partitions).max(1);
        rules
    }

    /// Whether more messages may be loaded.
    pub(super) fn has_room(&self) -> bool {
        let room = self
            .machine
            .as_ref()
            .is_some_and(|machine| machine.room() > 0);
        room && self.record_bytes < HELD_BYTES
    }

    pub(super) fn snapshot(&self, now: Duration) -> PartitionSnapshot {
        let snapshot = self.machine.as_ref().map(|machine| machine.snapshot(now));
        let mut partitions = snapshot
            .map(|snapshot| snapshot.partitions)
            .unwrap_or_default();
        partitions.pop().unwrap_or_default()
    }

    /// Begins with what another node wrote; all deliveries are over.
    pub(super) fn rebuild(&mut self, found: PartitionSnapshot, first_token: u64) {
        let snapshot = Snapshot {
            partitions: vec![found],
        };
        self.machine = Some(Machine::new(self.rules(), snapshot, first_token));
        self.is_standing_by = false;
        self.records.clear();
        self.record_bytes = 0;
        self.outbox = Outbox::default();
        self.settling.clear();
        self.under_way.clear();
    }

    /// A whole value for the register, with what is on its way.
    pub(super) fn whole(&self, now: Duration) -> Progress {
        let mut snapshot = self.snapshot(now);
        for (_, settled) in &self.under_way {
            for (offset, _) in settled {
                snapshot.settle(*offset);
            }
        }
        Progress::whole(&snapshot)
    }

    /// The outbox as an entry, which is under way from now on.
    pub(super) fn entry(&mut self, number: u64) -> Progress {
        let settled = std::mem::take(&mut self.outbox.settled);
        let retries = std::mem::take(&mut self.outbox.retries);
        let changes = Progress::changes(&settled, retries);
        self.under_way.push_back((number, settled));
        changes
    }
}
