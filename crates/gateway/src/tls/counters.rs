//! What an operator sees of TLS. Handshakes are rare beside requests, so all threads share these.

use std::{
    fmt::Write,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustls::{CertificateError, Error, ProtocolVersion};

use crate::stream::TlsStream;

/// Why a handshake failed. The kinds are few, so that each can be a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Timeout,
    /// The other side hung up.
    Closed,
    /// What came is no TLS.
    NotTls,
    /// No version, cipher or protocol in common.
    NothingInCommon,
    /// The client asked for a name that no certificate has, or takes no kind of key there is.
    NoCertificate,
    /// The other side has to show a certificate and does not.
    CertificateMissing,
    CertificateExpired,
    /// Of an authority that is not known here.
    CertificateUnknownAuthority,
    /// It is another's.
    CertificateWrongName,
    /// It is no good for another reason.
    CertificateRefused,
    /// The other side ended it, most often because it does not trust the certificate here.
    Refused,
    Other,
}

impl Failure {
    const ALL: [(Self, &str); 12] = [
        (Self::Timeout, "timeout"),
        (Self::Closed, "closed"),
        (Self::NotTls, "not_tls"),
        (Self::NothingInCommon, "nothing_in_common"),
        (Self::NoCertificate, "no_certificate"),
        (Self::CertificateMissing, "certificate_missing"),
        (Self::CertificateExpired, "certificate_expired"),
        (
            Self::CertificateUnknownAuthority,
            "certificate_unknown_authority",
        ),
        (Self::CertificateWrongName, "certificate_wrong_name"),
        (Self::CertificateRefused, "certificate_refused"),
        (Self::Refused, "refused"),
        (Self::Other, "other"),
    ];

    pub(crate) fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            None => Self::Closed,
            Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => Self::NotTls,
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => {
                Self::NothingInCommon
            }
            Some(Error::NoCertificatesPresented) => Self::CertificateMissing,
            Some(Error::InvalidCertificate(why)) => match why {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::CertificateExpired,
                CertificateError::UnknownIssuer => Self::CertificateUnknownAuthority,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Self::CertificateWrongName,
                _ => Self::CertificateRefused,
            },
            Some(Error::AlertReceived(_)) => Self::Refused,
            // What rustls says when no certificate was chosen.
            Some(Error::General(_)) => Self::NoCertificate,
            Some(_) => Self::Other,
        }
    }
}

/// Handshakes on one side.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    /// TLS 1.2 and 1.3, each full and resumed.
    done: [AtomicU64; 4],
    failed: [AtomicU64; Failure::ALL.len()],
}

const KINDS: [(&str, &str); 4] = [("1.2", "no"), ("1.2", "yes"), ("1.3", "no"), ("1.3", "yes")];

impl Handshakes {
    pub(crate) fn done(&self, stream: &TlsStream) {
        let newer = stream.version() == Some(ProtocolVersion::TLSv1_3);
        let kind = usize::from(newer) * 2 + usize::from(stream.resumed());
        self.done[kind].fetch_add(1, Relaxed);
    }

    /// Counts, and tells how often it happened before.
    pub(crate) fn failed(&self, failure: Failure) -> u64 {
        self.failed[failure as usize].fetch_add(1, Relaxed)
    }

    /// The lines of both series; `prefix` goes before their names, `label` before their labels.
    pub(super) fn text(&self, prefix: &str, label: &str, text: &mut [String; 2]) {
        for ((version, resumed), count) in KINDS.iter().zip(&self.done) {
            let _ = writeln!(
                text[0],
                "sinew_gateway_{prefix}tls_handshakes_total{{{label}version=\"{version}\",resumed=\"{resumed}\"}} {}",
                count.load(Relaxed)
            );
        }
        for ((_, reason), count) in Failure::ALL.iter().zip(&self.failed) {
            let _ = writeln!(
                text[1],
                "sinew_gateway_{prefix}tls_handshake_failures_total{{{label}reason=\"{reason}\"}} {}",
                count.load(Relaxed)
            );
        }
    }
}

/// Readings of changed files.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    pub(super) done: AtomicU64,
    pub(super) failed: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_place() {
        for (index, (failure, _)) in Failure::ALL.iter().enumerate() {
            assert_eq!(*failure as usize, index);
        }
        let of = |error| Failure::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(
            of(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
            Failure::CertificateUnknownAuthority
        );
        assert_eq!(
            of(Error::NoCertificatesPresented),
            Failure::CertificateMissing
        );
        assert_eq!(
            Failure::of(&io::ErrorKind::ConnectionReset.into()),
            Failure::Closed
        );
    }
}
