//! h2spec: HTTP/2 and HPACK, with prior knowledge and over TLS. Every case passes; none is left out.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use sinew_testbed::{Program, Server, answers, find, h2spec};

use super::node::Node;

/// As many cases as the version has that is installed: fewer would mean that some were not asked.
const CASES: usize = 146;

pub(super) fn run() -> Result<()> {
    super::install(&["nginx", "h2spec"])?;
    let service = Server::start(Service)?;
    let node = Node::start(service.port())?;
    let reports = super::reports("h2spec")?;
    for (name, address, options) in [
        ("prior knowledge", node.plain, &[][..]),
        ("tls", node.tls, &["--tls", "--insecure"][..]),
    ] {
        println!("\n── h2spec, {name}");
        let output = Command::new(h2spec()?)
            .args(["--host", &address.ip().to_string()])
            .args(["--port", &address.port().to_string()])
            // Cases that many servers fail are asked, too. A wait is as long as a busy machine needs.
            .args(["--strict", "--timeout", "10"])
            .args(options)
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let report = reports.join(format!("{}.txt", name.replace(' ', "-")));
        fs::write(&report, said.as_bytes())?;
        let counted = said.lines().rev().find_map(Counted::read);
        let counted =
            counted.with_context(|| format!("h2spec did not finish: see {}", report.display()))?;
        println!("   {} of {} passed", counted.passed, counted.cases);
        if counted.passed != counted.cases || !output.status.success() {
            let failures = said.split("Failures:").nth(1).unwrap_or(&said);
            bail!("h2spec fails over {name}: {}", failures.trim());
        }
        ensure!(
            counted.cases >= CASES,
            "h2spec asked only {} of {CASES} cases",
            counted.cases
        );
    }
    Ok(())
}

/// `146 tests, 145 passed, 0 skipped, 1 failed`
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    cases: usize,
    passed: usize,
}

impl Counted {
    fn read(line: &str) -> Option<Self> {
        let mut counts = line.split(", ").map(|part| part.split_once(' '));
        let mut next = |what: &str| match counts.next()?? {
            (count, name) if name == what => count.parse().ok(),
            _ => None,
        };
        let (cases, passed) = (next("tests")?, next("passed")?);
        Some(Self { cases, passed })
    }
}

/// nginx, which answers a request once it is whole, as it passes it on to itself: several cases ask
/// what becomes of a request that goes on, and an answer to its first half would come in between.
struct Service;

impl Program for Service {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["nginx-light"]
    }

    fn prepare(&self, folder: &Path, port: u16) -> Result<()> {
        let config = format!(
            "daemon off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  \
             client_body_temp_path b;\n  proxy_temp_path p;\n  fastcgi_temp_path f;\n  uwsgi_temp_path u;\n  \
             scgi_temp_path s;\n  server {{\n    listen 127.0.0.1:{port};\n    \
             location / {{ proxy_pass http://127.0.0.1:{port}/answer/; }}\n    \
             location /answer/ {{ return 200 \"{}\"; }}\n  }}\n}}\n",
            // More than the smallest window that a case offers.
            "sinew ".repeat(64),
        );
        Ok(fs::write(folder.join("nginx.conf"), config)?)
    }

    fn command(&self, folder: &Path, _port: u16) -> Result<Command> {
        let mut command = Command::new(find("nginx", &[], "nginx-light")?);
        command.arg("-p").arg(folder).args(["-c", "nginx.conf"]);
        Ok(command)
    }

    fn is_ready(&self, _folder: &Path, port: u16) -> bool {
        answers(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read() {
        assert_eq!(
            Counted::read("146 tests, 145 passed, 0 skipped, 1 failed"),
            Some(Counted {
                cases: 146,
                passed: 145
            })
        );
        assert_eq!(Counted::read("Finished in 2.4 seconds"), None);
    }
}
