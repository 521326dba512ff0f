//! The gateway's routes while it runs: those of this node's `sinew.toml` and, after them, the stored
//! ones that all nodes over one store share.
//!
//! The stored ones are one document ([`sinew_coordination::documents`]), changed through the control
//! API (`control`) and followed by every node (`apply`). Both together must be a whole that the
//! gateway takes (`own`); a version that is none with this node's file, or that this binary does not
//! understand, is not served, and the one that was before stays. A copy of the version that is served
//! lies in the data folder (`snapshot`), for a start while the store is away.

mod apply;
mod control;
mod difference;
mod edit;
mod own;
mod snapshot;
mod start;

#[cfg(test)]
mod tests;

pub use difference::differences;

pub(crate) use control::Control;
pub(crate) use own::Own;
pub(crate) use start::{Begun, begin};

use sinew_core::Name;

/// The document with the stored routes.
fn document_name() -> Name {
    Name::new("routes").expect("a valid name")
}
