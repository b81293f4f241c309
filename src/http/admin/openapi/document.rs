//! The OpenAPI document.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::schemas;
use crate::http::admin::operation::{Caller, Operation, Tag};
use crate::http::problem::ProblemDocument;

const DESCRIPTION: &str = "Keys, organizations, limits and locks of one data file. Times are \
    RFC 3339, durations are text such as `1 hour`, limits are text such as `10/s` or \
    `500000 monthly`. Lists are paged; the header field `Link` contains the next page. A POST with an \
    `Idempotency-Key` is carried out once within 24 hours: a repeated request gets 409 and the `id` of \
    what the first one created.";

/// Returns an OpenAPI 3.1 document of these operations.
pub(super) fn document<'a>(operations: impl Iterator<Item = &'a Operation>) -> Value {
    let mut components: BTreeMap<String, RefOr<Schema>> = BTreeMap::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        components.extend(operation.schemas.referenced.iter().cloned());
        let at_path = paths.entry(operation.route.path).or_default();
        let method = operation.route.method.as_str().to_ascii_lowercase();
        at_path.insert(method, describe(operation));
    }
    let mut problem = Vec::new();
    schemas::add::<ProblemDocument>(&mut problem);
    components.extend(problem);
    let tags = Tag::ALL.map(|tag| json!({ "name": tag.name(), "description": tag.description() }));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "KeyGuard",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        // Relative to this document, wherever it is mounted.
        "servers": [{ "url": "./" }],
        "security": [{ "adminKey": [] }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "adminKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Admin-Key",
                    "description": "The key that `keyguard admin-key` prints, or the configured one.",
                },
            },
        },
    })
}

fn describe(operation: &Operation) -> Value {
    let query = operation.schemas.query.iter();
    let mut parameters: Vec<Value> = query.map(|field| parameter(json!(field))).collect();
    if has_id(operation) {
        parameters.push(json!({
            "name": "id",
            "in": "path",
            "required": true,
            "description": "The id of the organization or key.",
            "schema": { "type": "integer", "format": "uint64", "minimum": 0 },
            "example": 1,
        }));
    }
    if operation.route.method == Method::POST && operation.caller == Caller::Administrator {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "Makes a repeated request have no further effect.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        }));
    }
    if operation.caller == Caller::Reporter {
        parameters.extend(signature_fields());
    }
    let mut description = json!({
        "operationId": operation.id,
        "tags": [operation.route.tag.name()],
        "summary": operation.route.summary,
        "parameters": parameters,
        "responses": responses(operation),
    });
    if operation.caller != Caller::Administrator {
        description["security"] = json!([]);
    }
    if let Some(name) = &operation.schemas.body {
        description["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": reference(name) } },
        });
    }
    description
}

/// The header fields of a signed report.
fn signature_fields() -> [Value; 2] {
    let field = |name: &str, description: &str| {
        json!({
            "name": name,
            "in": "header",
            "required": true,
            "description": description,
            "schema": { "type": "string" },
        })
    };
    [
        field(
            "Github-Public-Key-Identifier",
            "The key that signed the body.",
        ),
        field(
            "Github-Public-Key-Signature",
            "The signature of the body: ECDSA with P-256 and SHA-256, ASN.1 DER, base64.",
        ),
    ]
}

/// Moves the example of an optional field to its description: Swagger UI sends examples, and those of all
/// fields together ask for nothing.
fn parameter(mut field: Value) -> Value {
    let is_required = field["required"] == true;
    if let Some(fields) = field.as_object_mut()
        && !is_required
        && let Some(Value::String(example)) = fields.remove("example")
    {
        let description = fields["description"].as_str().unwrap_or_default();
        let description = format!("{description} Example: `{example}`.");
        fields.insert("description".to_owned(), description.into());
    }
    field
}

fn has_id(operation: &Operation) -> bool {
    operation.route.path.contains("{id}")
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn responses(operation: &Operation) -> Value {
    let reason = |status: StatusCode| status.canonical_reason().unwrap_or_default();
    let mut success = json!({
        "description": reason(operation.route.status),
        "content": { "application/json": { "schema": operation.schemas.reply } },
    });
    if operation.route.cursor.is_some() {
        success["headers"] = json!({
            "Link": {
                "description": "The next page; absent after the last row.",
                "schema": { "type": "string" },
            },
        });
    }
    let mut all = Map::new();
    all.insert(operation.route.status.as_str().to_owned(), success);
    for status in problems(operation) {
        let problem = json!({
            "description": reason(status),
            "content": {
                "application/problem+json": {
                    "schema": reference(&ProblemDocument::name()),
                    "example": problem_example(operation, status),
                },
            },
        });
        all.insert(status.as_str().to_owned(), problem);
    }
    Value::Object(all)
}

fn problem_example(operation: &Operation, status: StatusCode) -> Value {
    let (code, detail) = match status {
        StatusCode::BAD_REQUEST => ("conflicting_hosts", "`Host` must occur once only."),
        StatusCode::UNAUTHORIZED if operation.caller == Caller::Reporter => (
            "invalid_signature",
            "The report has no valid signature of a known reporter.",
        ),
        StatusCode::UNAUTHORIZED => ("invalid_admin_key", "Invalid admin key."),
        StatusCode::FORBIDDEN => (
            "foreign_origin",
            "Pages of other origins must not use this service.",
        ),
        StatusCode::NOT_FOUND => ("not_found", "There is no key with id 7."),
        StatusCode::CONFLICT => ("conflict", "There is already an organization `acme`."),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "The body is longer than 65536 bytes."),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (
            "unsupported_media_type",
            "Content-Type: expected `application/json`.",
        ),
        StatusCode::UNPROCESSABLE_ENTITY => ("invalid", "limit: expected 1 to 1,000 rows."),
        StatusCode::TOO_MANY_REQUESTS => ("ip_limited", "Too many requests; try again later."),
        _ => ("unavailable", "The request was not completed; try again."),
    };
    json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
        "code": code,
    })
}

/// Statuses of the problem documents that an operation may return.
fn problems(operation: &Operation) -> Vec<StatusCode> {
    let mut all = vec![
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    if operation.schemas.body.is_some() {
        all.push(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    if operation.route.method != Method::GET || has_id(operation) {
        all.push(StatusCode::NOT_FOUND);
        all.push(StatusCode::CONFLICT);
    }
    if ["listKeys", "getUsage", "listRequests", "tailUsage"].contains(&operation.id) {
        all.push(StatusCode::NOT_FOUND);
    }
    if ["getUsage", "listRequests", "tailUsage"].contains(&operation.id) {
        all.push(StatusCode::CONFLICT);
    }
    all
}
