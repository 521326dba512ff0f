//! What a certificate says (RFC 5280).

use ring::digest;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, x509::X509Name,
};

/// The certificate of a server or a client, without what leads to an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// DNS names in lower case; `*.` in front stands for one label.
    pub(crate) names: Vec<String>,
    pub(crate) uris: Vec<String>,
    /// The distinguished name, as RFC 4514 writes it, but in the certificate's order.
    pub(crate) subject: String,
    pub(crate) common_name: Option<String>,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) sha256: [u8; 32],
}

impl Leaf {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, &'static str> {
        const BROKEN: &str = "the certificate is malformed";
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| BROKEN)?;
        let (mut names, mut uris) = (Vec::new(), Vec::new());
        let alternatives = certificate.subject_alternative_name().map_err(|_| BROKEN)?;
        for name in alternatives
            .iter()
            .flat_map(|list| &list.value.general_names)
        {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                _ => {}
            }
        }
        let validity = certificate.validity();
        let hash = digest::digest(&digest::SHA256, der);
        Ok(Self {
            names,
            uris,
            subject: certificate.subject().to_string(),
            common_name: common_name(certificate.subject()),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            sha256: hash.as_ref().try_into().map_err(|_| BROKEN)?,
        })
    }

    /// Whether it is valid at this moment, in seconds since 1970.
    pub(crate) fn is_valid_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    let value = name.iter_common_name().next()?;
    value.as_str().ok().map(str::to_owned)
}
