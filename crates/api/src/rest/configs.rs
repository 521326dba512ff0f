//! The config centre: reading for services, changes for administrators.

mod change;
mod query;
mod read;
mod secrets;
mod watch;

use axum::{
    Router, middleware,
    routing::{get, post, put},
};

pub(super) use change::{
    __path_abort, __path_delete, __path_discard, __path_draft, __path_gray, __path_import,
    __path_promote, __path_publish, __path_put, __path_roll_back,
};
pub(super) use query::Asker;
pub(super) use read::patience;
pub(super) use read::{
    __path_audit, __path_diff, __path_draft_of, __path_drafts, __path_effective, __path_export,
    __path_item, __path_items, __path_version, __path_versions,
};
pub(super) use secrets::{__path_encrypt, __path_rotate};
pub(super) use watch::__path_follow;

use super::{Api, auth, auth::Scope, problem};

const ITEM: &str = "/v1/config/items/{namespace}/{application}/{profile}/{label}";

/// What services may do, and what only administrators may.
pub(super) fn router(api: &Api) -> Router<Api> {
    let with_scope = |scope| middleware::from_fn_with_state((api.clone(), scope), auth::check);
    let below = |rest: &str| format!("{ITEM}{rest}");
    let services = Router::new()
        .route("/v1/config/items", get(read::items))
        .route(
            "/v1/config/effective/{namespace}/{application}",
            get(read::effective),
        )
        .route(
            "/v1/watch/config/{namespace}/{application}",
            get(watch::follow),
        )
        .method_not_allowed_fallback(problem::method_not_allowed)
        .route_layer(with_scope(Scope::Service));
    // One path is read by services and changed by administrators.
    let item = Router::new()
        .route(ITEM, get(read::item).layer(with_scope(Scope::Service)))
        .route(
            ITEM,
            put(change::put)
                .delete(change::delete)
                .layer(with_scope(Scope::Admin)),
        )
        .method_not_allowed_fallback(problem::method_not_allowed);
    let admin = Router::new()
        .route(&below("/versions"), get(read::versions))
        .route(&below("/versions/{version}"), get(read::version))
        .route(&below("/diff"), get(read::diff))
        .route(&below("/rollback"), post(change::roll_back))
        .route(
            &below("/draft"),
            get(read::draft_of)
                .put(change::draft)
                .delete(change::discard),
        )
        .route(&below("/publish"), post(change::publish))
        .route(&below("/gray"), put(change::gray))
        .route(&below("/promote"), post(change::promote))
        .route(&below("/abort"), post(change::abort))
        .route("/v1/config/drafts", get(read::drafts))
        .route("/v1/config/export", get(read::export))
        .route("/v1/config/import", post(change::import))
        .route("/v1/config/audit", get(read::audit))
        .route("/v1/config/encrypt", post(secrets::encrypt))
        .route("/v1/config/keys/rotate", post(secrets::rotate))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .route_layer(with_scope(Scope::Admin));
    services.merge(item).merge(admin)
}
