//! The ground that every crate of Sinew stands on: names and ids, time, errors, backoff, balancing
//! and graceful drain. It knows nothing of HTTP, storage or any block.

#![warn(missing_docs)]

mod backoff;
mod balance;
mod clock;
mod drain;
mod error;
mod id;
mod name;

pub use backoff::Backoff;
pub use balance::least_loaded_of_two;
pub use clock::{Clock, ManualClock, Timestamp};
pub use drain::{Drain, Guard};
pub use error::{Error, Kind, Problem, Result, Retry};
pub use id::new_id;
pub use name::{InstanceId, Name};
