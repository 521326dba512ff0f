use serde::{Deserialize, Serialize};
use sinew_core::Result;

use crate::{
    policy::{self, Upstream},
    route::Route,
    router::Router,
};

/// Everything that says where requests go: validated, versioned and replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// Which requests go to which service.
    pub routes: Vec<Route>,
    /// How services are treated; those that do not stand here have the defaults.
    pub upstreams: Vec<Upstream>,
}

impl Routing {
    /// Whether a gateway would take it: `gateway.routes_invalid` or `gateway.upstreams_invalid`
    /// (InvalidArgument) otherwise, with all that is wrong.
    pub fn check(&self) -> Result<()> {
        policy::check(&self.upstreams)?;
        Router::build(self.routes.clone()).map(drop)
    }

    /// These and the others after them. What it adds up to is to be checked as a whole.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        // Taken apart by name, so that whatever joins them later cannot be left out here.
        let Self { routes, upstreams } = others;
        self.routes.extend(routes);
        self.upstreams.extend(upstreams);
        self
    }
}
