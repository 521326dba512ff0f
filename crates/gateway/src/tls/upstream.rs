//! TLS with instances.

use std::{io, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ClientConnection, crypto::ring, pki_types::ServerName};
use sinew_core::Name;
use tokio::net::TcpStream;

use super::{
    Expiry,
    config::{Misfit, Place, UpstreamTlsConfig},
    counters::{Failure, Handshakes},
    files::{self, PairFault},
};
use crate::{protocol::Protocol, stream::TlsStream};

const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];
const HTTP_2: &[u8] = b"h2";
/// Every so many failures of one kind stand in the log; the metrics have them all.
const LOGGED: u64 = 100;

/// How the instances of one service are connected to, the same for all threads.
#[derive(Debug)]
pub(crate) struct UpstreamTls {
    pub(super) config: UpstreamTlsConfig,
    pub(super) handshakes: Handshakes,
    server_name: ServerName<'static>,
    current: ArcSwap<ClientConfig>,
}

/// What is in the files.
pub(super) struct Loaded {
    client: Arc<ClientConfig>,
    pub(super) expiry: Option<Expiry>,
}

/// Reads the files of the entry at `index` and checks what stands in them.
pub(super) fn load(config: &UpstreamTlsConfig, index: usize) -> Result<Loaded, Misfit> {
    let misfit = |key, why: String| Misfit::new(&place(index, key), why);
    let roots = match &config.ca {
        Some(path) => files::read_roots(path).map_err(|why| misfit("ca", why))?,
        None if config.server_name.is_none() => {
            let why = format!(
                "no public authority certifies the name {:?}; set `ca`, or the `server_name` that \
                 the certificates have",
                config.service.as_str()
            );
            return Err(misfit("service", why));
        }
        None => files::system_roots().map_err(|why| misfit("service", why))?,
    };
    let pair = match (&config.cert, &config.key) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            let pair = files::read_pair(cert, key).map_err(|fault| match fault {
                PairFault::Cert(why) => misfit("cert", why),
                PairFault::Key(why) => misfit("key", why),
            })?;
            Some((cert, pair))
        }
        (Some(_), None) => return Err(misfit("cert", "a `cert` needs its `key`".into())),
        (None, Some(_)) => return Err(misfit("key", "a `key` needs its `cert`".into())),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| misfit("service", format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots);
    let (mut client, expiry) = match pair {
        None => (builder.with_no_client_auth(), None),
        Some((cert, pair)) => {
            let expiry = Expiry::new(cert, &pair.leaf);
            let resolver = rustls::sign::SingleCertAndKey::from(pair.certified);
            let client = builder.with_client_cert_resolver(Arc::new(resolver));
            (client, Some(expiry))
        }
    };
    client.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    Ok(Loaded {
        client: Arc::new(client),
        expiry,
    })
}

/// The name that instances must prove to have.
fn server_name(config: &UpstreamTlsConfig, index: usize) -> Result<ServerName<'static>, Misfit> {
    let name = config.server_name.as_deref();
    let name = name.unwrap_or(config.service.as_str()).to_owned();
    ServerName::try_from(name).map_err(|_| {
        Misfit::new(
            &place(index, "server_name"),
            "it must be a DNS name or an IP address, and is the service's name when absent",
        )
    })
}

fn place(index: usize, key: &'static str) -> [Place; 3] {
    ["upstream_tls".into(), index.into(), key.into()]
}

impl UpstreamTls {
    pub(super) fn new(
        config: UpstreamTlsConfig,
        index: usize,
        loaded: Loaded,
    ) -> Result<Self, Misfit> {
        let server_name = server_name(&config, index)?;
        Ok(Self {
            config,
            handshakes: Handshakes::default(),
            server_name,
            current: ArcSwap::new(loaded.client),
        })
    }

    /// Uses what is in the files from the next connection on.
    pub(super) fn replace(&self, loaded: Loaded) {
        self.current.store(loaded.client);
    }

    pub(super) fn service(&self) -> &Name {
        &self.config.service
    }

    /// Shakes hands with an instance. The caller limits the time.
    pub(crate) async fn connect(
        &self,
        socket: TcpStream,
        protocol: Protocol,
    ) -> io::Result<Box<TlsStream>> {
        let mut config = self.current.load_full();
        if protocol == Protocol::H2 {
            // These connections are few, and live long.
            Arc::make_mut(&mut config).alpn_protocols = vec![HTTP_2.to_vec()];
        }
        let session =
            ClientConnection::new(config, self.server_name.clone()).map_err(io::Error::other)?;
        let peer = socket.peer_addr();
        let unfinished = Unfinished(&self.handshakes);
        let outcome = TlsStream::handshake(socket, session).await;
        std::mem::forget(unfinished);
        match outcome {
            Ok(stream) if protocol == Protocol::H2 && stream.alpn() != Some(HTTP_2) => {
                let why = "the instance does not agree on HTTP/2 (ALPN)";
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
            Ok(stream) => {
                self.handshakes.done(&stream);
                Ok(stream)
            }
            Err(error) => {
                let failure = Failure::of(&error);
                if self.handshakes.failed(failure).is_multiple_of(LOGGED) {
                    let service = self.config.service.as_str();
                    let address = peer.map(|peer| peer.to_string()).unwrap_or_default();
                    tracing::warn!(service, address, %error, "the TLS handshake with an instance failed");
                }
                Err(error)
            }
        }
    }
}

/// Counts a handshake that is dropped, because it did not end in time.
struct Unfinished<'a>(&'a Handshakes);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.failed(Failure::Timeout);
    }
}
