//! Whether a stored document and what this node has of its own are a whole.

use serde::Deserialize;
use serde_json::Value;
use sinew_core::{Error, Kind, Result};
use sinew_gateway::{Auth, Route, Routing};

/// How many of the stored routes that do not fit are named.
const NAMED: usize = 5;
/// How many pairs of a stored route and one of the file are tried to find them.
const MOST_TRIALS: usize = 1_000_000;

/// What this node has of its own.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// The routes of its `sinew.toml`.
    pub(crate) routing: Routing,
    /// Whether it knows whose tokens to ask for.
    pub(crate) has_jwt: bool,
    /// Whether it says whose client certificates are taken.
    pub(crate) has_client_ca: bool,
}

impl Own {
    /// What the gateway shall serve with these stored routes, checked as a whole.
    ///
    /// InvalidArgument `routes.document_invalid`, `gateway.routes_invalid`, `routes.jwt_unconfigured`,
    /// `routes.client_ca_unconfigured`; AlreadyExists `routes.conflict_with_file`.
    pub(super) fn with(&self, content: &[u8]) -> Result<Routing> {
        let mut whole = Routing::default();
        self.hand_over(content, |routing| {
            routing.check()?;
            whole = routing;
            Ok(())
        })?;
        Ok(whole)
    }

    /// As [`Own::with`], but `take`, which must check the whole itself, gets it: the table of many routes is not
    /// built twice.
    pub(super) fn hand_over(
        &self,
        content: &[u8],
        take: impl FnOnce(Routing) -> Result<()>,
    ) -> Result<()> {
        let stored = serde_json::from_slice(content).map_err(|error| invalid(&error))?;
        self.join(stored, take)
    }

    /// As [`Own::with`], before the document is stored.
    pub(super) fn check(&self, document: &Value) -> Result<()> {
        let stored = Routing::deserialize(document).map_err(|error| invalid(&error))?;
        self.join(stored, |routing| routing.check())
    }

    fn join(&self, stored: Routing, take: impl FnOnce(Routing) -> Result<()>) -> Result<()> {
        if !self.has_jwt
            && let Some(route) = stored.routes.iter().find(|r| r.auth.contains(&Auth::Jwt))
        {
            return Err(Error::new(
                Kind::InvalidArgument,
                "routes.jwt_unconfigured",
                format!(
                    "route {} asks for auth = [\"jwt\"], and the sinew.toml of this node has no [auth.jwt] \
                     that says whose tokens",
                    route.label()
                ),
            ));
        }
        let asks = |route: &&sinew_gateway::Route| route.auth.contains(&Auth::ClientCertificate);
        if !self.has_client_ca
            && let Some(route) = stored.routes.iter().find(asks)
        {
            return Err(Error::new(
                Kind::InvalidArgument,
                "routes.client_ca_unconfigured",
                format!(
                    "route {} asks for auth = [\"client_certificate\"], and the sinew.toml of this node \
                     has no [gateway.tls] client_ca that says whose certificates",
                    route.label()
                ),
            ));
        }
        if self.routing == Routing::default() {
            return take(stored);
        }
        take(self.routing.clone().and(stored.clone())).map_err(|error| match stored.check() {
            Ok(()) => self.conflict(&stored, &error),
            Err(error) => error,
        })
    }

    /// Both are good alone: says what of the stored does not go with the file's.
    fn conflict(&self, stored: &Routing, error: &Error) -> Error {
        let message = match self.culprits(stored).as_slice() {
            [] => format!(
                "the stored routes do not go together with those of this node's sinew.toml: {}",
                error.message()
            ),
            culprits => {
                let named = culprits.len().min(NAMED);
                let more = match culprits.len() - named {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!(
                    "{}{more}: the sinew.toml of this node has a route of the same name or for the same \
                     requests; change it there, or choose another name or path",
                    culprits[..named].join(", ")
                )
            }
        };
        Error::new(Kind::AlreadyExists, "routes.conflict_with_file", message)
    }

    /// Those stored routes which do not fit even alone; none when it is not routes that are in the way, or
    /// when there are too many to try.
    fn culprits(&self, stored: &Routing) -> Vec<String> {
        let mut others = stored.clone();
        others.routes.clear();
        let others = self.routing.clone().and(others);
        let trials = stored.routes.len() * others.routes.len();
        if trials > MOST_TRIALS || others.check().is_err() {
            return Vec::new();
        }
        let does_not_fit = |route: &&Route| {
            let mut with_it = others.clone();
            with_it.routes.push((*route).clone());
            with_it.check().is_err()
        };
        let culprits = stored.routes.iter().filter(does_not_fit);
        culprits.map(Route::label).collect()
    }
}

fn invalid(error: &serde_json::Error) -> Error {
    Error::new(
        Kind::InvalidArgument,
        "routes.document_invalid",
        format!("this is not what routes look like to this node: {error}"),
    )
}
