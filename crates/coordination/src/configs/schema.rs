//! JSON Schema, drafts 4 to 2020-12.

use boon::{Compiler, Draft, Schemas, UrlLoader};
use serde_json::Value;
use sinew_core::Result;

use super::error;

/// The longest schema, bytes.
pub(super) const MOST_BYTES: usize = 64 << 10;
/// How much of what is wrong is told.
const MOST_TOLD: usize = 600;
const LOCATION: &str = "urn:sinew:schema";

/// A schema says all it means itself: nothing is read from files or the network.
struct Nothing;

impl UrlLoader for Nothing {
    fn load(&self, url: &str) -> Result<Value, Box<dyn std::error::Error>> {
        let shown: String = url.chars().take(128).collect();
        Err(format!("it refers to {shown}, and nothing outside of it is read").into())
    }
}

/// Checks the schema, and `value` against it. InvalidArgument `configs.schema_invalid`,
/// `configs.schema_mismatch`.
pub(super) fn check(schema: &str, value: &Value) -> Result<()> {
    if schema.len() > MOST_BYTES {
        return Err(error::too_large("schema", schema.len(), MOST_BYTES));
    }
    let document: Value = serde_json::from_str(schema)
        .map_err(|fault| error::schema_invalid(format!("it is not JSON: {fault}")))?;
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    compiler.set_default_draft(Draft::V2020_12);
    compiler.enable_format_assertions();
    compiler.use_loader(Box::new(Nothing));
    compiler
        .add_resource(LOCATION, document)
        .map_err(|fault| error::schema_invalid(told(&format!("{fault:#}"))))?;
    let index = compiler
        .compile(LOCATION, &mut schemas)
        .map_err(|fault| error::schema_invalid(told(&format!("{fault:#}"))))?;
    schemas.validate(value, index).map_err(|fault| {
        let mut places = Vec::new();
        collect(&fault, &mut places);
        error::schema_mismatch(told(&places.join("; ")))
    })
}

/// Where it is wrong, and by which rule: the library's own words quote values, which may be secret.
fn collect(fault: &boon::ValidationError<'_, '_>, places: &mut Vec<String>) {
    if !fault.causes.is_empty() {
        fault.causes.iter().for_each(|cause| collect(cause, places));
        return;
    }
    let rule = fault.schema_url.rsplit('#').next().unwrap_or_default();
    let at = match fault.instance_location.to_string() {
        at if at.is_empty() => "the whole".to_owned(),
        at => at,
    };
    let kind = format!("{:?}", fault.kind);
    let kind = kind.split([' ', '(', '{']).next().unwrap_or_default();
    let missing = match &fault.kind {
        boon::ErrorKind::Required { want } => format!(" ({})", want.join(", ")),
        boon::ErrorKind::AdditionalProperties { got } => {
            let names: Vec<_> = got.iter().map(|name| name.as_ref()).collect();
            format!(" ({})", names.join(", "))
        }
        _ => String::new(),
    };
    places.push(format!(
        "{at} breaks {kind}{missing} of {}",
        match rule {
            "" => "the schema",
            rule => rule,
        }
    ));
}

fn told(text: &str) -> String {
    text.chars().take(MOST_TOLD).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PORT: &str = r#"{"type": "object", "required": ["port"], "additionalProperties": false,
        "properties": {"port": {"type": "integer", "maximum": 65535}, "key": {"pattern": "^k"}}}"#;

    #[test]
    fn what_fits_passes_and_what_does_not_is_placed() {
        check(PORT, &json!({"port": 80})).unwrap();
        for (value, told) in [
            (json!({}), "Required (port)"),
            (json!({"port": 70000}), "/port"),
            (json!({"port": 1, "pot": 2}), "(pot)"),
            (json!({"port": 1, "key": "sekret"}), "/key breaks Pattern"),
            (json!({"port": "sekret"}), "/port breaks Type"),
        ] {
            let error = check(PORT, &value).unwrap_err();
            assert_eq!(error.code(), "configs.schema_mismatch");
            assert!(error.message().contains(told), "{error}");
            assert!(!error.message().contains("sekret"), "{error}");
        }
    }

    #[test]
    fn bad_schemas_are_refused_and_nothing_is_loaded() {
        for schema in [
            "{",
            r#"{"type": "nothing"}"#,
            r#"{"$ref": "file:///etc/passwd"}"#,
            r#"{"$ref": "http://127.0.0.1:1/x"}"#,
            r#"{"pattern": "("}"#,
        ] {
            let error = check(schema, &json!(1)).unwrap_err();
            assert_eq!(error.code(), "configs.schema_invalid", "{schema}: {error}");
        }
        let error = check(&" ".repeat(MOST_BYTES + 1), &json!(1)).unwrap_err();
        assert_eq!(error.code(), "configs.too_large");
        check(r##"{"$ref": "#"}"##, &json!(1)).unwrap_or_default();
    }
}
