//! The description of the API, made of the operations that serve it.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::operation::Operation;
use crate::http::problem::ProblemDocument;

const DESCRIPTION: &str = "Keys, organizations, limits and locks of one data file. Times are \
    RFC 3339, durations are text such as `1 hour`, limits are text such as `10/s` or \
    `500000 monthly`. Lists come in pages; the field `Link` has the next one. A POST that carries an \
    `Idempotency-Key` is carried out once within 24 hours: sent again, it is answered with 409 and the \
    `id` of what it made.";

/// An OpenAPI 3.1 document.
pub(super) fn describe<'a>(operations: impl Iterator<Item = &'a Operation>) -> Value {
    let mut schemas: BTreeMap<String, RefOr<Schema>> = BTreeMap::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        schemas.extend(operation.schemas.iter().cloned());
        let at_path = paths.entry(operation.path).or_default();
        let method = operation.method.as_str().to_ascii_lowercase();
        at_path.insert(method, described(operation));
    }
    let mut of_problem = Vec::new();
    ProblemDocument::schemas(&mut of_problem);
    schemas.extend(of_problem);
    schemas.insert(
        ProblemDocument::name().into_owned(),
        ProblemDocument::schema(),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "KeyGuard",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        // Beside this document, wherever it is mounted.
        "servers": [{ "url": "./" }],
        "security": [{ "adminKey": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "adminKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Admin-Key",
                    "description": "What `keyguard admin-key` prints, or the one that is configured.",
                },
            },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation.query.iter().map(|field| json!(field)).collect();
    if operation.takes_id() {
        parameters.push(json!({
            "name": "id",
            "in": "path",
            "required": true,
            "schema": { "type": "integer", "format": "uint64", "minimum": 0 },
        }));
    }
    if operation.method == Method::POST && !operation.is_for_trusted_peers {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "Makes the request one that is carried out once.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        }));
    }
    let mut described = json!({
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": responses(operation),
    });
    if operation.is_for_trusted_peers {
        described["security"] = json!([]);
    }
    if let Some(name) = &operation.body {
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": reference(name) } },
        });
    }
    described
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn responses(operation: &Operation) -> Value {
    let mut success = json!({
        "description": operation.summary,
        "content": { "application/json": { "schema": operation.reply } },
    });
    if operation.cursor.is_some() {
        success["headers"] = json!({
            "Link": {
                "description": "Where the next page is; absent behind the last row.",
                "schema": { "type": "string" },
            },
        });
    }
    let mut all = Map::new();
    all.insert(operation.status.as_str().to_owned(), success);
    for status in problems(operation) {
        let problem = json!({
            "description": status.canonical_reason().unwrap_or_default(),
            "content": {
                "application/problem+json": { "schema": reference(&ProblemDocument::name()) },
            },
        });
        all.insert(status.as_str().to_owned(), problem);
    }
    Value::Object(all)
}

/// What else may be answered.
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
    if operation.body.is_some() {
        all.push(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    if operation.method != Method::GET || operation.takes_id() {
        all.push(StatusCode::NOT_FOUND);
        all.push(StatusCode::CONFLICT);
    }
    if operation.name == "listKeys" {
        all.push(StatusCode::NOT_FOUND);
    }
    all
}
