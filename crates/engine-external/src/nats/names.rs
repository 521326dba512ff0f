//! What streams and subjects are called. With the namespace `shop` and the topic `orders`:
//! - stream `shop_orders`, subjects `shop.bus.t.orders.<incarnation>.<partition>.m`, and for dead letters
//!   `….<partition>.o.<mark>`;
//! - stream `shop_orders_<incarnation>`, subjects `shop.bus.g.orders.<incarnation>.<key>`: its groups;
//! - stream `shop__nodes`, subjects `shop.bus.n.<node>`: the beats;
//! - no stream, subjects `shop.bus.h.orders.<group>`: hints.
//!
//! Names have no underscores and no dots, so none of these can be taken for another.

use sinew_core::Name;

use crate::bus_shell::Log;

#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) namespace: Name,
}

impl Names {
    pub(super) fn stream(&self, topic: &Name) -> String {
        format!("{}_{topic}", self.namespace)
    }

    pub(super) fn topics(&self) -> String {
        format!("{}.bus.t.>", self.namespace)
    }

    pub(super) fn messages(&self, topic: &Name, incarnation: &str) -> String {
        format!("{}.bus.t.{topic}.{incarnation}", self.namespace)
    }

    pub(super) fn partition(&self, log: &Log, partition: u32) -> String {
        format!(
            "{}.{partition}",
            self.messages(&log.topic, &log.incarnation)
        )
    }

    pub(super) fn groups_stream(&self, log: &Log) -> String {
        format!("{}_{}_{}", self.namespace, log.topic, log.incarnation)
    }

    pub(super) fn groups(&self, log: &Log) -> String {
        format!("{}.bus.g.{}.{}", self.namespace, log.topic, log.incarnation)
    }

    pub(super) fn nodes_stream(&self) -> String {
        format!("{}__nodes", self.namespace)
    }

    pub(super) fn nodes(&self) -> String {
        format!("{}.bus.n", self.namespace)
    }

    pub(super) fn hint(&self, log: &Log, group: &Name) -> String {
        format!("{}.bus.h.{}.{group}", self.namespace, log.topic)
    }
}
