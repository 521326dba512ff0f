use std::sync::Arc;

use async_trait::async_trait;
use sinew_core::{ManualClock, Timestamp};
use sinew_engine::bus::suite::{self, End, Group, Harness, Subject};
use tempfile::TempDir;

use super::*;

/// What the bus under test lies on.
#[derive(Clone, Copy)]
enum Disk {
    /// A folder of the machine; it cannot be killed.
    Real,
    /// The simulated disk, which can.
    Simulated,
}

struct Embedded {
    disk: Disk,
    /// Whether a checkpoint is made whenever there is something for one.
    is_restless: bool,
}

struct EmbeddedSubject {
    alone: Option<Alone>,
    clock: ManualClock,
    options: BusOptions,
    dir: TempDir,
    disk: Option<SimulatedStorage>,
}

impl EmbeddedSubject {
    fn open(&self) -> Alone {
        let clock = self.clock.clock();
        let options = self.options.clone();
        let opened = match &self.disk {
            None => open_on(real(), self.dir.path(), clock, options, &log_options()),
            Some(disk) => {
                let storage = Arc::new(disk.clone());
                open_on(storage, Path::new(FOLDER), clock, options, &log_options())
            }
        };
        opened.unwrap()
    }
}

#[async_trait]
impl Harness for Embedded {
    async fn create(&self) -> Box<dyn Subject> {
        let mut options = small();
        if self.is_restless {
            options.checkpoint_after = Duration::ZERO;
        }
        let mut subject = EmbeddedSubject {
            alone: None,
            clock: ManualClock::new(Timestamp(1_000_000)),
            options,
            dir: tempfile::tempdir().unwrap(),
            disk: match self.disk {
                Disk::Real => None,
                Disk::Simulated => Some(disk(1)),
            },
        };
        subject.alone = Some(subject.open());
        Box::new(subject)
    }

    fn time_is_manual(&self) -> bool {
        true
    }
}

#[async_trait]
impl Subject for EmbeddedSubject {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.alone.as_ref().unwrap().bus.clone())
    }

    async fn reopen(&mut self, end: End) {
        let alone = self.alone.take().unwrap();
        match (end, &self.disk) {
            (End::Kill, Some(disk)) => {
                self.disk = Some(disk.kill());
                alone.journal.close().await;
            }
            _ => alone.journal.close().await,
        }
        self.alone = Some(self.open());
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn now(&self) -> Timestamp {
        self.clock.clock().now()
    }
}

macro_rules! groups {
    ($($name:ident: $group:ident, $disk:ident, $restless:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let harness = Embedded { disk: Disk::$disk, is_restless: $restless };
                suite::run(Group::$group, Arc::new(harness)).await;
            }
        )*
    };
}

groups! {
    publishing: Publishing, Real, false;
    delivery: Delivery, Real, false;
    schedule: Schedule, Real, false;
    replay: Replay, Real, false;
    retention: Retention, Real, false;
    durability: Durability, Simulated, false;
    concurrency: Concurrency, Real, false;
    publishing_from_files: Publishing, Real, true;
    delivery_from_files: Delivery, Real, true;
    schedule_from_files: Schedule, Real, true;
    replay_from_files: Replay, Real, true;
    retention_from_files: Retention, Real, true;
    durability_from_files: Durability, Simulated, true;
    concurrency_from_files: Concurrency, Real, true;
}
