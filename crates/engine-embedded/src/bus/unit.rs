//! The bus's side of a unit: publishes and acks that happen together with something else, or not.

use std::sync::Arc;

use sinew_core::{Name, Result};
use sinew_engine::bus::{
    Message, Published, Receipt,
    group::{Effect, Input},
    group_unknown, message_invalid, receipt_stale,
};

use super::{
    CAPABILITY,
    face::{BusFace, Settlement},
    message::{self, Draft},
    operation::Operation,
    stage::Checked,
};

/// What a unit publishes and acknowledges, encoded where it comes from.
pub(crate) struct BusUnit {
    publishes: Vec<(Name, Vec<Draft>)>,
    acks: Vec<BusAck>,
}

/// Deliveries of a group that a unit settles.
pub(crate) struct BusAck {
    pub(crate) topic: Name,
    pub(crate) group: Name,
    pub(crate) receipts: Vec<Receipt>,
}

/// A [`BusUnit`] that fits, to be staged in the same breath.
pub(crate) struct BusChecked {
    publishes: Vec<(Checked, Vec<Draft>)>,
    acks: Vec<(u64, u64, Vec<Receipt>)>,
}

impl BusUnit {
    /// Checks what can be checked without the bus: `bus.message_invalid` (InvalidArgument).
    pub(crate) fn new(publishes: Vec<(Name, Vec<Message>)>, acks: Vec<BusAck>) -> Result<Self> {
        let mut names: Vec<&Name> = publishes.iter().map(|(topic, _)| topic).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(message_invalid("a unit names each topic once"));
        }
        let all: u64 = publishes.iter().map(|(_, messages)| weight(messages)).sum();
        if all > CAPABILITY.limits.publish_bytes {
            return Err(message_invalid("a unit may publish as much as one call"));
        }
        let publishes = publishes.into_iter().map(|(topic, messages)| {
            CAPABILITY.limits.check_messages(&messages)?;
            Ok((topic, message::drafts(&messages)))
        });
        Ok(Self {
            publishes: publishes.collect::<Result<_>>()?,
            acks,
        })
    }

    /// What it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let drafts = self.publishes.iter().flat_map(|(_, drafts)| drafts);
        let receipts = self.acks.iter().map(|ack| 64 * ack.receipts.len());
        drafts.map(|draft| draft.body.len() + 64).sum::<usize>() + receipts.sum::<usize>()
    }
}

fn weight(messages: &[Message]) -> u64 {
    messages.iter().map(Message::weight).sum()
}

impl BusFace {
    /// Checks a unit against the state with everything staged before it; stages nothing but room
    /// that is made. Every receipt must be of a delivery that is current: a message that was
    /// settled by somebody else must not be handled twice. Not while [`BusFace::is_taken`].
    pub(crate) fn check_unit(&mut self, unit: BusUnit, part: &mut Vec<u8>) -> Result<BusChecked> {
        let mut acks = Vec::with_capacity(unit.acks.len());
        {
            let shared = Arc::clone(&self.shared);
            let mut state = shared.state.lock();
            for ack in unit.acks {
                let (topic, group, _) = state.member(&ack.topic, &ack.group)?;
                let (topic, group) = (topic.id, group);
                // Deliveries that are late end first.
                state.run_elsewhere(topic, group, Input::Tick, shared.clock.monotonic());
                let member = state.member_mut(topic, group);
                let machine = &member.ok_or_else(|| group_unknown(&ack.group))?.machine;
                for receipt in &ack.receipts {
                    if !machine.is_current(receipt.position, receipt.token) {
                        return Err(receipt_stale(receipt));
                    }
                }
                acks.push((topic, group, ack.receipts));
            }
        }
        let publishes = unit.publishes.into_iter().map(|(topic, drafts)| {
            let checked = self.check_publish(&topic, &drafts, part)?;
            Ok((checked, drafts))
        });
        let publishes = publishes.collect::<Result<_>>()?;
        Ok(BusChecked { publishes, acks })
    }

    /// Stages a unit; answers what becomes of each message once the turn is durable.
    pub(crate) fn stage_unit(
        &mut self,
        unit: BusChecked,
        part: &mut Vec<u8>,
    ) -> Vec<Vec<Published>> {
        let published = unit
            .publishes
            .into_iter()
            .map(|(checked, drafts)| self.stage_publish(checked, drafts, part))
            .collect();
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        for (topic, group, receipts) in unit.acks {
            let mut positions = Vec::with_capacity(receipts.len());
            for Receipt { position, token } in receipts {
                let ack = Input::Ack { position, token };
                for effect in state.run(topic, group, ack, shared.clock.monotonic()) {
                    match effect {
                        Effect::Settle { position, token } => {
                            positions.push(position);
                            self.staged.settled.push(Settlement {
                                topic,
                                group,
                                position,
                                token,
                                // It goes with the rest of the unit, or not at all.
                                is_bound: true,
                            });
                        }
                        Effect::Stale { .. } | Effect::Deliver { .. } => {}
                        effect => state.outbox.push_back((topic, group, effect)),
                    }
                }
            }
            let settled = Operation::Settled {
                topic,
                group,
                positions,
            };
            settled.put(part);
            self.staged.needs_room = true;
        }
        published
    }
}
