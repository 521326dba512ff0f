//! What can be done with the embedded store of a node that does not run.

use std::path::Path;

use sinew_core::Result;
pub use sinew_engine_embedded::{
    Damage, InspectOptions, Inspection, StoreRepaired, TopicSummary, inspect,
};

use crate::DataFolder;

/// Saves what is whole of the embedded store in a data folder, or in the folder of a store itself;
/// see [`sinew_engine_embedded::repair_store`]. `node.data_locked` (FailedPrecondition) when a node
/// runs on it.
pub fn repair(folder: &Path) -> Result<StoreRepaired> {
    let is_data_folder = folder.join(DataFolder::ADMIN_TOKEN).exists();
    let _lock = is_data_folder
        .then(|| DataFolder::open(folder))
        .transpose()?;
    sinew_engine_embedded::repair_store(folder)
}
