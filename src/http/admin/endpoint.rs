//! One endpoint: its inputs, its command and its result.

use http::request::Parts;
use http::{Method, StatusCode, Uri, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::input::Input;
use super::openapi::ToSchema;
use super::operation::Operation;
use crate::admin::Admin;
use crate::admin::answer::{Command, Failure};
use crate::http::problem::Problem;
use crate::http::response::{HttpResult, json_value};

pub(super) struct Endpoint {
    pub(super) operation: Operation,
    handler: Box<Handler>,
}

type Handler = dyn Fn(&Admin, &AdminRequest<'_>) -> Result<Value, Problem> + Send + Sync;

/// A request to an endpoint.
pub(super) struct AdminRequest<'r> {
    pub(super) parts: &'r Parts,
    pub(super) body: &'r [u8],
    /// The number in place of `{id}`; 0 if there is none.
    pub(super) id: u64,
}

impl Endpoint {
    /// An endpoint that reads a `Q` from the query and a `B` from the body, runs the command made of
    /// them and returns an `R`.
    pub(super) fn new<Q: Input, B: Input, R: DeserializeOwned + ToSchema>(
        route: (Method, &'static str),
        docs: (&'static str, &'static str),
        command: impl Fn(&Admin, u64, Q, B) -> Result<Command, Failure> + Send + Sync + 'static,
    ) -> Self {
        let handler = move |admin: &Admin, request: &AdminRequest<'_>| {
            let query = Q::from_query(&request.parts.uri)?;
            let body = B::from_body(&request.parts.headers, request.body)?;
            Ok(admin.answer(command(admin, request.id, query, body)?)?)
        };
        Self {
            operation: Operation::new::<Q, B, R>(route, docs),
            handler: Box::new(handler),
        }
    }

    /// The same endpoint, which responds with status 201.
    pub(super) fn creating(mut self) -> Self {
        self.operation.status = StatusCode::CREATED;
        self
    }

    /// The same endpoint, whose result is a page; the query field `cursor` requests the next one.
    pub(super) fn paged_by(mut self, cursor: &'static str) -> Self {
        self.operation.cursor = Some(cursor);
        self
    }

    pub(super) fn respond(&self, admin: &Admin, request: &AdminRequest<'_>) -> HttpResult {
        let result = (self.handler)(admin, request)?;
        let mut response = json_value(self.operation.status, &result);
        let last = result.as_array().and_then(|rows| rows.last());
        let last = last.and_then(|row| row.get("id")?.as_u64());
        if let (Some(cursor), Some(last)) = (self.operation.cursor, last)
            && let Ok(link) = next_page(&request.parts.uri, cursor, last).parse()
        {
            response.headers_mut().insert(header::LINK, link);
        }
        Ok(response)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.operation.method, self.operation.path)
    }
}

/// Returns a link to the page after the row `last` (RFC 8288).
fn next_page(uri: &Uri, cursor: &str, last: u64) -> String {
    let fields = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let query: String = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields.filter(|(name, _)| name != cursor))
        .append_pair(cursor, &last.to_string())
        .finish();
    format!("<?{query}>; rel=\"next\"")
}
