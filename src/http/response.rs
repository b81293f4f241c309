//! Decisions as answers.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

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
