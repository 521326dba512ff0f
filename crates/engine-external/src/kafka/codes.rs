//! Kafka's error codes that are told apart.

use sinew_core::Error;

use super::ENGINE;
use crate::fault;

pub(super) const OUT_OF_RANGE: i16 = 1;
pub(super) const NO_TOPIC: i16 = 3;
pub(super) const NO_LEADER: i16 = 5;
pub(super) const NOT_LEADER: i16 = 6;
pub(super) const TIMED_OUT: i16 = 7;
pub(super) const NOT_ENOUGH_REPLICAS: i16 = 19;
pub(super) const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = 20;
pub(super) const TOPIC_EXISTS: i16 = 36;
const NOT_CONTROLLER: i16 = 41;
const STORAGE_FAILED: i16 = 56;
const OFFSET_NOT_AVAILABLE: i16 = 78;

/// Whether the same may succeed soon, perhaps at another broker. Nothing happened.
pub(super) fn may_pass(code: i16) -> bool {
    matches!(
        code,
        NO_LEADER
            | NOT_LEADER
            | 8
            | 9
            | 14
            | 15
            | NOT_ENOUGH_REPLICAS
            | NOT_CONTROLLER
            | STORAGE_FAILED
            | 74
            | 75
            | 76
            | OFFSET_NOT_AVAILABLE
            | 89
            | 100
    )
}

/// Whether it may have happened.
pub(super) fn is_unknown(code: i16) -> bool {
    matches!(code, TIMED_OUT | NOT_ENOUGH_REPLICAS_AFTER_APPEND)
}

pub(super) fn explain(code: i16) -> Error {
    match code {
        // Topic, group, cluster, transactional id, and SASL.
        29 | 30 | 31 | 53 | 58 => fault::denied(ENGINE, format!("Kafka's error {code}")),
        33..=35 => fault::unsuitable(
            ENGINE,
            format!("it is not set up as the URL says (Kafka's error {code})"),
        ),
        38 => fault::unsuitable(
            ENGINE,
            "it has fewer brokers than the option `replicas` wants copies",
        ),
        42 => fault::unexpected(ENGINE, "a request that Kafka calls invalid"),
        44 => fault::unsuitable(
            ENGINE,
            "its policy does not allow the topics that Sinew makes",
        ),
        NO_TOPIC => fault::unavailable(ENGINE, "a topic of Sinew's is not there"),
        code if is_unknown(code) || may_pass(code) => {
            fault::unavailable(ENGINE, format!("Kafka's error {code}"))
        }
        code => fault::unexpected(ENGINE, format!("Kafka's error {code}")),
    }
}
