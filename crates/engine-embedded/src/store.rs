//! Kv and Bus on one log: what concerns both is one durable step.

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use sinew_core::{Clock, Error, Kind, Name, Result};
use sinew_engine::{
    bus::{Message, Published, Receipt},
    kv::{Condition, Kv, Revision, Write},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    bus::{
        BusOptions, EmbeddedBus,
        face::BusFace,
        opening::{self, BusOpening},
        unit::{BusAck, BusUnit},
    },
    journal::{self, Journal, Outcome, Pair, Staging, UnitAnswer},
    kv::{self, EmbeddedKv, Folder, KvFace, KvOpening, Options, Writes},
};

/// Units that wait for the commit thread, at most.
const QUEUE: usize = 1024;

/// How a [`Store`] behaves.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// How Kv does, and the log and the disk under both.
    pub kv: Options,
    /// How the bus does.
    pub bus: BusOptions,
}

impl StoreOptions {
    /// Divides a budget, bytes: five eighths are for the keys, the rest for messages.
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        let kv = bytes / 8 * 5;
        Self {
            kv: self.kv.with_memory(kv),
            bus: self.bus.with_memory(bytes - kv),
        }
    }
}

/// A key-value store and a bus in one folder, over one log and one commit thread. What belongs
/// together can be committed together: an outbox, a timer that fires, a message and what came of
/// it are one durable step.
pub struct Store {
    kv: Arc<EmbeddedKv>,
    bus: Arc<EmbeddedBus>,
    units: mpsc::Sender<journal::Unit<KvFace, BusFace>>,
    journal: Journal,
    clock: Clock,
    queue_timeout: Duration,
    answer_timeout: Duration,
}

/// What happens at once, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// What must hold, checked in order, as in [`Kv::commit`].
    pub conditions: Vec<Condition>,
    /// What is written then.
    pub writes: Vec<Write>,
    /// What is published, each topic once.
    pub publishes: Vec<(Name, Vec<Message>)>,
    /// The deliveries that are settled. Each must be current, or nothing happens.
    pub acknowledged: Vec<Acknowledged>,
}

/// Deliveries of a group.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// The topic.
    pub topic: Name,
    /// The group.
    pub group: Name,
    /// Of the deliveries.
    pub receipts: Vec<Receipt>,
}

/// What became of a [`Unit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a conflict means that nothing happened"]
pub enum Committed {
    /// Everything of it.
    Everything {
        /// The store's revision with its writes.
        revision: Revision,
        /// What became of each message, topic by topic.
        published: Vec<Vec<Published>>,
    },
    /// Nothing: the condition with this index did not hold.
    Conflict(usize),
}

impl Store {
    /// Opens the store in `folder`, which is made if it does not exist; a folder of
    /// [`EmbeddedKv::open`] gets a bus beside what it holds. Blocks as that does, and while what no
    /// checkpoint of the bus has is read from the log.
    ///
    /// Errors: those of [`EmbeddedKv::open`] and [`EmbeddedBus::open`].
    pub fn open(folder: impl AsRef<Path>, clock: Clock, options: StoreOptions) -> Result<Self> {
        let path = folder.as_ref();
        let opened = Self::open_inner(path, clock, options);
        opened.map_err(|error| error.with_context(format!("folder {}", path.display())))
    }

    fn open_inner(path: &Path, clock: Clock, options: StoreOptions) -> Result<Self> {
        let folder = Folder::open(path, &options.kv)?;
        let (queue_timeout, answer_timeout) = (options.kv.queue_timeout, options.kv.answer_timeout);
        let KvOpening { kv, slot: first } = kv::open(&folder, clock.clone(), options.kv)?;
        let bus_folder = path.join("bus");
        let making = |error: std::io::Error| {
            let message = "the folder of the bus cannot be made";
            Error::new(Kind::Unavailable, "store.unavailable", message).with_source(error)
        };
        folder.storage.create_dir(&bus_folder).map_err(making)?;
        folder.storage.sync_dir(path).map_err(making)?;
        let BusOpening { bus, slot: second } = opening::open(
            Arc::clone(&folder.storage),
            &bus_folder,
            clock.clone(),
            options.bus,
            folder.opening.hold(),
        )?;
        let (units, queue) = mpsc::channel(QUEUE);
        let faces = Pair::new(first, second, queue);
        let journal = folder.opening.start(faces, clock.clone(), folder.lock)?;
        Ok(Self {
            kv: Arc::new(kv),
            bus: Arc::new(bus),
            units,
            journal,
            clock,
            queue_timeout,
            answer_timeout,
        })
    }

    /// The key-value store.
    pub fn kv(&self) -> Arc<EmbeddedKv> {
        Arc::clone(&self.kv)
    }

    /// The bus.
    pub fn bus(&self) -> Arc<EmbeddedBus> {
        Arc::clone(&self.bus)
    }

    /// Does everything that the unit says in one durable step, or nothing of it.
    ///
    /// Errors: those of [`Kv::commit`] and of the bus's publish and ack; nothing happened, but after
    /// Unavailable and DeadlineExceeded, when it happened wholly or not at all.
    pub async fn commit_unit(&self, unit: Unit) -> Result<Committed> {
        let Unit {
            conditions,
            writes,
            publishes,
            acknowledged,
        } = unit;
        let limits = &self.kv.capability().limits;
        limits.check_transaction(&conditions, &writes)?;
        let acks = acknowledged.into_iter().map(|acknowledged| BusAck {
            topic: acknowledged.topic,
            group: acknowledged.group,
            receipts: acknowledged.receipts,
        });
        let bus_unit = BusUnit::new(publishes, acks.collect())?;
        let (answer, answered) = oneshot::channel();
        let bytes = kv::weight(&conditions, &writes) + bus_unit.bytes();
        // Held until the unit is done.
        let room = tokio::select! {
            room = self.kv.room(bytes) => room?,
            () = self.clock.sleep(self.queue_timeout) => return Err(kv::overloaded()),
        };
        let writes = Writes::new(&writes);
        let mut waiting = Some((conditions, writes, bus_unit, answer, room));
        let unit = move |kv: Staging<'_, KvFace>, bus: Staging<'_, BusFace>| {
            if bus.face.is_taken() {
                return Outcome::Later;
            }
            let Some((conditions, writes, unit, answer, room)) = waiting.take() else {
                return Outcome::Done(Box::new(|_| {}));
            };
            let staged = stage(kv, bus, &conditions, &writes, unit);
            let tell: UnitAnswer = Box::new(move |durable| {
                let _room = room;
                // Whoever asked may have gone.
                let _ = answer.send(match durable {
                    Ok(()) => staged,
                    Err(error) => Err(kv::refusal(error)),
                });
            });
            Outcome::Done(tell)
        };
        let queued = async {
            self.kv.wait_for_room().await?;
            self.units.send(Box::new(unit)).await.map_err(|_| closed())
        };
        tokio::select! {
            queued = queued => queued?,
            () = self.clock.sleep(self.queue_timeout) => return Err(kv::overloaded()),
        }
        tokio::select! {
            answer = answered => answer.unwrap_or_else(|_| Err(closed())),
            () = self.clock.sleep(self.answer_timeout) => Err(Error::new(
                Kind::DeadlineExceeded,
                "kv.deadline",
                "the disk has not answered in time; the unit may or may not be written",
            )),
        }
    }

    /// Writes what is queued, closes the files and frees their lock. Everything later is refused.
    pub async fn close(&self) {
        self.journal.close().await;
    }
}

/// Checks a unit against both faces, and stages it in both.
fn stage(
    kv: Staging<'_, KvFace>,
    bus: Staging<'_, BusFace>,
    conditions: &[Condition],
    writes: &Writes,
    unit: BusUnit,
) -> Result<Committed> {
    if let Some(conflict) = kv.face.check(conditions, writes, kv.part)? {
        return Ok(Committed::Conflict(conflict));
    }
    let checked = bus.face.check_unit(unit, bus.part)?;
    // Whatever can fail is behind: a failed write stages nothing, and staging on the bus cannot.
    let revision = kv.face.write(writes, kv.part)?;
    let published = bus.face.stage_unit(checked, bus.part);
    Ok(Committed::Everything {
        revision,
        published,
    })
}

fn closed() -> Error {
    Error::new(Kind::Unavailable, "kv.closed", "the store is closed")
}
