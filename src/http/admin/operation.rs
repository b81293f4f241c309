//! Operations of the HTTP API.

use http::{Method, StatusCode};

use super::input::Input;
use super::openapi::{Schemas, ToSchema};

/// A group of operations in the OpenAPI document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Organizations,
    Keys,
    Limits,
    Addresses,
    Usage,
    Decisions,
    Service,
}

#[cfg_attr(not(feature = "openapi"), allow(dead_code))]
impl Tag {
    pub(super) const ALL: [Self; 7] = [
        Self::Organizations,
        Self::Keys,
        Self::Limits,
        Self::Addresses,
        Self::Usage,
        Self::Decisions,
        Self::Service,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Organizations => "Organizations",
            Self::Keys => "Keys",
            Self::Limits => "Limits",
            Self::Addresses => "Addresses",
            Self::Usage => "Usage",
            Self::Decisions => "Decisions",
            Self::Service => "Service",
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Organizations => "The owners of keys, and the limits that their keys share.",
            Self::Keys => "Creating, listing, changing, suspending, rotating and revoking keys.",
            Self::Limits => "What remains of the limits of a key, resets and overrides.",
            Self::Addresses => "Locks of addresses, and their limits.",
            Self::Usage => "Totals, counts and individual requests.",
            Self::Decisions => "Decisions about requests.",
            Self::Service => "The audit log, the policy and the condition of the service.",
        }
    }

    fn route(self, method: Method, path: &'static str) -> OperationRoute {
        OperationRoute {
            tag: self,
            method,
            path,
            summary: "",
            status: StatusCode::OK,
            cursor: None,
        }
    }

    pub(super) fn get(self, path: &'static str) -> OperationRoute {
        self.route(Method::GET, path)
    }

    pub(crate) fn post(self, path: &'static str) -> OperationRoute {
        self.route(Method::POST, path)
    }

    pub(super) fn patch(self, path: &'static str) -> OperationRoute {
        self.route(Method::PATCH, path)
    }

    pub(super) fn delete(self, path: &'static str) -> OperationRoute {
        self.route(Method::DELETE, path)
    }
}

/// The route of an operation.
#[cfg_attr(not(feature = "openapi"), allow(dead_code))]
pub(crate) struct OperationRoute {
    pub(super) tag: Tag,
    pub(super) method: Method,
    /// Contains `{id}` in place of a number.
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    /// Status of a success.
    pub(super) status: StatusCode,
    /// The query field that requests the next page.
    pub(super) cursor: Option<&'static str>,
}

impl OperationRoute {
    pub(crate) fn summary(mut self, text: &'static str) -> Self {
        self.summary = text;
        self
    }

    /// The same route, with status 201.
    pub(super) fn creating(mut self) -> Self {
        self.status = StatusCode::CREATED;
        self
    }

    /// The same route, whose result is a page; the query field `cursor` requests the next one.
    pub(super) fn paged_by(mut self, cursor: &'static str) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Matches a path; returns the text in place of `{id}`, if the route has an id.
    pub(super) fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
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

/// Who may use an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
pub(crate) enum Caller {
    /// Those who have the admin key.
    Administrator,
    TrustedPeer,
    /// Those who sign reports of leaked keys.
    Reporter,
}

/// A route and what the OpenAPI document says about it.
#[cfg_attr(not(feature = "openapi"), allow(dead_code))]
pub(crate) struct Operation {
    /// The id in the OpenAPI document.
    pub(super) id: &'static str,
    pub(super) route: OperationRoute,
    pub(super) schemas: Schemas,
    pub(super) caller: Caller,
}

impl Operation {
    /// An operation that reads an `I` and returns an `R`.
    pub(crate) fn new<I: Input, R: ToSchema>(id: &'static str, route: OperationRoute) -> Self {
        Self {
            id,
            route,
            schemas: Schemas::of::<I, R>(),
            caller: Caller::Administrator,
        }
    }

    /// The same operation, for trusted peers instead of administrators.
    #[cfg(feature = "serve")]
    pub(crate) fn for_trusted_peers(mut self) -> Self {
        self.caller = Caller::TrustedPeer;
        self
    }

    /// The same operation, for reporters of leaked keys instead of administrators.
    #[cfg(feature = "serve")]
    pub(crate) fn for_reporters(mut self) -> Self {
        self.caller = Caller::Reporter;
        self
    }
}
