//! One endpoint: what it takes, what it does and what it answers, in one place for the server and
//! for its description.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
#[cfg(feature = "serve")]
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use crate::admin::answer::{Command, Failure};
use crate::guard::KeyGuard;
use crate::http::problem::Problem;
use crate::http::response::json;

/// Schemas by their names.
pub(in crate::http) type Schemas = Vec<(String, RefOr<Schema>)>;

type Work = dyn Fn(&KeyGuard, &Asked<'_>) -> Result<Value, Problem> + Send + Sync;

pub(in crate::http) struct Endpoint {
    pub(super) method: Method,
    /// With `{id}` in the place of a number.
    pub(super) path: &'static str,
    /// Its name in the description.
    pub(super) operation: &'static str,
    pub(super) summary: &'static str,
    /// That of a success.
    pub(super) status: StatusCode,
    pub(super) query: Vec<Parameter>,
    /// The name of the schema of its body.
    pub(super) body: Option<String>,
    pub(super) reply: RefOr<Schema>,
    /// All that the schemas refer to.
    pub(super) schemas: Schemas,
    /// The field of the query that asks for the next page.
    pub(super) cursor: Option<&'static str>,
    /// It takes no admin key.
    pub(super) is_for_trusted_peers: bool,
    work: Box<Work>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// A request for an endpoint.
pub(in crate::http) struct Asked<'r> {
    parts: &'r Parts,
    body: &'r [u8],
    pub(super) id: u64,
}

impl<'r> Asked<'r> {
    pub(in crate::http) fn new(parts: &'r Parts, body: &'r [u8], id: u64) -> Self {
        Self { parts, body, id }
    }
}

/// What an endpoint reads of a query or a body; `()` for nothing.
pub(in crate::http) trait Input: Sized {
    fn of_query(uri: &Uri) -> Result<Self, Problem>;
    fn of_body(asked: &Asked<'_>) -> Result<Self, Problem>;
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

    fn of_body(_: &Asked<'_>) -> Result<Self, Problem> {
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
pub(in crate::http) struct Query<T>(pub(in crate::http) T);

impl<T: DeserializeOwned + IntoParams> Input for Query<T> {
    fn of_query(uri: &Uri) -> Result<Self, Problem> {
        let query = uri.query().unwrap_or_default();
        let fields = form_urlencoded::parse(query.as_bytes());
        let fields = serde_urlencoded::Deserializer::new(fields);
        let read = serde_path_to_error::deserialize(fields);
        read.map(Self).map_err(|error| unreadable(&error))
    }

    fn of_body(_: &Asked<'_>) -> Result<Self, Problem> {
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
pub(in crate::http) struct Json<T>(pub(in crate::http) T);

impl<T: DeserializeOwned + ToSchema> Input for Json<T> {
    fn of_query(_: &Uri) -> Result<Self, Problem> {
        Err(Problem::invalid("", "is no query"))
    }

    fn of_body(asked: &Asked<'_>) -> Result<Self, Problem> {
        let kind = asked.parts.headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail = "Content-Type: expected `application/json`.";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem::new(status, "unsupported_media_type", detail));
        }
        let value: Value = serde_json::from_slice(asked.body).map_err(|error| {
            let detail = format!("The body is not JSON: {error}.");
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

impl Endpoint {
    /// An endpoint that carries out the command that `command` makes of what it takes, and answers
    /// with an `R`.
    pub(super) fn new<Q: Input, B: Input, R: DeserializeOwned + ToSchema>(
        place: (Method, &'static str),
        about: (&'static str, &'static str),
        command: impl Fn(&KeyGuard, u64, Q, B) -> Result<Command, Failure> + Send + Sync + 'static,
    ) -> Self {
        Self::of::<Q, B, R>(place, about, move |guard, id, query, body| {
            Ok(guard.answer(command(guard, id, query, body)?)?)
        })
    }

    /// An endpoint that does something of its own.
    #[cfg(feature = "serve")]
    pub(in crate::http) fn working<Q: Input, B: Input, R: Serialize + ToSchema>(
        place: (Method, &'static str),
        about: (&'static str, &'static str),
        work: impl Fn(&KeyGuard, u64, Q, B) -> Result<R, Problem> + Send + Sync + 'static,
    ) -> Self {
        Self::of::<Q, B, R>(place, about, move |guard, id, query, body| {
            let reply = serde_json::to_value(work(guard, id, query, body)?);
            reply.map_err(|error| {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Problem::new(status, "unavailable", error.to_string())
            })
        })
    }

    fn of<Q: Input, B: Input, R: ToSchema>(
        (method, path): (Method, &'static str),
        (operation, summary): (&'static str, &'static str),
        work: impl Fn(&KeyGuard, u64, Q, B) -> Result<Value, Problem> + Send + Sync + 'static,
    ) -> Self {
        let mut schemas = Vec::new();
        let body = B::schema(&mut schemas);
        R::schemas(&mut schemas);
        let work = move |guard: &KeyGuard, asked: &Asked<'_>| {
            let query = Q::of_query(&asked.parts.uri)?;
            let body = B::of_body(asked)?;
            work(guard, asked.id, query, body)
        };
        Self {
            status: StatusCode::OK,
            method,
            path,
            operation,
            summary,
            query: Q::parameters(),
            body,
            reply: R::schema(),
            schemas,
            cursor: None,
            is_for_trusted_peers: false,
            work: Box::new(work),
        }
    }

    /// The same, which only trusted peers may ask.
    #[cfg(feature = "serve")]
    pub(in crate::http) fn for_trusted_peers(self) -> Self {
        Self {
            is_for_trusted_peers: true,
            ..self
        }
    }

    /// The same, of a success that made something.
    pub(super) fn creating(self) -> Self {
        Self {
            status: StatusCode::CREATED,
            ..self
        }
    }

    /// The same, which lists in pages; `cursor` asks for the next.
    pub(super) fn in_pages(self, cursor: &'static str) -> Self {
        Self {
            cursor: Some(cursor),
            ..self
        }
    }

    /// Whether a path is that of the endpoint, and what is in the place of the id.
    pub(super) fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        let mut id = None;
        let (mut own, mut asked) = (self.path.split('/'), path.split('/'));
        loop {
            match (own.next(), asked.next()) {
                (None, None) => return Some(id),
                (Some("{id}"), Some(text)) => id = Some(text),
                (Some(own), Some(asked)) if own == asked => {}
                _ => return None,
            }
        }
    }

    pub(super) fn takes_id(&self) -> bool {
        self.path.contains("{id}")
    }

    pub(in crate::http) fn answer(
        &self,
        guard: &KeyGuard,
        asked: &Asked<'_>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let reply = (self.work)(guard, asked)?;
        let mut response = json(self.status, reply.to_string().into());
        let last = reply.as_array().and_then(|rows| rows.last());
        let last = last.and_then(|row| row.get("id")?.as_u64());
        if let (Some(cursor), Some(last)) = (self.cursor, last)
            && let Ok(link) = next_page(&asked.parts.uri, cursor, last).parse()
        {
            response.headers_mut().insert(header::LINK, link);
        }
        Ok(response)
    }
}

/// Where the page behind the row `last` is (RFC 8288).
fn next_page(uri: &Uri, cursor: &str, last: u64) -> String {
    let fields = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let query: String = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields.filter(|(name, _)| name != cursor))
        .append_pair(cursor, &last.to_string())
        .finish();
    format!("<?{query}>; rel=\"next\"")
}
