//! Reading inputs from queries and bodies.

use std::marker::PhantomData;

use http::request::Parts;
use http::{StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::openapi::{Describe, IntoParams, ToSchema};
use super::strict_json::StrictJson;
use crate::http::problem::Problem;
use crate::model::key_words::contains_key;

/// The source of the input of an operation: [`Query`] or [`Json`].
pub(crate) trait Input: Describe {
    type Value;

    /// Reads the input. The id in the path, if there is one, is its field `id`.
    fn read(parts: &Parts, body: &[u8], id: Option<u64>) -> Result<Self::Value, Problem>;
}

/// The fields of the query. A body is ignored.
pub(crate) struct Query<T>(PhantomData<T>);

impl<T: DeserializeOwned + IntoParams> Input for Query<T> {
    type Value = T;

    fn read(parts: &Parts, _: &[u8], id: Option<u64>) -> Result<T, Problem> {
        let mut query = parts.uri.query().unwrap_or_default().to_owned();
        if let Some(id) = id {
            query = format!("id={id}&{query}");
        }
        let fields = form_urlencoded::parse(query.as_bytes());
        let fields = serde_urlencoded::Deserializer::new(fields);
        serde_path_to_error::deserialize(fields).map_err(|error| unreadable(&error))
    }
}

/// A JSON object as the body. There must be no query.
pub(crate) struct Json<T>(PhantomData<T>);

impl<T: DeserializeOwned + ToSchema> Input for Json<T> {
    type Value = T;

    fn read(parts: &Parts, body: &[u8], id: Option<u64>) -> Result<T, Problem> {
        if has_query(parts) {
            return Err(Problem::invalid("", "This endpoint takes no query."));
        }
        let mut fields = read_object(parts, body)?;
        if let Some(id) = id
            && fields.insert("id".to_owned(), id.into()).is_some()
        {
            return Err(Problem::invalid("id", "The id is in the path."));
        }
        serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| unreadable(&error))
    }
}

impl<T: DeserializeOwned + ToSchema> Json<T> {
    /// Like [`Input::read`], for a struct without objects in its fields: serde itself refuses its
    /// duplicate fields.
    #[cfg(feature = "serve")]
    pub(crate) fn read_struct(parts: &Parts, body: &[u8]) -> Result<T, Problem> {
        let is_object = body.trim_ascii_start().starts_with(b"{");
        if is_object
            && is_json(parts)
            && !has_query(parts)
            && let Ok(value) = serde_json::from_slice(body)
        {
            return Ok(value);
        }
        // Finds the problem.
        Self::read(parts, body, None)
    }
}

fn has_query(parts: &Parts) -> bool {
    parts.uri.query().is_some_and(|query| !query.is_empty())
}

fn is_json(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

fn read_object(parts: &Parts, body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if !is_json(parts) {
        let detail = "Content-Type: expected `application/json`.";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(status, "unsupported_media_type", detail));
    }
    match serde_json::from_slice(body) {
        Ok(StrictJson(Value::Object(fields))) => Ok(fields),
        // serde would read an array as fields without names.
        Ok(_) => Err(Problem::invalid("", "The body must be a JSON object.")),
        Err(error) => {
            let error = without_keys(error.to_string());
            let detail = format!("The body is not valid JSON: {error}.");
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_json", detail))
        }
    }
}

/// Returns a message of serde unless it quotes a key that a client sent as the name of a field.
fn without_keys(message: String) -> String {
    match contains_key(&message) {
        true => "the name of a field contains the text of a key".to_owned(),
        false => message,
    }
}

/// Returns a problem with the field and serde's message, which quotes numbers and names of fields.
fn unreadable<E: std::fmt::Display>(error: &serde_path_to_error::Error<E>) -> Problem {
    let problem = without_keys(error.inner().to_string());
    // The name of a missing, repeated or unknown field is in the message only.
    let named = problem.split('`').nth(1).unwrap_or_default();
    let field = match error.path().to_string() {
        path if path == "." => named.to_owned(),
        path if contains_key(&path) => String::new(),
        path => path,
    };
    Problem::invalid(field, problem)
}
