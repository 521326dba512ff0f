//! The attack corpus of the gateway beside its peers.

use anyhow::Result;

use crate::{engines, run::step};

/// Sends it through nginx, HAProxy and Sinew; fails where Sinew passes on what both refuse.
pub(crate) fn run() -> Result<()> {
    engines::install(&["nginx", "haproxy"])?;
    let test = ["test", "-p", "sinew-gateway", "--features", "servers"];
    let only = ["--test", "gateway", "peers", "--", "--nocapture"];
    step("cargo", &[&test[..], &only].concat(), &[])
}
