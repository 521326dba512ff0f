//! Where an engine is and how to get in: `scheme://user@host:port,host:port/path?option=value`.
//!
//! Options that every engine knows:
//! - `namespace`: keeps several Sinews on one server apart; `sinew` unless it is given.
//! - `password_file` or `password_env`: where the password is. It never stands in the URL itself, because
//!   URLs end up in files, logs and process lists.
//! - `tls`: `on`, or `off`; without it, on for every host but loopback ones. `ca_file`: PEM certificates to trust instead of
//!   the well-known ones. `cert_file` and `key_file`: the client's own certificate.
//! - `timeout`: how long a call may take (`5s`).

use std::{collections::BTreeMap, fmt, fs, net::IpAddr, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use sinew_core::{Name, Result, units};

use crate::fault;

/// A place that listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A name or an IP address, without brackets.
    pub name: String,
    /// The port; the engine's usual one when the URL has none.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// How TLS is to be spoken: PEM texts, read from the files that the URL names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates to trust instead of the well-known ones.
    pub ca: Option<Vec<u8>>,
    /// The client's certificate chain and its private key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// An engine's URL, taken apart. Printing it never shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What stands before `://`.
    pub scheme: String,
    /// Who we are.
    pub user: Option<String>,
    /// At least one.
    pub hosts: Vec<Host>,
    /// What stands behind the hosts, without the slash: a database, a bucket.
    pub path: String,
    /// What keeps several Sinews on one server apart.
    pub namespace: Name,
    /// TLS, when it is to be spoken.
    pub tls: Option<Tls>,
    /// How long a call may take.
    pub timeout: Duration,
    password: Option<String>,
    options: BTreeMap<String, String>,
}

/// The options that [`Address`] understands itself.
const COMMON: &[&str] = &[
    "namespace",
    "password_file",
    "password_env",
    "tls",
    "ca_file",
    "cert_file",
    "key_file",
    "timeout",
];

impl Address {
    /// Reads a URL. `port` is the engine's usual one; `options` are the names of options of its own.
    /// `engine.address` (InvalidArgument) says what is wrong with it.
    pub fn parse(url: &str, port: u16, options: &[&str]) -> Result<Self> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| fault::address("an engine's URL has the shape scheme://host:port"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => {
                return Err(fault::address(
                    "a password does not belong into a URL; use ?password_file=… or ?password_env=…",
                ));
            }
            Some((user, hosts)) => (Some(decode(user)?), hosts),
            None => (None, authority),
        };
        let hosts = hosts
            .split(',')
            .map(|host| read_host(host, port))
            .collect::<Result<Vec<_>>>()?;
        let mut given = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            if !COMMON.contains(&name.as_str()) && !options.contains(&name.as_str()) {
                let known = [options, COMMON].concat().join(", ");
                return Err(fault::address(format!(
                    "{scheme} has no option {name:?}; it knows {known}"
                )));
            }
            if given.insert(name.clone(), decode(value)?).is_some() {
                return Err(fault::address(format!("option {name} is given twice")));
            }
        }
        let namespace = given
            .get("namespace")
            .map_or("sinew", String::as_str)
            .parse()
            .map_err(|why: sinew_core::Error| fault::address(format!("namespace: {why}")))?;
        let timeout = match given.get("timeout") {
            Some(text) => units::read_duration(text).ok_or_else(|| {
                fault::address(format!("timeout is a time like 5s, not {text:?}"))
            })?,
            None => Duration::from_secs(5),
        };
        if timeout.is_zero() {
            return Err(fault::address("timeout must be longer than nothing"));
        }
        let password = password(&given)?;
        let tls = tls(&given, &hosts)?;
        Ok(Self {
            scheme: scheme.to_owned(),
            user,
            hosts,
            path: decode(path)?,
            namespace,
            tls,
            timeout,
            password,
            options: given,
        })
    }

    /// The password, for the engine's client and nothing else.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// An option of the engine's own.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }
}

fn password(given: &BTreeMap<String, String>) -> Result<Option<String>> {
    match (given.get("password_file"), given.get("password_env")) {
        (Some(_), Some(_)) => Err(fault::address(
            "password_file and password_env exclude each other",
        )),
        (Some(file), None) => {
            let text = read("password_file", file)?;
            let text = String::from_utf8(text)
                .map_err(|_| fault::address(format!("password_file {file}: not UTF-8")))?;
            Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        (None, Some(variable)) => match std::env::var(variable) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(fault::address(format!(
                "password_env: there is no variable {variable} in the environment"
            ))),
        },
        (None, None) => Ok(None),
    }
}

fn tls(given: &BTreeMap<String, String>, hosts: &[Host]) -> Result<Option<Tls>> {
    let wanted = match given.get("tls").map(String::as_str) {
        Some("on") => true,
        Some("off") => false,
        Some(other) => {
            return Err(fault::address(format!("tls is on or off, not {other:?}")));
        }
        None => !hosts.iter().all(|host| is_loopback(&host.name)),
    };
    let files: Vec<_> = ["ca_file", "cert_file", "key_file"]
        .into_iter()
        .filter(|name| given.contains_key(*name))
        .collect();
    if !wanted {
        return match files.first() {
            Some(name) => Err(fault::address(format!(
                "{name} is given, but tls is off: say tls=on"
            ))),
            None => Ok(None),
        };
    }
    let file = |name: &str| given.get(name).map(|file| read(name, file)).transpose();
    let identity = match (file("cert_file")?, file("key_file")?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            return Err(fault::address(
                "cert_file and key_file belong together: give both",
            ));
        }
    };
    Ok(Some(Tls {
        ca: file("ca_file")?,
        identity,
    }))
}

fn read(option: &str, file: &str) -> Result<Vec<u8>> {
    fs::read(PathBuf::from(file))
        .map_err(|why| fault::address(format!("{option} {file} cannot be read: {why}")))
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read_host(text: &str, usual: u16) -> Result<Host> {
    let bad = || fault::address(format!("{text:?} is not a host, or host:port"));
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (name, rest) = rest.split_once(']').ok_or_else(bad)?;
        (name, rest.strip_prefix(':'))
    } else {
        match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| bad())?,
        None => usual,
    };
    if name.is_empty() || port == 0 {
        return Err(bad());
    }
    Ok(Host {
        name: decode(name)?,
        port,
    })
}

fn decode(text: &str) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| fault::address("the URL is not UTF-8"))
}

impl fmt::Display for Address {
    /// The URL without its options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        for (n, host) in self.hosts.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{host}")?;
        }
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("url", &self.to_string())
            .field("user", &self.user)
            .field("namespace", &self.namespace)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use sinew_core::Kind;

    use super::*;

    fn parse(url: &str) -> Result<Address> {
        Address::parse(url, 5432, &["pool"])
    }

    #[test]
    fn a_url_is_taken_apart() {
        let address = parse(
            "postgres://me%40here@127.0.0.1:6000,[::1]/orders?namespace=shop&timeout=2s&pool=4",
        )
        .unwrap();
        assert_eq!(address.user.as_deref(), Some("me@here"));
        assert_eq!(
            address.to_string(),
            "postgres://127.0.0.1:6000,[::1]:5432/orders"
        );
        assert_eq!(address.namespace.to_string(), "shop");
        assert_eq!(address.timeout, Duration::from_secs(2));
        assert_eq!(address.option("pool"), Some("4"));
        assert_eq!(address.tls, None);
    }

    #[test]
    fn tls_is_on_beyond_loopback_unless_it_is_turned_off() {
        assert_eq!(
            parse("postgres://db.example").unwrap().tls,
            Some(Tls::default())
        );
        assert_eq!(parse("postgres://db.example?tls=off").unwrap().tls, None);
        assert_eq!(
            parse("postgres://localhost?tls=on").unwrap().tls,
            Some(Tls::default())
        );
        assert!(parse("postgres://localhost?ca_file=/x").is_err());
        assert!(parse("postgres://localhost?tls=perhaps").is_err());
    }

    #[test]
    fn the_password_comes_from_a_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "s3cret\n").unwrap();
        let address = parse(&format!(
            "postgres://me@localhost?password_file={}",
            file.display()
        ))
        .unwrap();
        assert_eq!(address.password(), Some("s3cret"));
        assert!(!format!("{address:?} {address}").contains("s3cret"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (url, part) in [
            ("localhost:5432", "shape"),
            ("postgres://", "is not a host"),
            ("postgres://a:0", "is not a host"),
            ("postgres://a:b:c", "is not a host"),
            ("postgres://me:hunter2@localhost", "does not belong"),
            ("postgres://localhost?nonsense=1", "no option"),
            ("postgres://localhost?pool=1&pool=2", "twice"),
            ("postgres://localhost?namespace=Not%20A%20Name", "namespace"),
            ("postgres://localhost?timeout=soon", "timeout"),
            ("postgres://localhost?timeout=0s", "timeout"),
            (
                "postgres://localhost?password_file=/none/there",
                "cannot be read",
            ),
            (
                "postgres://localhost?password_env=SINEW_NO_SUCH_VARIABLE",
                "no variable",
            ),
            (
                "postgres://db.example?cert_file=/dev/null",
                "belong together",
            ),
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{url}");
            assert!(error.to_string().contains(part), "{url}: {error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
