//! Calls other services by name.

mod attempts;
mod budget;
mod request;
mod response;
mod transport;

use std::{collections::HashMap, fmt, net::SocketAddr, sync::Arc};

use http::Method;
use parking_lot::Mutex;
use sinew_core::{Clock, Error, InstanceId, Kind, Name, Result};

use crate::{
    Metrics,
    discovery::{Discovery, Instance},
    service_key::Secret,
};
use budget::Budget;
pub use request::Request;
pub use response::Response;
pub(crate) use transport::Transport;

/// Calls other services by name. Cheap to clone; all clones share connections and what is known of
/// the instances. See [`Request`] for what a call does about failures.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    discovery: Discovery,
    transport: Transport,
    clock: Clock,
    metrics: Metrics,
    secret: Option<Secret>,
    budgets: Mutex<HashMap<Name, Arc<Budget>>>,
}

impl Client {
    pub(crate) fn build(
        discovery: Discovery,
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        secret: Option<Secret>,
    ) -> Self {
        let budgets = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                discovery,
                transport,
                clock,
                metrics,
                secret,
                budgets,
            }),
        }
    }

    /// A client that knows these services alone, without any node. For tests, and for places where
    /// addresses are fixed. Errors: `core.name_invalid`.
    pub fn fixed<'a>(
        services: impl IntoIterator<Item = (&'a str, SocketAddr)>,
        service_key: Option<&str>,
    ) -> Result<Self> {
        let discovery = Discovery::new(None);
        let mut known: HashMap<Name, Vec<Instance>> = HashMap::new();
        for (name, address) in services {
            let id = InstanceId::new(&format!("{name}-{}", address.port()))?;
            let instance = Instance::at(id, address).ok_or_else(|| {
                let message = "an address with a scope cannot be called";
                Error::new(Kind::InvalidArgument, "sdk.request_invalid", message)
            })?;
            known.entry(Name::new(name)?).or_default().push(instance);
        }
        for (name, instances) in known {
            discovery.set_fixed(&name, instances);
        }
        let secret = service_key.map(Secret::new).transpose()?;
        let (clock, metrics) = (Clock::system(), Metrics::new());
        Ok(Self::build(
            discovery,
            Transport::new(),
            clock,
            metrics,
            secret,
        ))
    }

    /// GET `path` (with a leading `/`) of `service`.
    pub fn get(&self, service: &str, path: impl AsRef<str>) -> Request {
        self.request(Method::GET, service, path)
    }

    /// POST; not repeated unless [`Request::idempotent`] says that it may be.
    pub fn post(&self, service: &str, path: impl AsRef<str>) -> Request {
        self.request(Method::POST, service, path)
    }

    /// PUT.
    pub fn put(&self, service: &str, path: impl AsRef<str>) -> Request {
        self.request(Method::PUT, service, path)
    }

    /// PATCH; not repeated unless [`Request::idempotent`] says that it may be.
    pub fn patch(&self, service: &str, path: impl AsRef<str>) -> Request {
        self.request(Method::PATCH, service, path)
    }

    /// DELETE.
    pub fn delete(&self, service: &str, path: impl AsRef<str>) -> Request {
        self.request(Method::DELETE, service, path)
    }

    /// Any method.
    pub fn request(&self, method: Method, service: &str, path: impl AsRef<str>) -> Request {
        Request::new(self.inner.clone(), method, service, path.as_ref())
    }

    pub(crate) fn discovery(&self) -> &Discovery {
        &self.inner.discovery
    }
}

/// `text` as one segment of a path, escaped: what users type must not reach into the rest of it.
///
/// ```
/// assert_eq!(sinew_sdk::client::segment("a/b c"), "a%2Fb%20c");
/// ```
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    request::escape(text, &mut out);
    out
}

impl Inner {
    fn budget(&self, service: &Name) -> Arc<Budget> {
        self.budgets
            .lock()
            .entry(service.clone())
            .or_default()
            .clone()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}
