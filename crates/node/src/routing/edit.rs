//! Changes of one route in a document. What else is in the document stays as it is, also what only a
//! newer binary understands.

use serde_json::{Value, json};
use sinew_core::{Error, Kind, Name, Result};

/// Adds the route, or puts it into the place of the one of its name.
///
/// InvalidArgument `routes.name_mismatch`, `routes.document_invalid`.
pub(super) fn set(document: &mut Value, name: &Name, mut route: Value) -> Result<()> {
    let Some(fields) = route.as_object_mut() else {
        return Err(not_an_object("a route"));
    };
    match fields.get("name") {
        None => {
            fields.insert("name".to_owned(), json!(name.as_str()));
        }
        Some(said) if said.as_str() == Some(name.as_str()) => {}
        Some(said) => {
            return Err(Error::new(
                Kind::InvalidArgument,
                "routes.name_mismatch",
                format!(
                    "the route says that it is named {said}, and the request that it is {name}; leave one out"
                ),
            ));
        }
    }
    let routes = routes(document)?;
    match routes.iter_mut().find(|route| is_named(route, name)) {
        Some(place) => *place = route,
        None => routes.push(route),
    }
    Ok(())
}

/// Takes the route out. NotFound `routes.name_unknown`.
pub(super) fn delete(document: &mut Value, name: &Name) -> Result<()> {
    let routes = routes(document)?;
    let before = routes.len();
    routes.retain(|route| !is_named(route, name));
    if routes.len() < before {
        return Ok(());
    }
    Err(Error::new(
        Kind::NotFound,
        "routes.name_unknown",
        format!("no stored route is named {name}; `sinew routes` lists those there are"),
    ))
}

/// An object with a list of routes, or an error.
pub(super) fn check_shape(document: &Value) -> Result<()> {
    match document.is_object() {
        true => Ok(()),
        false => Err(not_an_object("the document")),
    }
}

fn routes(document: &mut Value) -> Result<&mut Vec<Value>> {
    let fields = document
        .as_object_mut()
        .ok_or_else(|| not_an_object("the document"))?;
    let routes = fields.entry("routes").or_insert_with(|| json!([]));
    routes
        .as_array_mut()
        .ok_or_else(|| not_an_object("`routes`"))
}

fn is_named(route: &Value, name: &Name) -> bool {
    route["name"].as_str() == Some(name.as_str())
}

fn not_an_object(what: &str) -> Error {
    let shape = match what {
        "`routes`" => "a list",
        _ => "an object",
    };
    Error::new(
        Kind::InvalidArgument,
        "routes.document_invalid",
        format!(
            "{what} must be {shape}, such as {{\"routes\": [{{\"name\": \"orders\", \"path\": \"/api/orders/**\", \"service\": \"orders\"}}]}}"
        ),
    )
}
