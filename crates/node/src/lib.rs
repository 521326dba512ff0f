//! The composition root: reads the configuration, opens the engines by URL, builds the blocks,
//! starts the edges over them, and stops everything in order.

mod folder;

pub use folder::{DataFolder, Endpoints};
