//! Stands in for the module `openapi` without the feature of that name.

use http::{HeaderMap, Method};

use super::operation::Operation;
use crate::http::response::HttpResult;

/// No documentation.
#[derive(Clone, Debug)]
pub(super) struct Documentation;

impl Documentation {
    pub(super) fn new<'a>(_: impl Iterator<Item = &'a Operation>) -> Self {
        Self
    }

    pub(super) fn respond(&self, _: &Method, _: &str, _: &HeaderMap) -> Option<HttpResult> {
        None
    }
}

/// No schemas.
pub(crate) struct Schemas;

impl Schemas {
    pub(super) fn of<I: Describe, R: ToSchema>() -> Self {
        Self
    }
}

/// An input whose schema is not needed.
pub(crate) trait Describe {}

impl<T> Describe for T {}

/// A type whose schema is not needed.
pub(crate) trait ToSchema {}

impl<T> ToSchema for T {}

/// Query fields whose schema is not needed.
pub(crate) trait IntoParams {}

impl<T> IntoParams for T {}
