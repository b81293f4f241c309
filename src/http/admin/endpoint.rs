//! One endpoint: what it takes, what it does and what it answers, in one place for the server and
//! for its description.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;

use super::input::Input;
use super::operation::Operation;
use crate::admin::Admin;
use crate::admin::answer::{Command, Failure};
use crate::http::problem::Problem;
use crate::http::response::json_value;

type Work = dyn Fn(&Admin, &Asked<'_>) -> Result<Value, Problem> + Send + Sync;

pub(crate) struct Endpoint {
    pub(crate) operation: Operation,
    work: Box<Work>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.operation.method, self.operation.path)
    }
}

/// A request for an endpoint.
pub(crate) struct Asked<'r> {
    parts: &'r Parts,
    body: &'r [u8],
    id: u64,
}

impl<'r> Asked<'r> {
    pub(crate) fn new(parts: &'r Parts, body: &'r [u8], id: u64) -> Self {
        Self { parts, body, id }
    }
}

impl Endpoint {
    /// An endpoint that carries out the command that `command` makes of what it takes, and answers
    /// with an `R`.
    pub(crate) fn new<Q: Input, B: Input, R: DeserializeOwned + ToSchema>(
        place: (Method, &'static str),
        about: (&'static str, &'static str),
        command: impl Fn(&Admin, u64, Q, B) -> Result<Command, Failure> + Send + Sync + 'static,
    ) -> Self {
        let work = move |admin: &Admin, asked: &Asked<'_>| {
            let query = Q::of_query(&asked.parts.uri)?;
            let body = B::of_body(&asked.parts.headers, asked.body)?;
            Ok(admin.answer(command(admin, asked.id, query, body)?)?)
        };
        Self {
            operation: Operation::new::<Q, B, R>(place, about),
            work: Box::new(work),
        }
    }

    /// The same, of a success that made something.
    pub(crate) fn creating(mut self) -> Self {
        self.operation.status = StatusCode::CREATED;
        self
    }

    /// The same, which lists in pages; `cursor` asks for the next.
    pub(crate) fn in_pages(mut self, cursor: &'static str) -> Self {
        self.operation.cursor = Some(cursor);
        self
    }

    pub(crate) fn answer(
        &self,
        admin: &Admin,
        asked: &Asked<'_>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let reply = (self.work)(admin, asked)?;
        let mut response = json_value(self.operation.status, &reply);
        let last = reply.as_array().and_then(|rows| rows.last());
        let last = last.and_then(|row| row.get("id")?.as_u64());
        if let (Some(cursor), Some(last)) = (self.operation.cursor, last)
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
