//! Which certificate a client is shown.

use std::{collections::HashMap, fmt, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::config::UnknownName;

type SameName = Vec<Arc<CertifiedKey>>;

/// Certificates by the names in them. Several for one name differ in their kind of key, and the
/// first that a client can verify is used.
#[derive(Default)]
pub(super) struct Choice {
    exact: HashMap<String, SameName>,
    /// By what comes after `*.`.
    wildcards: HashMap<String, SameName>,
    /// For other names and none.
    fallback: SameName,
}

impl Choice {
    /// In the order of the configuration: the first certificate, and others with the same names,
    /// are for those who ask for a name that is not here, or for none.
    pub(super) fn new(
        certificates: impl IntoIterator<Item = (Arc<CertifiedKey>, Vec<String>)>,
        unknown: UnknownName,
    ) -> Self {
        let mut choice = Self::default();
        let mut first = None;
        for (certified, mut names) in certificates {
            names.sort_unstable();
            for name in &names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut choice.wildcards, parent),
                    None => (&mut choice.exact, name.as_str()),
                };
                names
                    .entry(name.to_owned())
                    .or_default()
                    .push(certified.clone());
            }
            let alike = *first.get_or_insert_with(|| names.clone()) == names;
            if alike && unknown == UnknownName::Default {
                choice.fallback.push(certified);
            }
        }
        choice
    }

    fn for_name(&self, name: Option<&str>) -> &SameName {
        let known = name.and_then(|name| {
            self.exact.get(name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.wildcards.get(parent)
            })
        });
        known.unwrap_or(&self.fallback)
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has the name in lower case.
        let known = self.for_name(hello.server_name());
        let suits =
            |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        known.iter().find(suits).cloned()
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = (self.exact.keys(), self.wildcards.keys());
        f.debug_tuple("Choice").field(&names).finish()
    }
}
