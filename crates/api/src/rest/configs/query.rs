//! Who asks, for what, and how long they wait.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::Deserialize;
use sinew_coordination::configs::{By, Client, ItemId, MAIN_LABEL, Query};
use sinew_core::{Error, Kind, Result, units};
use utoipa::IntoParams;

use crate::{
    Peer,
    rest::{Api, auth::Role, extract::Expected, problem::Refusal},
};

/// The longest wait for a change.
pub(in crate::rest) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// `{namespace}`, `{application}`, `{profile}` and `{label}` of the path.
pub(super) struct ItemPath(pub(super) ItemId);

impl<S: Send + Sync> FromRequestParts<S> for ItemPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<BTreeMap<String, String>>::from_request_parts(parts, state).await;
        let Path(path) = path.map_err(|error| {
            let message = format!("the path cannot be read: {error}");
            Error::new(Kind::InvalidArgument, "api.path_invalid", message)
        })?;
        let part = |name: &str| path.get(name).map_or("", String::as_str);
        let id = ItemId::new(
            part("namespace"),
            part("application"),
            part("profile"),
            part("label"),
        )?;
        Ok(Self(id))
    }
}

/// Where the request comes from, and whose token it bears.
pub(in crate::rest) struct Asker {
    pub(in crate::rest) peer: Option<Peer>,
    pub(in crate::rest) role: Role,
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Ok(Self {
            peer: parts.extensions.get::<Peer>().copied(),
            role: parts
                .extensions
                .get::<Role>()
                .copied()
                .unwrap_or(Role::Service),
        })
    }
}

/// Who reads, and how.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reading {
    /// Profiles besides `default`, separated by commas; the last wins. For whole configurations only.
    pub(super) profiles: Option<String>,
    /// The label; `main` when absent. For whole configurations only.
    pub(super) label: Option<String>,
    /// The id of the instance that asks, for gray releases.
    pub(super) instance: Option<String>,
    /// What it says of itself, for gray releases: `zone=a,tier=1`.
    pub(super) labels: Option<String>,
    /// Whether encrypted values are to be opened.
    pub(super) reveal: bool,
    /// Whether to ask the store rather than the memory of this node.
    pub(super) consistent: bool,
    /// The version that is known already: 304 when there is no other.
    pub(super) known: Option<String>,
    /// How long to wait for another version than the known one, such as `30s`; at most 60 s.
    pub(super) wait: Option<String>,
}

/// Who changes something, and why.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Why {
    /// Who makes the change, as they say themselves, to 128 bytes; `admin` when absent.
    author: Option<String>,
    /// Why, to 1024 bytes.
    note: Option<String>,
}

impl Why {
    pub(super) fn new(author: Option<String>, note: Option<String>) -> Self {
        Self { author, note }
    }

    pub(super) fn by(self, expected: Expected) -> By {
        By {
            author: self.author.unwrap_or_else(|| "admin".to_owned()),
            note: self.note.unwrap_or_default(),
            expected: expected.0,
        }
    }
}

impl Reading {
    pub(super) fn client(&self, asker: &Asker) -> Result<Client> {
        let pairs = self.labels.as_deref().unwrap_or_default().split(',');
        let labels = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                invalid("labels are pairs, such as labels=zone=a,tier=1".to_owned())
            })?;
            Ok((key.to_owned(), value.to_owned()))
        });
        Ok(Client {
            instance: self.instance.clone(),
            address: asker.peer.map(|peer| peer.0.ip()),
            labels: labels.collect::<Result<_>>()?,
        })
    }

    pub(super) fn query(&self, namespace: &str, application: &str, asker: &Asker) -> Result<Query> {
        let profiles = self.profiles.as_deref().unwrap_or_default().split(',');
        let profiles = profiles.filter(|profile| !profile.is_empty());
        Ok(Query {
            namespace: namespace.to_owned(),
            application: application.to_owned(),
            profiles: profiles.map(str::to_owned).collect(),
            label: self.label.clone().unwrap_or_else(|| MAIN_LABEL.to_owned()),
            client: self.client(asker)?,
        })
    }

    pub(super) fn wait(&self) -> Result<Duration> {
        let Some(text) = &self.wait else {
            return Ok(Duration::ZERO);
        };
        let wait = units::read_duration(text).filter(|wait| *wait <= LONGEST_WAIT);
        wait.ok_or_else(|| invalid("the wait is a time up to 60s, such as 30s".to_owned()))
    }

    /// PermissionDenied `configs.reveal_forbidden` for those who may not see what is encrypted.
    pub(super) fn check_reveal(&self, api: &Api, asker: &Asker) -> Result<()> {
        let may = asker.role == Role::Admin || api.0.configs.config().services_decrypt;
        match self.reveal && !may {
            true => Err(reveal_forbidden()),
            false => Ok(()),
        }
    }
}

pub(in crate::rest) fn reveal_forbidden() -> Error {
    Error::new(
        Kind::PermissionDenied,
        "configs.reveal_forbidden",
        "the service token does not open encrypted values here; see `[configs] services_decrypt`",
    )
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, "api.query_invalid", message)
}
