//! One file per subcommand.

pub(crate) mod backup;
pub(crate) mod config;
pub(crate) mod inspect;
pub(crate) mod instances;
pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod routes;
pub(crate) mod run_child;
pub(crate) mod serve;
pub(crate) mod services;
pub(crate) mod shop;
pub(crate) mod status;
pub(crate) mod top;
