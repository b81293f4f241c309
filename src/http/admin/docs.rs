//! Swagger UI, from this program alone.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use utoipa_swagger_ui::Config;

use crate::http::problem::Problem;

/// Nothing is loaded from elsewhere, nothing that stands in the page itself is run, and no other
/// page may show it within itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// A file of the pages. The first page is at `/docs/`, so that the others are beside it.
pub(super) fn page(path: &str) -> Result<Response<Full<Bytes>>, Problem> {
    let Some(file) = path.strip_prefix("/docs/") else {
        return Ok(redirect());
    };
    let config = Config::from("../openapi.json").validator_url("none");
    let found = utoipa_swagger_ui::serve(file, config.into());
    let Ok(Some(found)) = found else {
        let detail = "There is no such page.";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", detail));
    };
    let mut response = Response::new(Full::new(Bytes::from(found.bytes.into_owned())));
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&found.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Relative, as nobody knows where this is mounted.
fn redirect() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let target = HeaderValue::from_static("docs/");
    response.headers_mut().insert(header::LOCATION, target);
    response
}
