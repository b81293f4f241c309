//! Reading inputs from queries and bodies.

use http::request::Parts;
use http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::openapi::{Describe, IntoParams, ToSchema};
use super::strict_json::StrictJson;
use crate::http::problem::Problem;

/// The input of an operation: [`Query`], [`Json`] or none.
pub(crate) trait Input: Sized + Describe {
    fn read(parts: &Parts, body: &[u8]) -> Result<Self, Problem>;
}

/// No input. A body is ignored.
impl Input for () {
    fn read(parts: &Parts, _: &[u8]) -> Result<Self, Problem> {
        match parts.uri.query() {
            None | Some("") => Ok(()),
            Some(_) => Err(Problem::invalid("", "This endpoint takes no query.")),
        }
    }
}

/// Fields of the query.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + IntoParams> Input for Query<T> {
    fn read(parts: &Parts, _: &[u8]) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let fields = form_urlencoded::parse(query.as_bytes());
        let fields = serde_urlencoded::Deserializer::new(fields);
        let read = serde_path_to_error::deserialize(fields);
        read.map(Self).map_err(|error| unreadable(&error))
    }
}

/// A JSON object as the body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned + ToSchema> Input for Json<T> {
    fn read(parts: &Parts, body: &[u8]) -> Result<Self, Problem> {
        <()>::read(parts, body)?;
        let kind = parts.headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail = "Content-Type: expected `application/json`.";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem::new(status, "unsupported_media_type", detail));
        }
        let StrictJson(value) = serde_json::from_slice(body).map_err(|error| {
            let detail = format!("The body is not valid JSON: {error}.");
            Problem::new(StatusCode::BAD_REQUEST, "bad_json", detail)
        })?;
        // serde would read an array as fields without names.
        if !value.is_object() {
            return Err(Problem::invalid("", "The body must be a JSON object."));
        }
        let read = serde_path_to_error::deserialize(value);
        read.map(Self).map_err(|error| unreadable(&error))
    }
}

/// Names the field and shows serde's message, which contains of the value no more than numbers.
fn unreadable<E: std::fmt::Display>(error: &serde_path_to_error::Error<E>) -> Problem {
    let problem = error.inner().to_string();
    // The name of a missing, repeated or unknown field is in the message only.
    let named = problem.split('`').nth(1).unwrap_or_default();
    let field = match error.path().to_string() {
        path if path == "." => named.to_owned(),
        path => path,
    };
    Problem::invalid(field, problem)
}
