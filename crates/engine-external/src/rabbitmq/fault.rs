//! What RabbitMQ's refusals mean.

use lapin::ErrorKind;
use sinew_core::{Error, Kind, Retry};

use super::ENGINE;
use crate::fault;

/// AMQP's reply codes that we tell apart.
const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// We are not let in, or not to what we need.
pub(super) fn is_denied(error: &lapin::Error) -> bool {
    matches!(reply_code(error), Some(ACCESS_REFUSED | NOT_ALLOWED))
}

/// The error that callers see.
pub(super) fn of(error: lapin::Error) -> Error {
    let why = error.to_string();
    match reply_code(&error) {
        Some(ACCESS_REFUSED | NOT_ALLOWED) => fault::denied(ENGINE, why),
        Some(PRECONDITION_FAILED) => fault::unsuitable(
            ENGINE,
            "a queue of Sinew's was declared otherwise than Sinew does, or the server is older than 3.10",
        )
        .with_context(why),
        _ => fault::unavailable(ENGINE, why),
    }
}

/// The broker takes no messages because it is short of memory or disk; nothing was sent.
pub(super) fn blocked() -> Error {
    let message = "RabbitMQ takes no messages now: it is short of memory or disk";
    Error::new(Kind::ResourceExhausted, "engine.full", message).with_retry(Retry::Yes)
}
