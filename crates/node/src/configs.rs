//! The master key of the config centre.

use sinew_coordination::configs::MasterKeys;
use sinew_core::{Error, Kind, Result};

use crate::{Config, DataFolder};

/// The keys that the configuration names, or the one of the data folder, made when it is not there.
pub(crate) fn master_keys(config: &Config, folder: &DataFolder) -> Result<MasterKeys> {
    let Some(place) = &config.configs_master_key else {
        let (key, _) = folder.token(DataFolder::CONFIG_MASTER_KEY)?;
        return MasterKeys::read(&key);
    };
    let unreadable = |why: String| {
        Error::new(
            Kind::InvalidArgument,
            "config.master_key",
            format!("configs.master_key names {place:?}, and {why}"),
        )
    };
    let text = match place.strip_prefix("env:") {
        Some(variable) => std::env::var(variable)
            .map_err(|_| unreadable("there is no such variable".to_owned()))?,
        None => std::fs::read_to_string(place).map_err(|error| unreadable(error.to_string()))?,
    };
    let keys = MasterKeys::read(&text).map_err(|error| unreadable(error.message().to_owned()))?;
    match keys.is_empty() {
        true => Err(unreadable("there is no key in it".to_owned())),
        false => Ok(keys),
    }
}
