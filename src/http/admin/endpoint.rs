//! One endpoint: a command at a route.

use std::fmt;

use http::request::Parts;
use http::{Uri, header};
use serde_json::Value;

use super::input::Input;
use super::openapi::ToSchema;
use super::operation::{Operation, OperationRoute};
use crate::admin::Admin;
use crate::admin::command::{Command, reply_to_json};
use crate::http::problem::Problem;
use crate::http::response::{HttpResult, json_value};

pub(super) struct Endpoint {
    pub(super) operation: Operation,
    handler: fn(&Admin, &AdminRequest<'_>) -> Result<Value, Problem>,
}

/// A request to an endpoint.
pub(super) struct AdminRequest<'r> {
    pub(super) parts: &'r Parts,
    pub(super) body: &'r [u8],
    /// The number in place of `{id}`.
    pub(super) id: Option<u64>,
}

impl OperationRoute {
    /// Makes an endpoint that runs the command in its input. The id in the path is the field `id` of
    /// the command.
    pub(super) fn run<I>(self) -> Endpoint
    where
        I: Input,
        I::Value: Command<Reply: ToSchema>,
    {
        let name = <I::Value as Command>::NAME;
        Endpoint {
            operation: Operation::new::<I, <I::Value as Command>::Reply>(name, self),
            handler: |admin, request| {
                let command = I::read(request.parts, request.body, request.id)?;
                Ok(reply_to_json(command.run(admin)?)?)
            },
        }
    }
}

impl Endpoint {
    pub(super) fn route(&self) -> &OperationRoute {
        &self.operation.route
    }

    pub(super) fn respond(&self, admin: &Admin, request: &AdminRequest<'_>) -> HttpResult {
        let result = (self.handler)(admin, request)?;
        let mut response = json_value(self.route().status, &result);
        let last = result.as_array().and_then(|rows| rows.last());
        let last = last.and_then(|row| row.get("id")?.as_u64());
        if let (Some(cursor), Some(last)) = (self.route().cursor, last)
            && let Ok(link) = next_page(&request.parts.uri, cursor, last).parse()
        {
            response.headers_mut().insert(header::LINK, link);
        }
        Ok(response)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.route().method, self.route().path)
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
