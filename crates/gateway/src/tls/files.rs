//! Certificates and keys from PEM files. What a file holds never gets into an error, since it may
//! be a key.

use std::{fs, path::Path};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};

use super::certificate::Leaf;

/// A certificate with its key, ready for use, and what it says.
pub(super) struct Pair {
    pub(super) certified: CertifiedKey,
    pub(super) leaf: Leaf,
}

/// What is wrong with a pair of files.
pub(super) enum PairFault {
    Cert(String),
    Key(String),
}

pub(super) fn read_pair(cert: &Path, key: &Path) -> Result<Pair, PairFault> {
    let chain = read_certificates(cert).map_err(PairFault::Cert)?;
    let leaf = Leaf::parse(&chain[0])
        .map_err(|why| PairFault::Cert(format!("{}: {why}", cert.display())))?;
    let key_der = read_key(key).map_err(PairFault::Key)?;
    let certified = CertifiedKey::from_der(chain, key_der, &ring::default_provider());
    let certified = certified.map_err(|error| {
        PairFault::Key(match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "{} is not the key of the certificate in {}",
                key.display(),
                cert.display()
            ),
            _ => format!(
                "the key in {} is of no supported kind; use ECDSA (P-256, P-384), Ed25519 or RSA \
                 of 2048 to 8192 bits",
                key.display()
            ),
        })
    })?;
    Ok(Pair { certified, leaf })
}

/// One certificate or more.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| malformed(path, &error))?;
    if certificates.is_empty() {
        return Err(format!("{} has no certificate in it", path.display()));
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "{} has no private key in it that can be read; encrypted ones cannot",
            path.display()
        ),
        other => malformed(path, &other),
    })
}

/// The authorities in a file.
pub(super) fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in read_certificates(path)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            format!(
                "certificate {} in {} can be no authority: {error}",
                index + 1,
                path.display()
            )
        })?;
    }
    Ok(roots)
}

/// The authorities that the system trusts.
pub(super) fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(
            "the system has no authorities that it trusts; install them or set `ca`".into(),
        );
    }
    Ok(roots)
}

/// Whether everybody on the machine can read the file.
pub(super) fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

fn malformed(path: &Path, error: &pem::Error) -> String {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a section does not end",
        pem::Error::IllegalSectionStart { .. } => "a section begins wrongly",
        pem::Error::Base64Decode(_) => "a section is no base64",
        _ => "it is no PEM",
    };
    format!("{} is malformed: {why}", path.display())
}
