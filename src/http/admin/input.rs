//! What endpoints read of requests.

use http::{HeaderMap, StatusCode, Uri, header};
use serde::de::DeserializeOwned;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use super::unique::Unique;
use crate::http::problem::Problem;

/// Schemas by their names.
pub(crate) type Schemas = Vec<(String, RefOr<Schema>)>;

/// What an endpoint reads of a query or a body; `()` for nothing.
pub(crate) trait Input: Sized {
    fn of_query(uri: &Uri) -> Result<Self, Problem>;
    fn of_body(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem>;
    fn parameters() -> Vec<Parameter>;
    fn schema(schemas: &mut Schemas) -> Option<String>;
}

impl Input for () {
    fn of_query(uri: &Uri) -> Result<Self, Problem> {
        match uri.query() {
            None | Some("") => Ok(()),
            Some(_) => Err(Problem::invalid("", "This endpoint takes no query.")),
        }
    }

    fn of_body(_: &HeaderMap, _: &[u8]) -> Result<Self, Problem> {
        Ok(())
    }

    fn parameters() -> Vec<Parameter> {
        Vec::new()
    }

    fn schema(_: &mut Schemas) -> Option<String> {
        None
    }
}

/// Fields of a query.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + IntoParams> Input for Query<T> {
    fn of_query(uri: &Uri) -> Result<Self, Problem> {
        let query = uri.query().unwrap_or_default();
        let fields = form_urlencoded::parse(query.as_bytes());
        let fields = serde_urlencoded::Deserializer::new(fields);
        let read = serde_path_to_error::deserialize(fields);
        read.map(Self).map_err(|error| unreadable(&error))
    }

    fn of_body(_: &HeaderMap, _: &[u8]) -> Result<Self, Problem> {
        Err(Problem::invalid("", "is no body"))
    }

    fn parameters() -> Vec<Parameter> {
        T::into_params(|| Some(ParameterIn::Query))
    }

    fn schema(_: &mut Schemas) -> Option<String> {
        None
    }
}

/// A body of JSON.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned + ToSchema> Input for Json<T> {
    fn of_query(_: &Uri) -> Result<Self, Problem> {
        Err(Problem::invalid("", "is no query"))
    }

    fn of_body(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        let kind = headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail = "Content-Type: expected `application/json`.";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem::new(status, "unsupported_media_type", detail));
        }
        let Unique(value) = serde_json::from_slice(body).map_err(|error| {
            let detail = format!("The body is not JSON that can be accepted: {error}.");
            Problem::new(StatusCode::BAD_REQUEST, "bad_json", detail)
        })?;
        // An array would be read as fields without names.
        if !value.is_object() {
            return Err(Problem::invalid("", "The body is no JSON object."));
        }
        let read = serde_path_to_error::deserialize(value);
        read.map(Self).map_err(|error| unreadable(&error))
    }

    fn parameters() -> Vec<Parameter> {
        Vec::new()
    }

    fn schema(schemas: &mut Schemas) -> Option<String> {
        let name = T::name().into_owned();
        T::schemas(schemas);
        schemas.push((name.clone(), T::schema()));
        Some(name)
    }
}

/// Names the field; serde says what is wrong with it, and shows no more of the value than numbers
/// and what it expected.
fn unreadable<E: std::fmt::Display>(error: &serde_path_to_error::Error<E>) -> Problem {
    let problem = error.inner().to_string();
    // Of a missing, a repeated or an unknown field the message alone has the name.
    let named = problem.split('`').nth(1).unwrap_or_default();
    let field = match error.path().to_string() {
        path if path == "." => named.to_owned(),
        path => path,
    };
    Problem::invalid(field, problem)
}
