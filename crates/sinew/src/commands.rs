//! One file per subcommand.

pub(crate) mod routes;
pub(crate) mod serve;
pub(crate) mod services;
pub(crate) mod status;
