//! A TCP connection, with TLS where the address asks for it, for the engines whose protocol we speak ourselves.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use sinew_core::Result;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{Host, Tls, fault};

/// Both directions of a connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) type Socket = Box<dyn Stream>;

/// Makes connections to one host.
#[derive(Clone)]
pub(crate) struct Connector {
    engine: &'static str,
    host: Host,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    /// `engine.address` (InvalidArgument) when the certificates or the key cannot be used.
    pub(crate) fn new(engine: &'static str, host: &Host, tls: Option<&Tls>) -> Result<Self> {
        let tls = tls
            .map(|tls| -> Result<_> {
                let name = ServerName::try_from(host.name.clone())
                    .map_err(|_| fault::address(format!("{} is no name for TLS", host.name)))?;
                Ok((TlsConnector::from(Arc::new(configure(tls)?)), name))
            })
            .transpose()?;
        Ok(Self {
            engine,
            host: host.clone(),
            tls,
        })
    }

    /// A new connection. It has no timeout of its own. `engine.unavailable`.
    pub(crate) async fn connect(&self) -> Result<Socket> {
        let away = |why: std::io::Error| fault::unavailable(self.engine, why.to_string());
        let stream = TcpStream::connect((&*self.host.name, self.host.port))
            .await
            .map_err(away)?;
        stream.set_nodelay(true).map_err(away)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await.map_err(away)?;
                Ok(Box::new(stream))
            }
        }
    }
}

fn configure(tls: &Tls) -> Result<ClientConfig> {
    let bad = |what: &str, why: &dyn std::fmt::Display| fault::address(format!("{what}: {why}"));
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|why| bad("ca_file", &why))?;
                roots.add(certificate).map_err(|why| bad("ca_file", &why))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| bad("TLS", &why))?
        .with_root_certificates(roots);
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain)
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|why| bad("cert_file", &why))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|why| bad("key_file", &why))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|why| bad("cert_file and key_file", &why))
        }
    }
}
