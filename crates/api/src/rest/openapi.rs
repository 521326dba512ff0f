//! The description of the API (OpenAPI 3.1). `crates/api/openapi.json` is its snapshot.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

use super::{configs, instances, node, routes, services, watch};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sinew control API",
        description = "Registry, configurations, routes and status of a Sinew node. Errors are problem details \
                       (RFC 9457) with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        instances::register,
        instances::heartbeat,
        instances::set_status,
        instances::deregister,
        instances::set_override,
        instances::take_back_override,
        instances::report,
        services::list,
        services::one,
        services::instance,
        watch::services,
        routes::served,
        routes::replace,
        routes::set,
        routes::delete,
        routes::check,
        routes::versions,
        routes::version,
        routes::roll_back,
        configs::items,
        configs::item,
        configs::put,
        configs::delete,
        configs::versions,
        configs::version,
        configs::diff,
        configs::roll_back,
        configs::draft_of,
        configs::draft,
        configs::discard,
        configs::publish,
        configs::gray,
        configs::promote,
        configs::abort,
        configs::effective,
        configs::follow,
        configs::drafts,
        configs::export,
        configs::import,
        configs::audit,
        configs::encrypt,
        configs::rotate,
        node::status,
        node::backup,
        node::health,
        node::metrics,
        serve,
    ),
    security(("token" = [])),
    tags(
        (name = "registry", description = "Who is where"),
        (name = "config", description = "What applications are to know"),
        (name = "routes", description = "Where the gateway's requests go"),
        (name = "node", description = "The node itself"),
    ),
    modifiers(&BearerToken),
)]
struct Description;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", scheme);
    }
}

/// The description as JSON, as it is served and kept in `openapi.json`.
pub fn document() -> String {
    let mut text = Description::openapi()
        .to_pretty_json()
        .expect("the description is plain data");
    text.push('\n');
    text
}

/// This description. Needs no token.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "node", security(),
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json")),
)]
pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document()).into_response()
}
