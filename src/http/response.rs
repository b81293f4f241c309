//! Decisions as answers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::guard::{Denial, Grant, LimitFields};
use crate::input::text::escaped_json;

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

/// The fields of a grant, in place of what the service said itself.
pub(crate) fn set_grant_fields(headers: &mut HeaderMap, grant: &Grant) {
    const NAMES: [HeaderName; 4] = [
        HeaderName::from_static("x-ratelimit-limit"),
        HeaderName::from_static("x-ratelimit-remaining"),
        HeaderName::from_static("ratelimit-policy"),
        HeaderName::from_static("ratelimit"),
    ];
    if let Some(LimitFields { text, ends }) = grant.limit_fields() {
        headers.reserve(NAMES.len());
        // One piece of memory for all of them.
        let text = Bytes::from(text);
        let mut start = 0;
        for (name, end) in NAMES.into_iter().zip(ends) {
            if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(start..end)) {
                headers.insert(name, value);
            }
            start = end;
        }
    }
    if let Some(shadow) = grant.shadow_field() {
        set_fields(headers, vec![shadow]);
    }
}

pub(crate) fn set_fields(headers: &mut HeaderMap, fields: Vec<(&'static str, String)>) {
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

/// A value as JSON, with hidden characters as escapes.
pub(crate) fn json_value(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    json(status, escaped_json(&value.to_string()).into_owned().into())
}

pub(crate) fn json(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    // Keys and names of customers are nobody's to keep on the way.
    let no_store = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    response
}
