//! Swagger UI, embedded in the program.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use utoipa_swagger_ui::Config;

use crate::http::admin::dashboard::{LOGO, SVG};
use crate::http::admin::static_file::{StaticFile, redirect};
use crate::http::problem::Problem;
use crate::http::response::HttpResult;

/// Allows nothing from other origins, no inline scripts or styles, and no framing.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Starts Swagger UI, in place of the file of this name in the crate.
const INITIALIZER: &str = include_str!("swagger-initializer.js");
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The files of Swagger UI by name, each prepared by its first request.
#[derive(Debug, Default)]
pub(super) struct SwaggerUi(Mutex<BTreeMap<String, StaticFile>>);

impl SwaggerUi {
    /// Responds to a request for `/docs` or a path below it. The first page is at `/docs/`, so that
    /// its relative links work.
    pub(super) fn respond(&self, path: &str, request: &HeaderMap) -> HttpResult {
        let Some(name) = path.strip_prefix("/docs/") else {
            return Ok(redirect("docs/"));
        };
        let Some(file) = self.file(name) else {
            let detail = "There is no such page.";
            return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", detail));
        };
        Ok(file.respond_in_page(request, CONTENT_SECURITY_POLICY))
    }

    fn file(&self, name: &str) -> Option<StaticFile> {
        let mut files = self.0.lock();
        if let Some(file) = files.get(name) {
            return Some(file.clone());
        }
        let file = match name {
            "swagger-initializer.js" => {
                StaticFile::new(INITIALIZER.into(), HeaderValue::from_static(JAVASCRIPT))
            }
            "keyguard.svg" => StaticFile::new(LOGO.into(), HeaderValue::from_static(SVG)),
            name => vendored(name)?,
        };
        // Bounded by the number of embedded files.
        files.insert(name.to_owned(), file.clone());
        Some(file)
    }
}

/// Returns a file of the crate.
fn vendored(name: &str) -> Option<StaticFile> {
    let config = Config::from("../openapi.json");
    let found = utoipa_swagger_ui::serve(name, config.into()).ok()??;
    let bytes = match found.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let content_type = HeaderValue::try_from(found.content_type).ok()?;
    Some(StaticFile::new(bytes, content_type))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::sys::block_on;

    #[test]
    fn responses_share_the_bytes_of_a_file() {
        let pages = SwaggerUi::default();
        let bytes = |path| {
            let response = pages.respond(path, &HeaderMap::new()).unwrap();
            let body = block_on(response.into_body().collect()).unwrap();
            body.to_bytes()
        };
        for path in ["/docs/swagger-ui-bundle.js", "/docs/swagger-initializer.js"] {
            assert!(std::ptr::eq(&*bytes(path), &*bytes(path)), "{path}");
        }
        assert!(pages.respond("/docs/none", &HeaderMap::new()).is_err());
        assert_eq!(pages.0.lock().len(), 2);
    }
}
