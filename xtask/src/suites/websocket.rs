//! Autobahn|Testsuite: its client talks to its echo server directly, and through the gateway, plain and over
//! TLS. A case that does worse through the gateway fails; what the server itself does is no matter here.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sinew_testbed::{Autobahn, Echo, Server};

use super::node::Node;

/// What is asked: framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, and limits (messages up to 16 MiB).
const CASES: &[&str] = &[
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*",
];
/// Compression, by content and by parameters. Over TLS it would be the same bytes once more.
const COMPRESSION: &[&str] = &["12.*", "13.*"];

/// What of it is not asked: a thousand messages each of 8 KiB and more, which take two Pythons the better part of an hour.
/// To the gateway they are the same frames with more bytes in each, and category 9 has longer ones.
const LEFT_OUT: &[&str] = &[
    "6", "7", "8", "9", "10", "12", "13", "14", "15", "16", "17", "18",
];

/// Fewer would mean that some were not asked.
const LEAST: usize = 301;
const LEAST_COMPRESSED: usize = 72;

/// By its name, what a case did.
type Cases = BTreeMap<String, Outcome>;

pub(super) fn run() -> Result<()> {
    super::install(&["autobahn"])?;
    let echo = Server::start(Echo)?;
    let node = Node::start(echo.port())?;
    let reports = super::reports("websocket")?;
    let mut found = Vec::new();
    for (name, url, compression, least) in [
        (
            "direct",
            format!("ws://{}", echo.address()),
            COMPRESSION,
            LEAST + LEAST_COMPRESSED,
        ),
        (
            "gateway",
            format!("ws://{}", node.plain),
            COMPRESSION,
            LEAST + LEAST_COMPRESSED,
        ),
        ("gateway-tls", format!("wss://{}", node.tls), &[], LEAST),
    ] {
        println!("\n── Autobahn|Testsuite, {name}");
        let asked = [CASES, compression].concat();
        let cases = ask(name, &url, &asked, &reports.join(name))?;
        ensure!(
            cases.len() >= least,
            "it asked only {} of {least} cases",
            cases.len()
        );
        let good = cases.values().filter(|outcome| outcome.failures() == 0);
        println!("   {} cases, {} without fault", cases.len(), good.count());
        found.push((name, cases));
    }
    let (_, direct) = found.remove(0);
    let worse: Vec<String> = found
        .iter()
        .flat_map(|(name, cases)| worse(&direct, cases).map(move |case| format!("{name}: {case}")))
        .collect();
    if !worse.is_empty() {
        bail!(
            "the gateway makes cases fail:\n{}\nsee {}",
            worse.join("\n"),
            reports.display()
        );
    }
    Ok(())
}

/// Runs the suite's client against an address.
fn ask(agent: &str, url: &str, asked: &[&str], folder: &Path) -> Result<Cases> {
    fs::create_dir_all(folder)?;
    let left_out: Vec<String> = ["12", "13"]
        .iter()
        .flat_map(|category| {
            LEFT_OUT
                .iter()
                .map(move |case| format!("{category}.*.{case}"))
        })
        .collect();
    let spec = json!({
        "outdir": folder,
        "servers": [{ "agent": agent, "url": url }],
        "cases": asked,
        "exclude-cases": left_out,
        "exclude-agent-cases": {},
    });
    let path = folder.join("spec.json");
    fs::write(&path, spec.to_string())?;
    let output = client(&path)?
        .stdin(Stdio::null())
        .output()
        .context("wstest does not run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "wstest failed: {said}");
    let index = fs::read(folder.join("index.json")).context("wstest left no report")?;
    let index: Value = serde_json::from_slice(&index)?;
    let cases = index[agent].as_object().context("its report is empty")?;
    Ok(cases
        .iter()
        .map(|(name, case)| (name.clone(), Outcome::of(case)))
        .collect())
}

fn client(spec: &Path) -> Result<Command> {
    let mut command = Autobahn::open()?.command();
    command.args(["-m", "fuzzingclient", "-s"]).arg(spec);
    Ok(command)
}

/// What a case did, and how its connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    behaviour: String,
    close: String,
    /// The code that the server closed with, which has to come through as it is.
    code: Option<u64>,
}

impl Outcome {
    fn of(case: &Value) -> Self {
        let text = |key: &str| case[key].as_str().unwrap_or("absent").to_owned();
        Self {
            behaviour: text("behavior"),
            close: text("behaviorClose"),
            code: case["remoteCloseCode"].as_u64(),
        }
    }

    fn failures(&self) -> usize {
        let fine = ["OK", "INFORMATIONAL"];
        [&self.behaviour, &self.close]
            .iter()
            .filter(|what| !fine.contains(&what.as_str()))
            .count()
    }
}

/// The cases that did not do as well as directly, or that closed with another code.
fn worse<'a>(direct: &'a Cases, through: &'a Cases) -> impl Iterator<Item = String> + 'a {
    through.iter().filter_map(|(name, outcome)| {
        let Some(directly) = direct.get(name) else {
            return Some(format!("{name} was not asked directly"));
        };
        let as_good = outcome.failures() < directly.failures() || outcome == directly;
        (!as_good).then(|| format!("{name}: {outcome:?}, directly {directly:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(behaviour: &str, code: u64) -> Cases {
        let case = json!({ "behavior": behaviour, "behaviorClose": "OK", "remoteCloseCode": code });
        BTreeMap::from([("1.1".to_owned(), Outcome::of(&case))])
    }

    #[test]
    fn what_is_worse_through_the_gateway_is_found() {
        let count = |direct: &Cases, through: &Cases| worse(direct, through).count();
        let good = cases("OK", 1000);
        assert_eq!(count(&good, &good), 0);
        assert_eq!(count(&good, &cases("FAILED", 1000)), 1);
        assert_eq!(count(&good, &cases("OK", 1006)), 1);
        assert_eq!(count(&Cases::new(), &good), 1);
        assert_eq!(count(&cases("FAILED", 1000), &good), 0);
        assert_eq!(
            count(&cases("NON-STRICT", 1000), &cases("NON-STRICT", 1000)),
            0
        );
    }
}
