//! TLS with clients and instances: what is configured, what is in the files, and what happened.

mod certificate;
mod choice;
mod config;
mod counters;
mod files;
mod identity;
mod server;
mod upstream;
mod watch;

use std::{
    collections::HashMap,
    fmt::Write,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use sinew_core::{Clock, Name};

use crate::config::GatewayConfig;
use certificate::Leaf;
use counters::Reloads;
use watch::Watch;

pub(crate) use counters::Failure;
pub(crate) use server::Server;
pub(crate) use upstream::UpstreamTls;

pub use config::{
    CertificateFiles, ClientCertificate, Misfit, Place, TlsConfig, TlsVersion, UnknownName,
    UpstreamTlsConfig,
};

/// What all threads share of TLS.
pub(crate) struct Tls {
    pub(crate) server: Option<Server>,
    upstreams: HashMap<Name, Arc<UpstreamTls>>,
    reloads: Reloads,
    clock: Clock,
    /// By the set of files they come from: the listener's, then each service's.
    expiries: Mutex<Vec<Vec<Expiry>>>,
}

/// Until when a certificate of the gateway's own is valid.
#[derive(Clone, Debug)]
struct Expiry {
    file: PathBuf,
    /// Seconds since 1970.
    not_after: i64,
}

/// How often files are looked at; a change is in use after two looks.
const LOOK: Duration = Duration::from_secs(1);
/// When a certificate is this near its end, it stands in the log.
const NEAR_DAYS: i64 = 14;
const DAY: i64 = 86_400;

impl Expiry {
    fn new(file: &Path, leaf: &Leaf) -> Self {
        Self {
            file: file.to_owned(),
            not_after: leaf.not_after,
        }
    }

    fn days_left(&self, clock: &Clock) -> i64 {
        (self.not_after - seconds(clock)).div_euclid(DAY)
    }
}

fn seconds(clock: &Clock) -> i64 {
    i64::try_from(clock.now().as_secs()).unwrap_or(i64::MAX)
}

/// A set of files, and who uses it.
enum User {
    Server,
    Upstream(Arc<UpstreamTls>, usize),
}

/// Looks for changes of the files until it is dropped.
pub(crate) struct Watcher {
    _stop: crossbeam_channel::Sender<()>,
    _thread: JoinHandle<()>,
}

/// What is to be watched.
pub(crate) struct Watched {
    sets: Vec<(User, Watch)>,
}

/// Finds the first fault in what the configuration says of TLS, in the files too.
pub(crate) fn check(config: &GatewayConfig) -> Result<(), Misfit> {
    open(config).map(|_| ())
}

/// Reads all files.
pub(crate) fn open(config: &GatewayConfig) -> Result<(Tls, Watched), Misfit> {
    let mut tls = Tls {
        server: None,
        upstreams: HashMap::new(),
        reloads: Reloads::default(),
        clock: Clock::system(),
        expiries: Mutex::default(),
    };
    let mut sets = Vec::new();
    let mut expiries = Vec::new();
    if let Some(server) = &config.tls {
        let pairs = server.certificates.iter();
        let files = pairs.flat_map(|pair| [pair.cert.clone(), pair.key.clone()]);
        // Begun before the files are read, so that no change is missed.
        let watch = Watch::new(files.chain(server.client_ca.clone()));
        let loaded = server::load(server)?;
        expiries.push(loaded.expiries.clone());
        tls.server = Some(Server::new(server.clone(), loaded)?);
        sets.push((User::Server, watch));
    }
    for (index, upstream) in config.upstream_tls.iter().enumerate() {
        let files = [&upstream.ca, &upstream.cert, &upstream.key];
        let watch = Watch::new(files.into_iter().flatten().cloned());
        let loaded = upstream::load(upstream, index)?;
        expiries.push(loaded.expiry.iter().cloned().collect());
        let user = Arc::new(UpstreamTls::new(upstream.clone(), index, loaded)?);
        let known = tls.upstreams.insert(upstream.service.clone(), user.clone());
        if known.is_some() {
            let at = ["upstream_tls".into(), index.into(), "service".into()];
            let why = format!("service {} has two entries", upstream.service);
            return Err(Misfit::new(&at, why));
        }
        sets.push((User::Upstream(user, index), watch));
    }
    tls.expiries = Mutex::new(expiries);
    Ok((tls, Watched { sets }))
}

fn warn_of_open_key(key: &Path) {
    if files::is_open_to_all(key) {
        let file = key.display();
        tracing::warn!(%file, "every user of this machine can read a private key; take the right away");
    }
}

fn warn_of_end(expiry: &Expiry, clock: &Clock) {
    let (file, days) = (expiry.file.display(), expiry.days_left(clock));
    if expiry.not_after < seconds(clock) {
        tracing::warn!(%file, "a certificate has expired");
    } else if days < NEAR_DAYS {
        tracing::warn!(%file, days, "a certificate is about to expire");
    }
}

impl Watched {
    /// Watches the files for as long as the result is kept.
    pub(crate) fn watch(self, tls: Arc<Tls>) -> std::io::Result<Option<Watcher>> {
        if self.sets.is_empty() {
            return Ok(None);
        }
        tls.warn();
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let thread = std::thread::Builder::new()
            .name("gateway-files".to_owned())
            .spawn(move || self.run(&tls, &stopped))?;
        Ok(Some(Watcher {
            _stop: stop,
            _thread: thread,
        }))
    }

    fn run(mut self, tls: &Tls, stopped: &Receiver<()>) {
        while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            for (place, (user, watch)) in self.sets.iter_mut().enumerate() {
                if watch.has_settled_anew() {
                    tls.reload(user, place);
                }
            }
        }
    }
}

impl Tls {
    /// How to connect to a service's instances, if not plainly.
    pub(crate) fn upstream(&self, service: &Name) -> Option<Arc<UpstreamTls>> {
        self.upstreams.get(service).cloned()
    }

    /// Says what is no fault and yet should change.
    fn warn(&self) {
        let pairs = self
            .server
            .iter()
            .flat_map(|server| &server.config.certificates);
        let upstreams = self.upstreams.values();
        let keys = upstreams.filter_map(|upstream| upstream.config.key.as_ref());
        for key in pairs.map(|pair| &pair.key).chain(keys) {
            warn_of_open_key(key);
        }
        for expiry in self.expiries.lock().iter().flatten() {
            warn_of_end(expiry, &self.clock);
        }
    }

    /// Takes over what is in the files now. When that is no good, what was good before stays.
    fn reload(&self, user: &User, place: usize) {
        let (of, outcome) = match user {
            User::Server => ("clients", self.reload_server()),
            User::Upstream(upstream, index) => {
                let loaded = upstream::load(&upstream.config, *index).map(|loaded| {
                    let expiries = loaded.expiry.iter().cloned().collect();
                    upstream.replace(loaded);
                    expiries
                });
                (upstream.service().as_str(), loaded)
            }
        };
        match outcome {
            Ok(expiries) => {
                self.reloads.done.fetch_add(1, Relaxed);
                tracing::info!(of, "changed certificates are in use");
                for expiry in &expiries {
                    warn_of_end(expiry, &self.clock);
                }
                self.expiries.lock()[place] = expiries;
            }
            Err(misfit) => {
                self.reloads.failed.fetch_add(1, Relaxed);
                tracing::error!(of, %misfit, "changed certificates are of no use; the last good ones stay");
            }
        }
    }

    fn reload_server(&self) -> Result<Vec<Expiry>, Misfit> {
        let Some(server) = &self.server else {
            return Ok(Vec::new());
        };
        let loaded = server::load(&server.config)?;
        let expiries = loaded.expiries.clone();
        server.replace(loaded)?;
        Ok(expiries)
    }

    /// The series of TLS in the Prometheus text format; nothing when there is no TLS.
    pub(crate) fn text(&self, text: &mut String) {
        if self.server.is_none() && self.upstreams.is_empty() {
            return;
        }
        let mut clients = [String::new(), String::new()];
        if let Some(server) = &self.server {
            server.handshakes.text("", "", &mut clients);
        }
        let mut instances = [String::new(), String::new()];
        for (service, upstream) in &self.upstreams {
            let label = format!("service=\"{service}\",");
            upstream
                .handshakes
                .text("upstream_", &label, &mut instances);
        }
        let ([done, failed], [upstream_done, upstream_failed]) = (clients, instances);
        for (name, help, lines) in [
            ("tls_handshakes_total", "TLS handshakes with clients.", done),
            (
                "tls_handshake_failures_total",
                "TLS handshakes with clients that failed.",
                failed,
            ),
            (
                "upstream_tls_handshakes_total",
                "TLS handshakes with instances.",
                upstream_done,
            ),
            (
                "upstream_tls_handshake_failures_total",
                "TLS handshakes with instances that failed.",
                upstream_failed,
            ),
        ] {
            if !lines.is_empty() {
                crate::metrics::head(text, name, "counter", help);
                text.push_str(&lines);
            }
        }
        for (name, help, counter) in [
            (
                "tls_reloads_total",
                "Changed certificate files taken over.",
                &self.reloads.done,
            ),
            (
                "tls_reload_failures_total",
                "Changed certificate files of no use.",
                &self.reloads.failed,
            ),
        ] {
            crate::metrics::head(text, name, "counter", help);
            let _ = writeln!(text, "sinew_gateway_{name} {}", counter.load(Relaxed));
        }
        let name = "tls_certificate_days_left";
        let help = "Whole days until a certificate expires; negative when it has.";
        crate::metrics::head(text, name, "gauge", help);
        let mut listed: Vec<_> = self.expiries.lock().iter().flatten().cloned().collect();
        listed.sort_by(|one, other| one.file.cmp(&other.file));
        listed.dedup_by(|one, other| one.file == other.file);
        for expiry in listed {
            let file = crate::metrics::escaped(&expiry.file.to_string_lossy());
            let days = expiry.days_left(&self.clock);
            let _ = writeln!(text, "sinew_gateway_{name}{{file=\"{file}\"}} {days}");
        }
    }
}

/// What a client has proved with its certificate, as header lines, and what is wrong if nothing.
pub(crate) fn client_identity(der: &[u8], now: sinew_core::Timestamp) -> Result<String, Failure> {
    let leaf = Leaf::parse(der).map_err(|_| Failure::CertificateRefused)?;
    // A resumed session brings the certificate of the first one, which may have expired since.
    if !leaf.is_valid_at(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)) {
        return Err(Failure::CertificateExpired);
    }
    identity::lines(&leaf).ok_or(Failure::CertificateRefused)
}
