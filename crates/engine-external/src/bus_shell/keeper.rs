//! Which partitions of a group this node holds.
//!
//! Each node that has consumers of a group says so in a member record. From the members that live everybody
//! computes the same assignment: partition p belongs to the p-th of them, in the order of their ids. A node
//! that holds what belongs to another delivers no more of it, waits until its consumers are done with what they
//! have, and gives it up; a node claims what belongs to it when nobody holds it, or when the holder is gone.
//! Different views of the members do no harm, because a claim is a conditional write.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::try_join_all;
use sinew_core::Result;
use sinew_engine::bus::group::{Input, Rules};

use super::{
    Shared,
    backend::{Kept, Put},
    local::{Ended, Local, Now},
    partition,
    records::{
        GroupRecord, MemberRecord, ProgressRecord, config_key, decode, encode, member_key,
        progress_key,
    },
};
use crate::fault;

/// What is kept of a group.
#[derive(Default)]
pub(super) struct Books {
    pub(super) config: Option<(GroupRecord, u64)>,
    pub(super) progress: BTreeMap<u32, (ProgressRecord, u64)>,
    pub(super) members: BTreeMap<String, (MemberRecord, u64)>,
}

impl Books {
    pub(super) fn read(engine: &'static str, group: &str, kept: &[Kept]) -> Result<Self> {
        let mut books = Self::default();
        for Kept {
            key,
            value,
            version,
        } in kept
        {
            let Some(name) = key
                .strip_prefix(group)
                .and_then(|rest| rest.strip_prefix('.'))
            else {
                continue;
            };
            if name == "config" {
                books.config = Some((decode(engine, key, value)?, *version));
            } else if let Some(partition) = name.strip_prefix("progress.") {
                let partition = partition
                    .parse()
                    .map_err(|_| fault::unsuitable(engine, format!("it has a record {key}")))?;
                books
                    .progress
                    .insert(partition, (decode(engine, key, value)?, *version));
            } else if let Some(node) = name.strip_prefix("member.") {
                books
                    .members
                    .insert(node.to_owned(), (decode(engine, key, value)?, *version));
            }
        }
        Ok(books)
    }
}

enum Next {
    Wait,
    Done,
}

/// Keeps a group in order until nobody consumes here any more.
pub(super) async fn keep(shared: Arc<Shared>, local: Arc<Local>) {
    let mut hints = None;
    let mut back = shared.node.back();
    loop {
        if hints.is_none() {
            hints = shared.backend.hints(&local.log, &local.group).await.ok();
        }
        back.mark_unchanged();
        match tend(&shared, &local).await {
            Ok(Next::Done) => return,
            Ok(Next::Wait) => {}
            Err(error) if error.code() == "bus.topic_unknown" => local.end(Ended::TopicGone),
            Err(error) => {
                let (topic, group) = (&local.log.topic, &local.group);
                tracing::debug!(%topic, %group, error = %error.detail(), "a group cannot be tended now");
            }
        }
        if local.state().ended.is_some() {
            shared.forget(&local);
            return;
        }
        let hint = async {
            match &mut hints {
                Some(hints) => hints.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = local.wake.notified() => {}
            () = hint => {}
            _ = back.changed() => {}
            () = shared.clock.sleep(shared.node.tick()) => {}
        }
    }
}

async fn tend(shared: &Arc<Shared>, local: &Arc<Local>) -> Result<Next> {
    let Some(epoch) = shared.node.epoch() else {
        return Ok(Next::Wait);
    };
    let _order = local.order.lock().await;
    let prefix = format!("{}.", local.group);
    let kept = shared.backend.list(&local.log, &prefix).await?;
    let mut books = Books::read(shared.engine(), local.group.as_str(), &kept)?;
    if !adjust(shared, local, &mut books).await? {
        local.end(Ended::GroupGone);
        return Ok(Next::Done);
    }
    if local.state().consumers.is_empty() {
        return leave(shared, local, &books).await;
    }
    join(shared, local, &books).await?;
    // A list may be late; what was held when the lease lapsed is looked at as it is now.
    let is_back = local.state().verified != Some(epoch);
    check_held(shared, local, &books, is_back).await?;
    {
        let mut state = local.state();
        state.verified = Some(epoch);
    }
    local.changed.send_replace(());
    trim(shared, local).await?;
    assign(shared, local, &books).await?;
    Ok(Next::Wait)
}

/// Takes the group's configuration over; false when it is gone.
async fn adjust(shared: &Shared, local: &Local, books: &mut Books) -> Result<bool> {
    let same = |(record, _): &(GroupRecord, u64)| record.incarnation == local.incarnation;
    if !books.config.as_ref().is_some_and(same) {
        let key = config_key(&local.group);
        let Some(kept) = shared.backend.get(&local.log, &key).await? else {
            return Ok(false);
        };
        let record = decode(shared.engine(), &key, &kept.value)?;
        books.config = Some((record, kept.version));
    }
    let Some((record, _)) = books.config.as_ref().filter(|config| same(config)) else {
        return Ok(false);
    };
    let config = record.config();
    let mut state = local.state();
    if state.config != config {
        let rules = Rules::from(&config);
        state.config = config;
        local.step(
            &mut state,
            Input::Configure { rules },
            Now::of(&shared.clock),
        );
        drop(state);
        local.changed.send_replace(());
    }
    Ok(true)
}

/// Says that this node has consumers, and how they are.
async fn join(shared: &Shared, local: &Local, books: &Books) -> Result<()> {
    let member = local.state().member();
    let before = books.members.get(&shared.node.id);
    if before.is_some_and(|(before, _)| *before == member) {
        return Ok(());
    }
    let expected = before.map_or(0, |(_, version)| *version);
    let key = member_key(&local.group, &shared.node.id);
    let put = shared
        .backend
        .put(&local.log, &key, encode(&member), expected)
        .await?;
    if before.is_none_or(|(before, _)| before.consumers == 0) && put != Put::Conflict {
        shared.backend.hint(&local.log, &local.group).await;
    }
    Ok(())
}

/// Lets go what is not ours any more, and takes over what another node has changed.
async fn check_held(
    shared: &Arc<Shared>,
    local: &Arc<Local>,
    books: &Books,
    is_back: bool,
) -> Result<()> {
    let held: Vec<(u32, u64)> = {
        let state = local.state();
        let of = |(partition, held): (&u32, &super::local::Held)| (*partition, held.claim);
        state.held.iter().map(of).collect()
    };
    let me = &shared.node.id;
    for (number, claim) in held {
        let differs = |record: &ProgressRecord, version: u64| {
            let state = local.state();
            let held = state.held.get(&number).filter(|held| held.claim == claim);
            held.is_some_and(|held| {
                let moved = version > held.version && record.stamp != held.stamp;
                moved || record.holder.as_ref() != Some(me)
            })
        };
        let listed = books.progress.get(&number);
        let seems_well = listed.is_some_and(|(record, version)| !differs(record, *version));
        if seems_well && !is_back {
            continue;
        }
        let key = progress_key(&local.group, number);
        let kept = shared.backend.get(&local.log, &key).await?;
        let now = match &kept {
            Some(kept) => {
                let record: ProgressRecord = decode(shared.engine(), &key, &kept.value)?;
                Some((record, kept.version))
            }
            None => None,
        };
        let is_well = now
            .as_ref()
            .is_some_and(|(record, version)| !differs(record, *version));
        if is_well {
            continue;
        }
        let mut state = local.state();
        if partition::is_ours(&state, number, claim) {
            local.release(&mut state, number);
        }
        drop(state);
        // Somebody let the group go on elsewhere: it is still ours.
        if let Some((record, version)) = now
            && record.holder.as_ref() == Some(me)
            && record.group == local.incarnation
        {
            hold(shared, local, number, &record, version);
        }
    }
    Ok(())
}

fn hold(
    shared: &Arc<Shared>,
    local: &Arc<Local>,
    number: u32,
    record: &ProgressRecord,
    version: u64,
) {
    let now = Now::of(&shared.clock);
    let claim = shared.stamp();
    let held = partition::held(claim, version, record, now);
    local.hold(held, number, record, now);
    let mut state = local.state();
    partition::spawn(shared, local, &mut state, number, claim);
}

/// Learns what the topic has dropped.
async fn trim(shared: &Shared, local: &Local) -> Result<()> {
    if local.state().held.is_empty() {
        return Ok(());
    }
    let extent = shared.backend.extent(&local.log).await?;
    let firsts: Vec<u64> = extent.ranges.iter().map(|range| range.start).collect();
    local.trim(&mut local.state(), &firsts, Now::of(&shared.clock));
    Ok(())
}

async fn assign(shared: &Arc<Shared>, local: &Arc<Local>, books: &Books) -> Result<()> {
    let me = &shared.node.id;
    let lives = |node: &String| node == me || shared.node.lives(node);
    let (mut members, dead): (Vec<_>, Vec<_>) = books.members.keys().partition(|node| lives(node));
    for dead in dead {
        let key = member_key(&local.group, dead);
        shared.backend.remove(&local.log, &key).await?;
    }
    if !members.contains(&me) {
        members.push(me);
        members.sort();
    }
    let turn = u64::from(crc32c::crc32c(local.group.as_str().as_bytes()));
    let Some((config, _)) = &books.config else {
        return Ok(());
    };
    let mut claims = Vec::new();
    for number in 0..local.log.config.partitions {
        let place = (u64::from(number) + turn) % members.len() as u64;
        let is_mine = members[usize::try_from(place).unwrap_or_default()] == me;
        let is_held = local.state().held.contains_key(&number);
        if is_held && !is_mine {
            give_up(shared, local, number).await?;
        } else if is_held {
            resume(local, number);
        } else if is_mine {
            claims.push(claim(shared, local, number, books, config));
        }
    }
    // At once, so that a group over many partitions does not begin with one after the other.
    try_join_all(claims).await.map(drop)
}

/// It was to be given up, and now it is ours again.
fn resume(local: &Local, number: u32) {
    let mut state = local.state();
    if let Some(held) = state.held.get_mut(&number)
        && std::mem::take(&mut held.is_draining)
    {
        state.machine.resume(number);
        drop(state);
        local.changed.send_replace(());
    }
}

async fn claim(
    shared: &Arc<Shared>,
    local: &Arc<Local>,
    number: u32,
    books: &Books,
    config: &GroupRecord,
) -> Result<()> {
    let known = books.progress.get(&number);
    if let Some(holder) = known.and_then(|(record, _)| record.holder.as_ref())
        && *holder != shared.node.id
        && shared.node.lives(holder)
    {
        return Ok(());
    }
    let start = config
        .starts
        .get(number as usize)
        .copied()
        .unwrap_or_default();
    let mut record = ProgressRecord::starting(config.incarnation, start);
    let version = known.map_or(0, |(_, version)| *version);
    // What was left by a group of that name that was deleted says nothing.
    if let Some((known, _)) = known.filter(|(known, _)| known.group == config.incarnation) {
        record = known.clone();
    }
    record.holder = Some(shared.node.id.clone());
    record.stamp = shared.stamp();
    let key = progress_key(&local.group, number);
    match partition::put(shared, local, &key, &record, version).await {
        Ok(Some(version)) => hold(shared, local, number, &record, version),
        // Somebody was faster, or the list was late: the next look tells.
        Ok(None) => {}
        Err(why) => local.end(why),
    }
    Ok(())
}

/// Gives a partition up when nobody works on its messages any more; true when it is done.
async fn give_up(shared: &Arc<Shared>, local: &Arc<Local>, number: u32) -> Result<bool> {
    let (record, version) = {
        let mut state = local.state();
        state.machine.pause(number);
        let is_idle = state.machine.is_idle(number);
        let Some(held) = state.held.get_mut(&number) else {
            return Ok(true);
        };
        held.is_draining = true;
        if !is_idle || held.is_busy() {
            return Ok(false);
        }
        // The writer must not write between this and the release.
        held.claim = shared.stamp();
        held.tasks.clear();
        let stamp = (shared.stamp(), held.round);
        let of = local.incarnation;
        let record = ProgressRecord::new(of, None, stamp, &held.progress, &held.retries);
        (record, held.version)
    };
    let key = progress_key(&local.group, number);
    let put = partition::put(shared, local, &key, &record, version).await;
    local.release(&mut local.state(), number);
    match put {
        Ok(_) => shared.backend.hint(&local.log, &local.group).await,
        Err(why) => local.end(why),
    }
    Ok(true)
}

/// Nobody consumes here any more.
async fn leave(shared: &Arc<Shared>, local: &Arc<Local>, books: &Books) -> Result<Next> {
    let held: Vec<u32> = local.state().held.keys().copied().collect();
    let mut is_done = true;
    for number in held {
        is_done &= give_up(shared, local, number).await?;
    }
    if !is_done {
        return Ok(Next::Wait);
    }
    if books.members.contains_key(&shared.node.id) {
        let key = member_key(&local.group, &shared.node.id);
        shared.backend.remove(&local.log, &key).await?;
        shared.backend.hint(&local.log, &local.group).await;
    }
    Ok(if shared.forget_unused(local) {
        Next::Done
    } else {
        Next::Wait
    })
}
