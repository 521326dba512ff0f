use std::{collections::BTreeMap, path::PathBuf};

use sinew_core::{Error, InstanceId, Kind, Name, Result, new_id};

/// The variables a service is configured by. Read once at start; tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The process's environment. Variables that are not UTF-8 are passed over.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// With one more variable, or another value of it.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The value of a variable; an empty value counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// All variables that begin with `prefix`, without it.
    pub(crate) fn below<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        self.variables
            .iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
            .filter(|(_, value)| !value.is_empty())
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self {
            variables: variables.into_iter().collect(),
        }
    }
}

/// What the framework itself reads from the environment.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) service: Name,
    pub(crate) instance: InstanceId,
    pub(crate) port: u16,
    pub(crate) data: PathBuf,
    pub(crate) node: Option<NodeAddress>,
    pub(crate) service_key: Option<String>,
    pub(crate) parent: Option<u32>,
}

/// Where the node's control API is.
#[derive(Clone, Debug)]
pub(crate) struct NodeAddress {
    /// `host:port`.
    pub(crate) authority: http::uri::Authority,
    pub(crate) token: Option<String>,
}

impl Place {
    pub(crate) fn read(name: &str, environment: &Environment) -> Result<Self> {
        let service = Name::new(environment.get("SINEW_SERVICE").unwrap_or(name))?;
        let instance = match environment.get("SINEW_INSTANCE") {
            Some(id) => InstanceId::new(id)?,
            None => {
                // The last part of a UUIDv7 is random.
                let random = new_id().simple().to_string();
                InstanceId::new(&format!("{service}-{}", &random[20..]))?
            }
        };
        let node = match environment.get("SINEW_URL") {
            Some(url) => {
                let authority = parse_url(url)?;
                Some(NodeAddress {
                    authority,
                    token: environment.get("SINEW_TOKEN").map(str::to_owned),
                })
            }
            None => None,
        };
        Ok(Self {
            service,
            instance,
            port: number(environment, "PORT")?.unwrap_or(0),
            data: environment.get("SINEW_DATA").unwrap_or(".").into(),
            node,
            service_key: environment.get("SINEW_SERVICE_KEY").map(str::to_owned),
            parent: number(environment, "SINEW_PARENT_PID")?,
        })
    }
}

fn number<T: std::str::FromStr>(environment: &Environment, name: &str) -> Result<Option<T>> {
    let Some(text) = environment.get(name) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|_| invalid(name, "it is not a number that fits"))
}

fn parse_url(url: &str) -> Result<http::uri::Authority> {
    let uri: http::Uri = url
        .parse()
        .map_err(|_| invalid("SINEW_URL", "it is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(invalid("SINEW_URL", "it does not begin with http://"));
    }
    match uri.authority() {
        Some(authority) if matches!(uri.path(), "" | "/") => Ok(authority.clone()),
        _ => Err(invalid(
            "SINEW_URL",
            "it has a path; give scheme, host and port alone",
        )),
    }
}

pub(crate) fn invalid(variable: &str, reason: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "sdk.config_invalid",
        format!("the environment variable {variable} cannot be used: {reason}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_needs_nothing_but_its_name() {
        let place = Place::read("orders", &Environment::default()).unwrap();
        assert_eq!(place.service.as_str(), "orders");
        assert!(place.instance.as_str().starts_with("orders-"));
        assert!(place.node.is_none() && place.port == 0);
    }

    #[test]
    fn wrong_variables_are_named() {
        for (name, value) in [
            ("PORT", "70000"),
            ("SINEW_URL", "https://node"),
            ("SINEW_URL", "http://node/v1"),
            ("SINEW_PARENT_PID", "x"),
        ] {
            let environment = Environment::default().with(name, value);
            let error = Place::read("orders", &environment).unwrap_err();
            assert_eq!(error.code(), "sdk.config_invalid");
            assert!(error.message().contains(name), "{error}");
        }
    }
}
