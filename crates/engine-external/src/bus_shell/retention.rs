//! What a broker cannot do by itself: keep what a group owes, and remove the rest.

use std::sync::Arc;

use sinew_core::{Result, Timestamp};
use sinew_engine::bus::{Position, Record, Unsettled};

use super::{
    Shared,
    backend::{Extent, Log},
    keeper::Books,
};

/// Messages of each partition that are looked at when room is needed.
const LOOK_AT_ONCE: usize = 64;

impl Shared {
    /// Below which offset of each partition nothing is owed.
    async fn floors(&self, log: &Log, extent: &Extent) -> Result<Vec<u64>> {
        let mut floors: Vec<u64> = extent.ranges.iter().map(|range| range.end).collect();
        if log.config.retention.unsettled == Unsettled::Drop {
            return Ok(floors);
        }
        let kept = self.backend.list(log, "").await?;
        let of = |key: &str| key.split_once('.').map(|(group, _)| group.to_owned());
        let groups: std::collections::BTreeSet<String> =
            kept.iter().filter_map(|kept| of(&kept.key)).collect();
        for group in groups {
            let books = Books::read(self.engine(), &group, &kept)?;
            let Some((config, _)) = books.config else {
                continue;
            };
            for (partition, floor) in (0..).zip(&mut floors) {
                let known = books.progress.get(&partition);
                let known = known.filter(|(record, _)| record.group == config.incarnation);
                let start = config.starts.get(partition as usize).copied();
                let cursor = known.map(|(record, _)| record.cursor()).or(start);
                *floor = (*floor).min(cursor.unwrap_or_default());
            }
        }
        Ok(floors)
    }

    /// Removes what is past the topic's age and not owed.
    pub(super) async fn expire(&self, log: &Log) -> Result<()> {
        let Some(age) = log.config.retention.age else {
            return Ok(());
        };
        let extent = self.backend.extent(log).await?;
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let cut = Timestamp(self.clock.now().as_millis().saturating_sub(age));
        if extent.oldest.is_none_or(|oldest| oldest >= cut) {
            return Ok(());
        }
        let floors = self.floors(log, &extent).await?;
        if floors
            .iter()
            .zip(&extent.ranges)
            .all(|(floor, range)| *floor <= range.start)
        {
            return Ok(());
        }
        let since = self.backend.since(log, cut).await?;
        for (partition, (floor, since)) in (0..).zip(floors.into_iter().zip(since)) {
            let offset = floor.min(since);
            if extent.ranges[partition as usize].start < offset {
                self.backend
                    .trim(log, Position { partition, offset })
                    .await?;
            }
        }
        Ok(())
    }

    /// Removes the oldest messages that nobody owes, until so many bytes are free; false when there are none.
    pub(super) async fn make_room(&self, log: &Log, bytes: u64) -> Result<bool> {
        let extent = self.backend.extent(log).await?;
        let floors = self.floors(log, &extent).await?;
        let mut oldest: Vec<Record> = Vec::new();
        for (partition, range) in (0..).zip(&extent.ranges) {
            let floor = floors[partition as usize];
            if range.start < floor {
                let offset = range.start;
                let from = Position { partition, offset };
                let found = self.backend.read(log, from, LOOK_AT_ONCE).await?;
                oldest.extend(
                    found
                        .into_iter()
                        .filter(|record| record.position.offset < floor),
                );
            }
        }
        oldest.sort_by_key(|record| (record.published, record.position));
        let mut firsts: Vec<u64> = vec![0; floors.len()];
        let mut free = 0;
        for record in oldest {
            if free >= bytes {
                break;
            }
            free += record.message.weight().max(1);
            firsts[record.position.partition as usize] = record.position.offset + 1;
        }
        for (partition, offset) in (0..).zip(firsts) {
            if offset > 0 {
                self.backend
                    .trim(log, Position { partition, offset })
                    .await?;
            }
        }
        Ok(free > 0)
    }

    /// Looks after the topics that this node has used.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            self.clock.sleep(self.node.tick()).await;
            for log in self.known() {
                if self.backend.removes_old(&log.config) {
                    continue;
                }
                if let Err(error) = self.expire(&log).await {
                    tracing::debug!(topic = %log.topic, error = %error.detail(), "old messages are removed later");
                }
            }
        }
    }
}
