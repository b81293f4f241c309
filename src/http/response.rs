//! Responses made of decisions and JSON values.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::problem::Problem;
use crate::guard::{Denial, Grant, LimitFields};
use crate::input::text::escaped_json;

/// The response of a handler of this crate.
pub(crate) type HttpResult = Result<Response<Full<Bytes>>, Problem>;

impl Denial {
    /// Returns the complete response: status, header fields and problem document.
    #[cfg_attr(docsrs, doc(cfg(feature = "http")))]
    pub fn response<B: From<String>>(&self) -> Response<B> {
        let mut response = Response::new(self.problem().into());
        *response.status_mut() =
            StatusCode::from_u16(self.status()).unwrap_or(StatusCode::FORBIDDEN);
        set_headers(response.headers_mut(), self.headers());
        forbid_sniffing(response.headers_mut());
        response
    }
}

/// Makes browsers take the content type as it is said.
pub(crate) fn forbid_sniffing(headers: &mut HeaderMap) {
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
}

/// Sets the header fields of a grant; replaces those of the inner service.
pub(crate) fn set_grant_headers(headers: &mut HeaderMap, grant: &Grant) {
    const NAMES: [HeaderName; 4] = [
        HeaderName::from_static("x-ratelimit-limit"),
        HeaderName::from_static("x-ratelimit-remaining"),
        HeaderName::from_static("ratelimit-policy"),
        HeaderName::from_static("ratelimit"),
    ];
    if let Some(LimitFields { text, ends, sent }) = grant.limit_fields() {
        let fields = NAMES.into_iter().zip(ends);
        set_values(headers, text, fields.skip(sent.start).take(sent.len()));
    }
    if let Some(shadow) = grant.shadow_field() {
        set_headers(headers, vec![shadow]);
    }
}

/// Sets header fields whose values are concatenated in `text`; each field comes with the end of its value.
/// The values share one allocation.
pub(crate) fn set_values(
    headers: &mut HeaderMap,
    text: String,
    fields: impl ExactSizeIterator<Item = (HeaderName, usize)>,
) {
    headers.reserve(fields.len());
    let text = Bytes::from(text);
    let mut start = 0;
    for (name, end) in fields {
        // Values are made by this crate and valid.
        if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(start..end)) {
            headers.insert(name, value);
        }
        start = end;
    }
}

pub(crate) fn set_headers(headers: &mut HeaderMap, values: Vec<(&'static str, String)>) {
    for (name, value) in values {
        // Names and values are made by this crate and valid.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::try_from(value),
        ) {
            headers.insert(name, value);
        }
    }
}

/// Returns a value as JSON, with invisible characters escaped, and a line feed.
pub(crate) fn json_value(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    json_text(status, value.to_string())
}

/// Returns a JSON text, with invisible characters escaped, and a line feed.
pub(crate) fn json_text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let escaped = match escaped_json(&text) {
        Cow::Owned(escaped) => Some(escaped),
        Cow::Borrowed(_) => None,
    };
    let mut text = escaped.unwrap_or(text);
    text.push('\n');
    json(status, text.into())
}

pub(crate) fn json(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    // Caches must not store keys and names of customers.
    let no_store = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    forbid_sniffing(headers);
    response
}
