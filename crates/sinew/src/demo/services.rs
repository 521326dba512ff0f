use std::{net::SocketAddr, path::PathBuf, time::Duration};

use rand::RngExt;
use sinew_core::{Clock, Error, InstanceId, Kind, Name, Result};
use sinew_launcher::{Launcher, Logs, Options, Phase, ServiceSpec, Stopped};

use super::{folder::Folder, platform::Platform};

/// In the order of their start; they stop in reverse, so that whom others need goes last.
pub(super) const NAMES: [&str; 5] = ["users", "products", "carts", "payments", "orders"];
/// How long a service may finish what it is at.
const GRACE: Duration = Duration::from_secs(15);

/// Reads `orders=3`.
pub(super) fn replicas(text: &str) -> Result<(Name, u32), String> {
    let parts = text
        .split_once('=')
        .and_then(|(name, count)| Some((name, count.parse().ok()?)));
    match parts {
        Some((name, count @ 1..=32)) if NAMES.contains(&name) => {
            Ok((Name::new(name).map_err(|error| error.to_string())?, count))
        }
        _ => Err(format!(
            "write SERVICE=N with one of {} and 1 to 32",
            NAMES.join(", ")
        )),
    }
}

/// The shop's services as processes.
pub(super) struct Services {
    launcher: Launcher,
    logs: PathBuf,
}

/// One healthy instance.
#[derive(serde::Serialize)]
pub(super) struct Row {
    pub(super) service: Name,
    pub(super) instance: InstanceId,
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
}

impl Services {
    /// Starts all of them at once.
    pub(super) async fn start(
        folder: &Folder,
        platform: &Platform,
        replicas: &[(Name, u32)],
        seed: u64,
    ) -> Result<Self> {
        let this = std::env::current_exe().map_err(|error| {
            let text = "the path of this executable is not known, so it cannot start itself";
            Error::new(Kind::Internal, "demo.executable", text).with_source(error)
        })?;
        let logs = folder.logs();
        let wrapper = vec![this.clone().into(), "run-child".into(), "--".into()];
        let launcher = Launcher::start(Options {
            wrapper,
            logs: Logs::files(&logs),
        })?;
        let key = secret();
        for name in NAMES {
            let name = Name::new(name)?;
            platform.directory().forget_earlier(&name).await;
            let mut spec = ServiceSpec::new(name.clone(), &this)
                .args(["shop", name.as_str()])
                .env("SINEW_URL", platform.control_url())
                .env("SINEW_TOKEN", platform.service_token())
                .env("SINEW_SERVICE_KEY", &key)
                .env("SHOP_BANK_SEED", seed.to_string())
                // These passwords protect nobody, and the hashes would take most of the machine.
                .env("SHOP_ARGON2_MEMORY_KIB", "1024")
                .env("SHOP_ARGON2_PASSES", "1");
            spec.data = Some(folder.shop());
            spec.grace = GRACE;
            if let Some((_, count)) = replicas.iter().rev().find(|(of, _)| *of == name) {
                spec.replicas = *count;
            }
            launcher.run(spec)?;
        }
        Ok(Self { launcher, logs })
    }

    pub(super) fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Waits until every instance is registered and up; answers where each one is.
    pub(super) async fn healthy(
        &self,
        platform: &Platform,
        clock: &Clock,
        limit: Duration,
    ) -> Result<Vec<Row>> {
        let began = clock.monotonic();
        loop {
            let mut rows = Vec::new();
            let mut missing = Vec::new();
            for status in self.launcher.instances() {
                let address = platform.up(&status.service, &status.instance);
                match (status.pid, address) {
                    (Some(pid), Some(address)) => rows.push(Row {
                        service: status.service,
                        instance: status.instance,
                        pid,
                        address,
                    }),
                    _ => missing.push(status),
                }
            }
            // One that fell this early will fall again; waiting would only hide why.
            let hopeless = |restarts, phase| restarts >= 3 || phase == Phase::GaveUp;
            let fallen = missing
                .iter()
                .find(|status| hopeless(status.restarts, status.phase));
            let late = clock.monotonic().saturating_sub(began) > limit;
            match (
                fallen.or_else(|| missing.first().filter(|_| late)),
                missing.is_empty(),
            ) {
                (None, true) => return Ok(rows),
                (None, false) => clock.sleep(Duration::from_millis(10)).await,
                (Some(status), _) => return Err(self.unhealthy(&status.instance, fallen.is_some())),
            }
        }
    }

    fn unhealthy(&self, instance: &InstanceId, fell: bool) -> Error {
        let happened = if fell {
            "ended again and again"
        } else {
            "was not healthy in time"
        };
        let log = self.logs.join(format!("{instance}.log"));
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        let text = format!("{instance} {happened}; the last lines of its log:\n  {last}");
        Error::new(Kind::Unavailable, "demo.service_unhealthy", text)
    }

    /// Stops all of them, each to its end.
    pub(super) async fn stop(&self) -> Stopped {
        self.launcher.shutdown().await
    }
}

/// What the services show one another. New for each run: it never leaves this machine's memory.
fn secret() -> String {
    use std::fmt::Write;
    rand::rng()
        .random::<[u8; 32]>()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_read_with_care() {
        let (name, count) = replicas("orders=3").unwrap();
        assert_eq!((name.as_str(), count), ("orders", 3));
        for wrong in [
            "orders",
            "orders=",
            "orders=0",
            "orders=33",
            "order=1",
            "=1",
            "orders=-1",
        ] {
            assert!(
                replicas(wrong).unwrap_err().contains("SERVICE=N"),
                "{wrong}"
            );
        }
    }
}
