//! The ground that every crate of Sinew stands on: names and ids, time, errors, backoff, balancing,
//! graceful drain, and times and sizes as people write them. It knows nothing of HTTP, storage or any block.

#![warn(missing_docs)]

mod backoff;
mod balance;
mod clock;
mod drain;
mod error;
mod id;
mod name;
pub mod units;

pub use backoff::Backoff;
pub use balance::least_loaded_of_two;
pub use clock::{Clock, ManualClock, Timestamp};
pub use drain::{Drain, Guard};
pub use error::{Error, Kind, Problem, Result, Retry};
pub use id::new_id;
pub use name::{InstanceId, Name};
