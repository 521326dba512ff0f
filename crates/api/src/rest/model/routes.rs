//! The gateway's routes over the wire.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Route;

/// What this node's gateway serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Routes {
    /// Which stored routes are among them.
    #[serde(flatten)]
    pub status: RoutesStatus,
    /// In the order in which they are tried.
    pub routes: Vec<ListedRoute>,
}

/// Which version of the stored routes a node serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutesStatus {
    /// The version that this node serves; 0 when it serves none.
    pub version: u64,
    /// The newest stored version that this node knows of; 0 when none is stored. Absent when the store
    /// was not reached since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_version: Option<u64>,
    /// Whether the store is out of reach, so that there may be a newer version.
    pub is_stale: bool,
    /// When what is served changed last, milliseconds since 1970.
    pub changed_ms: u64,
    /// Why the newest version is not the one that is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RoutesFailure>,
}

/// A version that a node cannot serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutesFailure {
    /// The version.
    pub version: u64,
    /// The error's stable code.
    pub code: String,
    /// What is wrong with it, for people.
    pub reason: String,
    /// When it was found, milliseconds since 1970.
    pub since_ms: u64,
}

/// A route, and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListedRoute {
    /// Where it is written.
    pub source: RouteSource,
    /// The route.
    #[serde(flatten)]
    pub route: Route,
}

/// Where a route is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteSource {
    /// In the node's `sinew.toml`; only there it can be changed.
    File,
    /// In the stored routes, which all nodes over one store share.
    Stored,
}

/// What is known of a stored version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutesVersion {
    /// Its number; the first is 1. 0 stands for no routes at all, before the first.
    pub version: u64,
    /// When it was made, milliseconds since 1970.
    pub time_ms: u64,
    /// Who made it, as they say themselves.
    pub author: String,
    /// Why, if they said it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The version whose content it brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub hash: String,
}

/// The stored versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutesVersions {
    /// The newest first.
    pub versions: Vec<RoutesVersion>,
}

/// A stored version with its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutesDocument {
    /// What is known of it.
    #[serde(flatten)]
    pub version: RoutesVersion,
    /// What the routing tables of `sinew.toml` would be as JSON.
    #[schema(value_type = Object, example = json!({"routes": [{"name": "orders", "path": "/api/orders/**", "service": "orders"}]}))]
    pub document: Value,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutesWritten {
    /// The version that holds it.
    #[serde(flatten)]
    pub version: RoutesVersion,
    /// Whether the version is new; it said the same already otherwise.
    pub is_new: bool,
    /// Whether this node serves it, or a later one, by now. Others follow within milliseconds.
    pub is_served: bool,
    /// What it changed.
    pub changes: Vec<RouteChange>,
}

/// What would become of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutesCheck {
    /// The stored version that it was compared with.
    pub version: u64,
    /// Whether it can be stored.
    pub fits: bool,
    /// The code of the error that storing it would answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// What it would change.
    pub changes: Vec<RouteChange>,
}

/// What happened to one entry of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouteChange {
    /// What happened.
    pub difference: Difference,
    /// In which table it stands, such as `routes`.
    pub table: String,
    /// Its name; its host and path when it has none.
    pub name: String,
    /// The fields that it has, had, or that changed.
    pub fields: Vec<FieldChange>,
}

/// What can happen to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Some of its fields are others.
    Changed,
}

/// A field before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FieldChange {
    /// The field.
    pub field: String,
    /// What it was; absent when it was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub from: Option<Value>,
    /// What it is; absent when it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub to: Option<Value>,
}
