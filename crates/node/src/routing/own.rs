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
}

impl Own {
    /// What the gateway shall serve with these stored routes.
    ///
    /// InvalidArgument `routes.document_invalid`, `gateway.routes_invalid`, `routes.jwt_unconfigured`;
    /// AlreadyExists `routes.conflict_with_file`.
    pub(super) fn with(&self, content: &[u8]) -> Result<Routing> {
        self.with_routing(serde_json::from_slice(content).map_err(|error| invalid(&error))?)
    }

    /// As [`Own::with`], before the document is stored.
    pub(super) fn with_document(&self, document: &Value) -> Result<Routing> {
        let routing = Routing::deserialize(document).map_err(|error| invalid(&error))?;
        self.with_routing(routing)
    }

    fn with_routing(&self, stored: Routing) -> Result<Routing> {
        stored.check()?;
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
        if self.routing == Routing::default() {
            return Ok(stored);
        }
        let whole = self.routing.clone().and(stored.clone());
        match whole.check() {
            Ok(()) => Ok(whole),
            Err(error) => Err(self.conflict(&stored, &error)),
        }
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
