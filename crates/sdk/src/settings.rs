//! Settings from the node's config centre.
//!
//! ```no_run
//! # async fn example(service: sinew_sdk::Service) -> sinew_sdk::Result<()> {
//! #[derive(serde::Deserialize)]
//! #[serde(default)]
//! struct Shop {
//!     currency: String,
//!     max_items: u32,
//! }
//!
//! impl Default for Shop {
//!     fn default() -> Self {
//!         Self { currency: "EUR".into(), max_items: 100 }
//!     }
//! }
//!
//! let settings = service
//!     .settings::<Shop>()
//!     .profiles(["prod"])
//!     .check(|shop| match shop.max_items {
//!         0 => Err("max_items must not be 0".into()),
//!         _ => Ok(()),
//!     })
//!     .start()
//!     .await?;
//! settings.on_change(|before, after| {
//!     tracing::info!(before.max_items, after.max_items, "the limit was changed");
//! });
//! let limit = settings.current().max_items; // newest good value, without a lock
//! # let _ = limit; Ok(()) }
//! ```
//!
//! - What the config centre does not say takes the field's serde default.
//! - Texts become numbers, `bool` or lists where the field wants one: properties hold only texts.
//! - A version that cannot be read, or that the check refuses, changes nothing: the last good one stays, the
//!   log says why, and the metric `sinew_settings_refused_total` counts it.
//! - The last good one is kept in a file of the service's data folder, readable by its owner alone, so that the
//!   service starts while the node is away; without a file it starts with the defaults.

mod follow;
mod lenient;
mod snapshot;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sinew_core::{Error, InstanceId, Kind, Result};
use tokio::sync::watch;

use crate::{
    Metrics,
    metrics::{Counter, Gauge},
    node::Node,
};
use snapshot::Kept;

/// What settings need of their service.
pub(crate) struct Place {
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) metrics: Metrics,
    pub(crate) data: PathBuf,
    pub(crate) instance: InstanceId,
}

type Check<T> = Box<dyn Fn(&T) -> Result<(), String> + Send + Sync>;
type Observer<T> = Box<dyn FnMut(&T, &T) + Send>;

/// Settings in the making; made by [`crate::Service::settings`].
pub struct Builder<T> {
    place: Place,
    namespace: String,
    application: String,
    profiles: Vec<String>,
    label: String,
    labels: Vec<(String, String)>,
    reveal: bool,
    file: Option<PathBuf>,
    patience: Duration,
    check: Option<Check<T>>,
}

/// Where the settings that are in force come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the node.
    Node,
    /// From the file that was kept of an earlier run: the node was not reached yet.
    File,
    /// From nowhere: the node was not reached yet, and no file was kept.
    Defaults,
}

/// Settings that follow the config centre. Cheap to clone; they are followed until the last clone is dropped.
pub struct Settings<T>(Arc<Handle<T>>);

struct Handle<T> {
    shared: Arc<Shared<T>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

struct Shared<T> {
    current: ArcSwap<T>,
    changed: watch::Sender<u64>,
    origin: Mutex<Origin>,
    observers: Mutex<Vec<Observer<T>>>,
    check: Option<Check<T>>,
    file: PathBuf,
    refused: Counter,
    applied: Counter,
    connected: Gauge,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Builder<T> {
    pub(crate) fn new(place: Place, application: &str) -> Self {
        Self {
            place,
            namespace: "default".to_owned(),
            application: application.to_owned(),
            profiles: Vec::new(),
            label: "main".to_owned(),
            labels: Vec::new(),
            reveal: true,
            file: None,
            patience: Duration::from_secs(5),
            check: None,
        }
    }

    /// The application, where it is not the service's name.
    #[must_use]
    pub fn application(mut self, name: &str) -> Self {
        name.clone_into(&mut self.application);
        self
    }

    /// The namespace; `default` unless set.
    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        name.clone_into(&mut self.namespace);
        self
    }

    /// The profiles besides `default`; the last wins.
    #[must_use]
    pub fn profiles<P: Into<String>>(mut self, names: impl IntoIterator<Item = P>) -> Self {
        self.profiles = names.into_iter().map(Into::into).collect();
        self
    }

    /// The label; `main` unless set.
    #[must_use]
    pub fn label(mut self, name: &str) -> Self {
        name.clone_into(&mut self.label);
        self
    }

    /// Says something of this instance that gray releases may name, such as `zone` = `a`.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Whether encrypted values come open; they do unless set. The kept file then holds them, too.
    #[must_use]
    pub fn reveal(mut self, reveal: bool) -> Self {
        self.reveal = reveal;
        self
    }

    /// Where the last good settings are kept; `settings-<application>.json` in the service's data folder unless
    /// set.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// How long the start waits for the node before it takes the kept file or the defaults; 5 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Refuses what is not good, and says why; the last good settings stay then.
    #[must_use]
    pub fn check(
        mut self,
        check: impl Fn(&T) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Box::new(check));
        self
    }

    /// Reads the settings and follows them.
    ///
    /// `sdk.settings_refused` when neither the node nor the kept file nor the defaults have any that are good.
    pub async fn start(self) -> Result<Settings<T>> {
        let path = self.path();
        let file = self.file.clone().unwrap_or_else(|| {
            let name = format!("settings-{}.json", self.application);
            self.place.data.join(name)
        });
        let kept = Kept::read(&file);
        let from_kept = kept.and_then(|kept| {
            let read = read::<T>(&kept.document, self.check.as_ref());
            let read = read.inspect_err(|why| {
                tracing::warn!(why, file = %file.display(), "the kept settings are of no use");
            });
            Some((read.ok()?, kept))
        });
        let (first, kept, origin) = match from_kept {
            Some((first, kept)) => (Ok(first), Some(kept), Origin::File),
            None => {
                let empty = Value::Object(serde_json::Map::new());
                let defaults = read::<T>(&empty, self.check.as_ref());
                (defaults, None, Origin::Defaults)
            }
        };
        let labels = [("application", self.application.as_str())];
        let metrics = &self.place.metrics;
        let refused = metrics.counter(
            "sinew_settings_refused_total",
            "Versions of settings that were refused.",
            &labels,
        );
        let applied = metrics.counter(
            "sinew_settings_applied_total",
            "Versions of settings that came into force.",
            &labels,
        );
        let connected = metrics.gauge(
            "sinew_settings_connected",
            "1 while the settings are followed.",
            &labels,
        );
        let Some(node) = self.place.node.clone() else {
            let current = first.map_err(|why| refusal(&why))?;
            let shared = Shared::new(
                current,
                origin,
                self.check,
                file,
                (refused, applied, connected),
            );
            return Ok(Settings(Arc::new(Handle { shared, task: None })));
        };
        let mut stream = follow::Stream::new(node, path, kept.map(|kept| kept.id()));
        let arrived = tokio::time::timeout(self.patience, stream.first())
            .await
            .ok();
        let mut is_good = true;
        let shared = match (arrived, first) {
            (Some(Some(document)), first) => {
                match (read::<T>(&document.document, self.check.as_ref()), first) {
                    (Ok(current), _) => {
                        document.keep(&file);
                        applied.add(1);
                        let metrics = (refused, applied, connected);
                        Shared::new(current, Origin::Node, self.check, file, metrics)
                    }
                    (Err(why), Ok(last)) => {
                        refused.add(1);
                        is_good = false;
                        tracing::error!(why, ?origin, "new settings are refused; older ones stay");
                        Shared::new(
                            last,
                            origin,
                            self.check,
                            file,
                            (refused, applied, connected),
                        )
                    }
                    (Err(why), Err(_)) => return Err(refusal(&why)),
                }
            }
            // The node says that the kept ones are the newest.
            (Some(None), Ok(current)) => {
                let metrics = (refused, applied, connected);
                Shared::new(current, Origin::Node, self.check, file, metrics)
            }
            (None, Ok(current)) => {
                tracing::warn!(?origin, "the node is away; starting with older settings");
                Shared::new(
                    current,
                    origin,
                    self.check,
                    file,
                    (refused, applied, connected),
                )
            }
            (_, Err(why)) => return Err(refusal(&why)),
        };
        let task = tokio::spawn(stream.follow(shared.clone(), is_good));
        let task = Some(task);
        Ok(Settings(Arc::new(Handle { shared, task })))
    }

    fn path(&self) -> String {
        let labels = self
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let labels = labels.collect::<Vec<_>>().join(",");
        format!(
            "/v1/watch/config/{}/{}?profiles={}&label={}&labels={}&instance={}&reveal={}",
            encoded(&self.namespace),
            encoded(&self.application),
            encoded(&self.profiles.join(",")),
            encoded(&self.label),
            encoded(&labels),
            encoded(self.place.instance.as_str()),
            self.reveal
        )
    }
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
fn encoded(text: &str) -> String {
    use fmt::Write;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        encoded
    })
}

/// Reads and checks a document. The reason quotes no values.
fn read<T: DeserializeOwned>(document: &Value, check: Option<&Check<T>>) -> Result<T, String> {
    let read: T = lenient::read(document)?;
    match check {
        Some(check) => check(&read).map(|()| read),
        None => Ok(read),
    }
}

fn refusal(why: &str) -> Error {
    Error::new(
        Kind::FailedPrecondition,
        "sdk.settings_refused",
        format!("there are no settings that are good: {why}"),
    )
}

impl<T> Shared<T> {
    fn new(
        current: T,
        origin: Origin,
        check: Option<Check<T>>,
        file: PathBuf,
        (refused, applied, connected): (Counter, Counter, Gauge),
    ) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(current),
            changed: watch::Sender::new(0),
            origin: Mutex::new(origin),
            observers: Mutex::default(),
            check,
            file,
            refused,
            applied,
            connected,
        })
    }

    /// Puts what came in force, if it is good; answers whether it was.
    fn take(&self, kept: &Kept) -> bool
    where
        T: DeserializeOwned,
    {
        let new = match read::<T>(&kept.document, self.check.as_ref()) {
            Ok(new) => Arc::new(new),
            Err(why) => {
                self.refused.add(1);
                tracing::error!(
                    why,
                    version = kept.version,
                    "new settings are refused; the last good ones stay"
                );
                return false;
            }
        };
        kept.keep(&self.file);
        let before = self.current.swap(new.clone());
        *self.origin.lock() = Origin::Node;
        self.applied.add(1);
        for observer in self.observers.lock().iter_mut() {
            observer(&before, &new);
        }
        self.changed.send_modify(|count| *count += 1);
        true
    }
}

impl<T> Settings<T> {
    /// The settings in force.
    pub fn current(&self) -> Arc<T> {
        self.0.shared.current.load_full()
    }

    /// Where they come from.
    pub fn origin(&self) -> Origin {
        *self.0.shared.origin.lock()
    }

    /// Calls `observer` with the settings before and after each change. It must be quick: the next change waits
    /// for it.
    pub fn on_change(&self, observer: impl FnMut(&T, &T) + Send + 'static) {
        self.0.shared.observers.lock().push(Box::new(observer));
    }

    /// How often they have changed since the start; the receiver wakes at each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.shared.changed.subscribe()
    }
}

impl<T> Clone for Settings<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Settings<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({:?})", self.origin())
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
