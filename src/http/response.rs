//! Decisions as answers.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::guard::Denial;

impl Denial {
    /// The whole answer: status, header fields and problem document.
    pub fn response<B: From<String>>(&self) -> Response<B> {
        let mut response = Response::new(self.problem().into());
        *response.status_mut() =
            StatusCode::from_u16(self.status()).unwrap_or(StatusCode::FORBIDDEN);
        set_fields(response.headers_mut(), self.headers());
        response
    }
}

pub(super) fn set_fields(headers: &mut HeaderMap, fields: Vec<(&'static str, String)>) {
    for (name, value) in fields {
        // Names and values are our own and valid.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::try_from(value),
        ) {
            headers.insert(name, value);
        }
    }
}

/// A problem document (RFC 9457) of constant texts.
pub(super) fn problem<B: From<String>>(
    status: StatusCode,
    code: &'static str,
    detail: &str,
) -> Response<B> {
    let document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
        "code": code,
    });
    problem_response(status, document)
}

pub(super) fn problem_response<B: From<String>>(
    status: StatusCode,
    document: serde_json::Value,
) -> Response<B> {
    let mut response = Response::new(document.to_string().into());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
