//! The OpenAPI document, made of the operations that are served, and Swagger UI.

mod document;
mod schemas;
mod swagger_ui;

use http::{HeaderMap, HeaderValue, Method};
use std::sync::Arc;
pub(crate) use utoipa::{IntoParams, ToSchema};

pub(crate) use self::schemas::{Describe, Schemas};
use self::swagger_ui::SwaggerUi;
use super::operation::Operation;
use super::static_file::StaticFile;
use crate::http::problem::Problem;
use crate::http::response::HttpResult;

/// The OpenAPI document at `/openapi.json`, and Swagger UI at `/docs`.
#[derive(Clone, Debug)]
pub(super) struct Documentation {
    document: StaticFile,
    pages: Arc<SwaggerUi>,
}

impl Documentation {
    pub(super) fn new<'a>(operations: impl Iterator<Item = &'a Operation>) -> Self {
        let document = document::document(operations).to_string().into();
        let content_type = HeaderValue::from_static("application/json");
        Self {
            document: StaticFile::new(document, content_type),
            pages: Arc::default(),
        }
    }

    /// Responds to a request for one of its paths; `None` for other paths.
    pub(super) fn respond(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<HttpResult> {
        let is_document = path == "/openapi.json";
        if !is_document && path != "/docs" && !path.starts_with("/docs/") {
            return None;
        }
        Some(match *method {
            Method::GET | Method::HEAD if is_document => Ok(self.document.respond(headers)),
            Method::GET | Method::HEAD => self.pages.respond(path, headers),
            _ => Err(Problem::method_not_allowed(["GET", "HEAD"].into_iter())),
        })
    }
}
