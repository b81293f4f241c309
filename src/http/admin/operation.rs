//! The route of an operation and what the OpenAPI document says about it.

use http::{Method, StatusCode};

use super::input::Input;
use super::openapi::{Schemas, ToSchema};

/// An operation of the HTTP API.
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// Contains `{id}` in place of a number.
    pub(crate) path: &'static str,
    /// Status of a success.
    pub(crate) status: StatusCode,
    /// The query field that requests the next page.
    pub(crate) cursor: Option<&'static str>,
    #[cfg_attr(not(feature = "openapi"), allow(dead_code))]
    pub(super) docs: OperationDocs,
}

/// What the OpenAPI document says about an operation beside its route.
#[cfg_attr(not(feature = "openapi"), allow(dead_code))]
pub(super) struct OperationDocs {
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) schemas: Schemas,
    /// Whether the operation needs a trusted peer in place of the admin key.
    pub(super) is_for_trusted_peers: bool,
}

impl Operation {
    /// An operation that reads a `Q` from the query and a `B` from the body, and returns an `R`.
    pub(crate) fn new<Q: Input, B: Input, R: ToSchema>(
        (method, path): (Method, &'static str),
        (id, summary): (&'static str, &'static str),
    ) -> Self {
        Self {
            method,
            path,
            status: StatusCode::OK,
            cursor: None,
            docs: OperationDocs {
                id,
                summary,
                schemas: Schemas::of::<Q, B, R>(),
                is_for_trusted_peers: false,
            },
        }
    }

    /// The same operation, for trusted peers instead of administrators.
    #[cfg(feature = "serve")]
    pub(crate) fn for_trusted_peers(mut self) -> Self {
        self.docs.is_for_trusted_peers = true;
        self
    }

    /// Matches a path; returns the text in place of `{id}`, if the operation has an id.
    pub(crate) fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        let mut id = None;
        let (mut pattern, mut segments) = (self.path.split('/'), path.split('/'));
        loop {
            match (pattern.next(), segments.next()) {
                (None, None) => return Some(id),
                (Some("{id}"), Some(text)) => id = Some(text),
                (Some(own), Some(segment)) if own == segment => {}
                _ => return None,
            }
        }
    }
}
