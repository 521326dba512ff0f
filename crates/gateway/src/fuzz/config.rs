//! The gateway's part of `sinew.toml`.

use serde::{Deserialize, Serialize};

use super::{Outcome, fuzz, holds};
use crate::{GatewayConfig, Route, Router, Upstream};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    gateway: GatewayConfig,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    upstreams: Vec<Upstream>,
}

fn file(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else {
        return Ok(());
    };
    let Ok(file) = toml::from_str::<File>(text) else {
        return Ok(());
    };
    let written = toml::to_string(&file).map_err(|error| format!("not written: {error}"))?;
    let back = toml::from_str::<File>(&written);
    holds!(
        back.as_ref() == Ok(&file),
        "written as {written}, read as {back:?}"
    );
    let faults = Router::faults(&file.routes);
    let built = Router::build(file.routes.clone());
    holds!(
        built.is_ok() == faults.is_empty(),
        "{faults:?}, and yet {}",
        built.is_ok()
    );
    for fault in &faults {
        holds!(fault.index < file.routes.len(), "a fault of no route");
        holds!(!fault.message.is_empty(), "a fault without a word");
    }
    Ok(())
}

#[test]
fn sinew_toml() {
    let seeds: &[&[u8]] = &[
        b"[gateway]\naddress = \"127.0.0.1:0\"\nthreads = 2\naccess_log = \"stderr\"\nproxy_protocol_from = [\"10.0.0.0/8\"]\n[gateway.limits]\nhead_bytes = \"32KiB\"\nhead_timeout = \"10s\"\nheaders = 100\n",
        b"[[routes]]\npath = \"/api/orders/**\"\nservice = \"orders\"\nauth = [\"jwt\"]\nstrip_prefix = \"/api\"\n[[routes]]\nhost = \"*.www.example\"\npath = \"/users/{id}\"\nservice = \"users\"\nrewrite = \"/v2/{id}\"\nmethods = [\"GET\"]\n",
        b"[[routes]]\npath = \"~/a/\\\\d+\"\nheaders = [{ name = \"x\", regex = \"[a-z]+\" }]\ncookies = [{ name = \"c\", exact = \"1\" }]\nquery = [{ name = \"q\", present = false }]\nsources = [\"10.0.0.0/8\"]\nbackends = [{ service = \"a\", weight = 9 }, { service = \"b\", weight = 1 }]\n",
        b"[[routes]]\npath = \"/old/**\"\nredirect = { to = \"https://{host}/new{rest}\" }\n[[upstreams]]\nservice = \"a\"\n",
    ];
    let words: &[&[u8]] = &[
        b"\"",
        b"\n",
        b"[",
        b"]",
        b"[[routes]]\n",
        b"path = ",
        b"/**",
        b"{id}",
        b"0",
        b"-1",
        b"99999999999999999999",
        b"\"10s\"",
        b"\"1ms\"",
        b"\"16EiB\"",
        b"true",
        b"= ",
        b"priority = 5\n",
        b"timeout = \"1s\"\n",
        b"max_body = \"1MiB\"\n",
        b"service = \"x\"\n",
        b"weight = 0",
        b"\\",
        b"\xc3\xa4",
        b"1e400",
        b"nan",
        b"*.",
    ];
    fuzz(seeds, words, file);
}
