//! What a path and a method ask for.

use std::borrow::Cow;

use axum::http::Method;
use percent_encoding::percent_decode_str;
use sinew_core::{Error, Kind, Result};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Register { app: String },
    Renew { app: String, id: String },
    Cancel { app: String, id: String },
    Override { app: String, id: String },
    EndOverride { app: String, id: String },
    SetMetadata { app: String, id: String },
    Applications,
    Delta,
    Application { app: String },
    Instance { app: String, id: String },
    InstanceOfAny { id: String },
    Vip { address: String },
    SecureVip { address: String },
}

/// The names of operations in the metrics, by [`Operation::index`].
pub(super) const NAMES: [&str; 13] = [
    "register",
    "renew",
    "cancel",
    "override",
    "end_override",
    "set_metadata",
    "applications",
    "delta",
    "application",
    "instance",
    "instance_of_any",
    "vip",
    "secure_vip",
];

impl Operation {
    /// Its place in [`NAMES`].
    pub(super) fn index(&self) -> usize {
        match self {
            Self::Register { .. } => 0,
            Self::Renew { .. } => 1,
            Self::Cancel { .. } => 2,
            Self::Override { .. } => 3,
            Self::EndOverride { .. } => 4,
            Self::SetMetadata { .. } => 5,
            Self::Applications => 6,
            Self::Delta => 7,
            Self::Application { .. } => 8,
            Self::Instance { .. } => 9,
            Self::InstanceOfAny { .. } => 10,
            Self::Vip { .. } => 11,
            Self::SecureVip { .. } => 12,
        }
    }

    /// Reads what comes after `/eureka/`, with or without `v2/` before and `/` behind it.
    ///
    /// NotFound `api.path_unknown`; InvalidArgument `api.method_unknown`, `api.path_invalid`.
    pub(super) fn read(method: &Method, path: &str) -> Result<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let path = path.strip_prefix("v2/").unwrap_or(path);
        let mut segments = Vec::with_capacity(4);
        for segment in path.split('/').take(5) {
            segments.push(decoded(segment)?);
        }
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let own = |text: &&str| (*text).to_owned();
        let operation = match (segments.as_slice(), method.as_str()) {
            (["apps"], "GET") => Self::Applications,
            (["apps", "delta"], "GET") => Self::Delta,
            (["apps", app], "POST") => Self::Register { app: own(app) },
            (["apps", app], "GET") => Self::Application { app: own(app) },
            (["apps", app, id], "GET") => Self::Instance {
                app: own(app),
                id: own(id),
            },
            (["apps", app, id], "PUT") => Self::Renew {
                app: own(app),
                id: own(id),
            },
            (["apps", app, id], "DELETE") => Self::Cancel {
                app: own(app),
                id: own(id),
            },
            (["apps", app, id, "status"], "PUT") => Self::Override {
                app: own(app),
                id: own(id),
            },
            (["apps", app, id, "status"], "DELETE") => Self::EndOverride {
                app: own(app),
                id: own(id),
            },
            (["apps", app, id, "metadata"], "PUT") => Self::SetMetadata {
                app: own(app),
                id: own(id),
            },
            (["instances", id], "GET") => Self::InstanceOfAny { id: own(id) },
            (["vips", address], "GET") => Self::Vip {
                address: own(address),
            },
            (["svips", address], "GET") => Self::SecureVip {
                address: own(address),
            },
            (
                ["apps"] | ["apps", _] | ["apps", _, _] | ["apps", _, _, "status" | "metadata"],
                _,
            )
            | (["instances" | "vips" | "svips", _], _) => {
                return Err(Error::new(
                    Kind::InvalidArgument,
                    "api.method_unknown",
                    format!("{method} cannot be used here"),
                ));
            }
            _ => {
                let path: String = path.chars().take(128).collect();
                return Err(Error::new(
                    Kind::NotFound,
                    "api.path_unknown",
                    format!("Eureka has no {path:?}"),
                ));
            }
        };
        Ok(operation)
    }
}

/// A segment of a path as it was meant. It may have a slash.
///
/// InvalidArgument `api.path_invalid`.
pub(super) fn decoded(segment: &str) -> Result<Cow<'_, str>> {
    percent_decode_str(segment).decode_utf8().map_err(|_| {
        let message = "the path cannot be read: it is not UTF-8";
        Error::new(Kind::InvalidArgument, "api.path_invalid", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found() {
        let app = || "ORDERS".to_owned();
        let id = || "a:b/1".to_owned();
        let address = || "orders".to_owned();
        let cases = [
            ("POST", "apps/ORDERS", Operation::Register { app: app() }),
            (
                "PUT",
                "apps/ORDERS/a:b%2F1",
                Operation::Renew {
                    app: app(),
                    id: id(),
                },
            ),
            (
                "DELETE",
                "apps/ORDERS/a:b%2F1",
                Operation::Cancel {
                    app: app(),
                    id: id(),
                },
            ),
            (
                "PUT",
                "apps/ORDERS/a:b%2F1/status",
                Operation::Override {
                    app: app(),
                    id: id(),
                },
            ),
            (
                "DELETE",
                "apps/ORDERS/a:b%2F1/status",
                Operation::EndOverride {
                    app: app(),
                    id: id(),
                },
            ),
            (
                "PUT",
                "apps/ORDERS/a:b%2F1/metadata",
                Operation::SetMetadata {
                    app: app(),
                    id: id(),
                },
            ),
            ("GET", "apps", Operation::Applications),
            ("GET", "apps/delta", Operation::Delta),
            ("GET", "apps/ORDERS", Operation::Application { app: app() }),
            (
                "GET",
                "apps/ORDERS/a:b%2F1",
                Operation::Instance {
                    app: app(),
                    id: id(),
                },
            ),
            (
                "GET",
                "instances/a:b%2F1",
                Operation::InstanceOfAny { id: id() },
            ),
            ("GET", "vips/orders", Operation::Vip { address: address() }),
            (
                "GET",
                "svips/orders",
                Operation::SecureVip { address: address() },
            ),
        ];
        assert_eq!(cases.len(), NAMES.len());
        for (at, (method, path, operation)) in cases.into_iter().enumerate() {
            let method = method.parse().unwrap();
            for path in [
                path.to_owned(),
                format!("{path}/"),
                format!("v2/{path}"),
                format!("v2/{path}/"),
            ] {
                let read = Operation::read(&method, &path).unwrap();
                assert_eq!((read.index(), read), (at, operation.clone()), "{path}");
            }
        }
    }

    #[test]
    fn others_are_refused() {
        let code = |method: Method, path: &str| {
            Operation::read(&method, path)
                .unwrap_err()
                .code()
                .to_owned()
        };
        for path in [
            "",
            "/",
            "v2",
            "v2/v2/apps",
            "apps/a/b/c",
            "apps/a/b/status/d",
            "apps/a/b/status/d/e",
            "peerreplication/batch",
            "instances",
        ] {
            assert_eq!(code(Method::GET, path), "api.path_unknown", "{path}");
        }
        assert_eq!(code(Method::POST, "apps"), "api.method_unknown");
        assert_eq!(code(Method::PATCH, "apps/a/b"), "api.method_unknown");
        assert_eq!(code(Method::GET, "apps/%ff"), "api.path_invalid");
    }
}
