//! TLS with clients.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    crypto::ring,
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier},
};

use super::{
    Expiry,
    choice::Choice,
    config::{ClientCertificate, Misfit, Place, TlsConfig, TlsVersion},
    counters::Handshakes,
    files::{self, PairFault},
};

/// What is spoken inside TLS, the preferred first.
const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];

/// The listener's side of TLS, the same for all threads.
pub(crate) struct Server {
    pub(crate) config: TlsConfig,
    pub(crate) handshakes: Handshakes,
    current: ArcSwap<ServerConfig>,
    /// With which tickets are sealed, and for whose client certificates.
    tickets: ArcSwapOption<Tickets>,
}

struct Tickets {
    sealer: Arc<dyn ProducesTickets>,
    roots: Vec<Vec<u8>>,
}

/// What is in the files.
pub(super) struct Loaded {
    choice: Arc<Choice>,
    client_roots: Option<RootCertStore>,
    pub(super) expiries: Vec<Expiry>,
}

/// Reads the files and checks what stands in them.
pub(super) fn load(config: &TlsConfig) -> Result<Loaded, Misfit> {
    let at = |place: &[Place]| [&["tls".into()], place].concat();
    if config.certificates.is_empty() {
        return Err(Misfit::new(
            &at(&[]),
            "it needs a [[gateway.tls.certificates]] with `cert` and `key`",
        ));
    }
    if config.handshakes == 0 {
        let why = "at least 1, or nobody gets in";
        return Err(Misfit::new(&at(&["handshakes".into()]), why));
    }
    if config.client_ca.is_none() && config.client_certificate == ClientCertificate::Required {
        return Err(Misfit::new(
            &at(&["client_certificate".into()]),
            "certificates of clients are taken from nobody without `client_ca`",
        ));
    }
    let mut certificates = Vec::new();
    let mut expiries = Vec::new();
    for (index, pair) in config.certificates.iter().enumerate() {
        let at = |key| at(&["certificates".into(), index.into(), Place::Key(key)]);
        let read = files::read_pair(&pair.cert, &pair.key).map_err(|fault| match fault {
            PairFault::Cert(why) => Misfit::new(&at("cert"), why),
            PairFault::Key(why) => Misfit::new(&at("key"), why),
        })?;
        if read.leaf.names.is_empty() && index > 0 {
            return Err(Misfit::new(
                &at("cert"),
                format!(
                    "the certificate in {} has no DNS name among its subject alternative names, so \
                     no client can ask for it; only the first may be so",
                    pair.cert.display()
                ),
            ));
        }
        expiries.push(Expiry::new(&pair.cert, &read.leaf));
        certificates.push((Arc::new(read.certified), read.leaf.names));
    }
    let client_roots = match &config.client_ca {
        Some(path) => Some(
            files::read_roots(path).map_err(|why| Misfit::new(&at(&["client_ca".into()]), why))?,
        ),
        None => None,
    };
    Ok(Loaded {
        choice: Arc::new(Choice::new(certificates, config.unknown_name)),
        client_roots,
        expiries,
    })
}

impl Server {
    pub(super) fn new(config: TlsConfig, loaded: Loaded) -> Result<Self, Misfit> {
        let tickets = Tickets::new(&loaded)?;
        let current = server_config(&config, loaded, &tickets)?;
        Ok(Self {
            config,
            handshakes: Handshakes::default(),
            current: ArcSwap::new(current),
            tickets: ArcSwapOption::from_pointee(tickets),
        })
    }

    /// Uses what is in the files from the next handshake on.
    pub(super) fn replace(&self, loaded: Loaded) -> Result<(), Misfit> {
        let mut tickets = self.tickets.load_full();
        // A ticket holds who the client was: when other authorities decide that, none counts.
        if tickets
            .as_ref()
            .is_none_or(|old| old.roots != roots_of(&loaded))
        {
            tickets = Some(Arc::new(Tickets::new(&loaded)?));
        }
        if let Some(tickets) = tickets {
            self.current
                .store(server_config(&self.config, loaded, &tickets)?);
            self.tickets.store(Some(tickets));
        }
        Ok(())
    }

    /// For one client.
    pub(crate) fn session(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(self.current.load_full())
    }
}

impl Tickets {
    fn new(loaded: &Loaded) -> Result<Self, Misfit> {
        let sealer = ring::Ticketer::new().map_err(|error| unusable(&error))?;
        Ok(Self {
            sealer,
            roots: roots_of(loaded),
        })
    }
}

fn roots_of(loaded: &Loaded) -> Vec<Vec<u8>> {
    let roots = loaded.client_roots.iter().flat_map(|store| &store.roots);
    roots
        .map(|root| [&root.subject[..], &root.subject_public_key_info[..]].concat())
        .collect()
}

fn server_config(
    config: &TlsConfig,
    loaded: Loaded,
    tickets: &Tickets,
) -> Result<Arc<ServerConfig>, Misfit> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match config.minimum_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| unusable(&error))?;
    let builder = match loaded.client_roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match config.client_certificate {
                ClientCertificate::Optional => verifier.allow_unauthenticated(),
                ClientCertificate::Required => verifier,
            };
            let verifier = verifier.build().map_err(|error| unusable(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder.with_cert_resolver(loaded.choice);
    server.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    // A ticket carries the whole session, sealed, so nothing is kept here for clients that may
    // never come back, and every thread can open it.
    server.ticketer = tickets.sealer.clone();
    server.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(server))
}

fn unusable(error: &dyn std::fmt::Display) -> Misfit {
    Misfit::new(&["tls".into()], format!("TLS cannot be set up: {error}"))
}
