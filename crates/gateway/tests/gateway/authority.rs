//! Certificates for tests, and what carries plain bytes of tests over TLS.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use sinew_gateway::{CertificateFiles, GatewayConfig, TlsConfig, UpstreamTlsConfig};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Handle, Runtime},
};

/// Who issues certificates, and the folder that they stand in.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: TempDir,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // Authorities are told apart by name first.
        let name = format!("Tests {}", SERIAL.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        let authority = Self {
            issuer: Issuer::new(params, key),
            pem,
            folder: tempfile::tempdir().unwrap(),
        };
        authority.write("ca.pem", &authority.pem);
        authority
    }

    /// A certificate for these names, after the change of its parameters.
    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| ())
    }

    /// For a client: a subject and a URI.
    pub(crate) fn issue_client(&self, common_name: &str, uri: &str) -> Issued {
        self.issue_with(&["client.example"], |params| {
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
            let uri = SanType::URI(uri.try_into().unwrap());
            params.subject_alt_names.push(uri);
        })
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.path(file);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Writes both files under this name.
    pub(crate) fn place(&self, name: &str, issued: &Issued) -> CertificateFiles {
        CertificateFiles {
            cert: self.write(&format!("{name}.pem"), &issued.cert),
            key: self.write(&format!("{name}.key"), &issued.key),
        }
    }

    /// A certificate for these names, in files.
    pub(crate) fn files(&self, name: &str, names: &[&str]) -> CertificateFiles {
        self.place(name, &self.issue(names))
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap();
        roots.add(der).unwrap();
        roots
    }

    /// A client that trusts this authority, and shows a certificate if it has one.
    pub(crate) fn client_config(&self, shown: Option<&Issued>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        match shown {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let (chain, key) = issued.der();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }

    pub(crate) fn server_config(&self, issued: &Issued) -> ServerConfig {
        let (chain, key) = issued.der();
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    }
}

impl Issued {
    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let cert = CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        (vec![cert], key)
    }
}

/// Whether this test is one of those that run the others' code over TLS.
pub(crate) fn over_tls() -> bool {
    let thread = std::thread::current();
    thread
        .name()
        .is_some_and(|test| test.starts_with("over_tls::"))
}

/// What plain tests are carried over TLS with: one authority, one certificate for both sides.
struct Carrier {
    authority: Authority,
    files: CertificateFiles,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    runtime: Handle,
}

fn carrier() -> &'static Carrier {
    static CARRIER: OnceLock<Carrier> = OnceLock::new();
    CARRIER.get_or_init(|| {
        let authority = Authority::new();
        let issued = authority.issue(&["localhost", "app"]);
        let runtime = Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        Carrier {
            files: authority.place("both", &issued),
            client: Arc::new(authority.client_config(None)),
            server: Arc::new(authority.server_config(&issued)),
            authority,
            runtime: handle,
        }
    })
}

/// Adds TLS on both sides to a gateway's configuration.
pub(crate) fn add_tls(config: &mut GatewayConfig) {
    let carrier = carrier();
    config.tls = Some(TlsConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        certificates: vec![carrier.files.clone()],
        ..TlsConfig::default()
    });
    config.upstream_tls = vec![UpstreamTlsConfig {
        service: crate::support::name("app"),
        ca: Some(carrier.authority.path("ca.pem")),
        server_name: None,
        cert: None,
        key: None,
    }];
}

/// An address where plain bytes are taken, to go over TLS to another.
pub(crate) fn into_tls(to: SocketAddr) -> SocketAddr {
    let connector = tokio_rustls::TlsConnector::from(carrier().client.clone());
    carry(move |plain| {
        let connector = connector.clone();
        async move {
            let name = ServerName::try_from("localhost").unwrap();
            let socket = TcpStream::connect(to).await?;
            relay(plain, connector.connect(name, socket).await?).await
        }
    })
}

/// An address where TLS is taken, to go on in plain to another. Always the same for the same, since
/// an instance is known by its address.
pub(crate) fn out_of_tls(to: SocketAddr) -> SocketAddr {
    static KNOWN: Mutex<BTreeMap<SocketAddr, SocketAddr>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    *known.entry(to).or_insert_with(|| terminate(to))
}

fn terminate(to: SocketAddr) -> SocketAddr {
    let acceptor = tokio_rustls::TlsAcceptor::from(carrier().server.clone());
    carry(move |socket| {
        let acceptor = acceptor.clone();
        async move {
            // An instance that is not there takes no connection, and so shakes no hands.
            let plain = TcpStream::connect(to).await?;
            relay(plain, acceptor.accept(socket).await?).await
        }
    })
}

/// Carries bytes both ways. One who takes no more may have said something before, which arrives.
async fn relay(mut plain: TcpStream, tls: impl AsyncRead + AsyncWrite) -> std::io::Result<()> {
    let (mut plain_in, mut plain_out) = plain.split();
    let (mut tls_in, mut tls_out) = tokio::io::split(tls);
    let into_tls = async {
        tokio::io::copy(&mut plain_in, &mut tls_out).await?;
        tls_out.shutdown().await
    };
    let out_of_tls = async {
        let _ = tokio::io::copy(&mut tls_in, &mut plain_out).await;
        let _ = plain_out.shutdown().await;
        Ok(())
    };
    tokio::try_join!(into_tls, out_of_tls).map(|_| ())
}

fn carry<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = &carrier().runtime;
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((socket, _)) = listener.accept().await {
            socket.set_nodelay(true).unwrap();
            tokio::spawn(each(socket));
        }
    });
    address
}

/// Shakes hands on a connection and sends a request: the answer to its end, which the request asks
/// for.
pub(crate) fn ask_over_tls(
    socket: std::net::TcpStream,
    authority: &Authority,
    name: &str,
    request: &str,
) -> String {
    use std::io::{Read, Write};
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let config = Arc::new(authority.client_config(None));
    let session = rustls::ClientConnection::new(config, name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, socket);
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Replaces a file as careful programs do.
pub(crate) fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}
