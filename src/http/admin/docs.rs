//! Swagger UI, from this program alone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use parking_lot::Mutex;
use utoipa_swagger_ui::Config;

use crate::http::problem::Problem;
use crate::http::static_file::StaticFile;

/// Nothing is loaded from elsewhere, nothing that stands in the page itself is run, and no other
/// page may show it within itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The files of the pages, each made when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<BTreeMap<String, StaticFile>>);

impl Pages {
    /// The first page is at `/docs/`, so that the others are beside it.
    pub(super) fn answer(
        &self,
        path: &str,
        request: &HeaderMap,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let Some(name) = path.strip_prefix("/docs/") else {
            return Ok(redirect());
        };
        let Some(file) = self.file(name) else {
            let detail = "There is no such page.";
            return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", detail));
        };
        let mut response = file.answer(request);
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }

    fn file(&self, name: &str) -> Option<StaticFile> {
        let mut files = self.0.lock();
        if let Some(file) = files.get(name) {
            return Some(file.clone());
        }
        let config = Config::from("../openapi.json").validator_url("none");
        let found = utoipa_swagger_ui::serve(name, config.into()).ok()??;
        let bytes = match found.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        let content_type = HeaderValue::try_from(found.content_type).ok()?;
        let file = StaticFile::new(bytes, content_type);
        // As many as there are, since others are not found.
        files.insert(name.to_owned(), file.clone());
        Some(file)
    }
}

/// Relative, as nobody knows where this is mounted.
fn redirect() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let target = HeaderValue::from_static("docs/");
    response.headers_mut().insert(header::LOCATION, target);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::sys::block_on;

    #[test]
    fn all_answers_share_the_bytes_of_a_page() {
        let pages = Pages::default();
        let bytes = |path| {
            let response = pages.answer(path, &HeaderMap::new()).unwrap();
            let body = block_on(response.into_body().collect()).unwrap();
            body.to_bytes()
        };
        for path in ["/docs/swagger-ui-bundle.js", "/docs/swagger-initializer.js"] {
            assert!(std::ptr::eq(&*bytes(path), &*bytes(path)), "{path}");
        }
        assert!(pages.answer("/docs/none", &HeaderMap::new()).is_err());
        assert_eq!(pages.0.lock().len(), 2);
    }
}
