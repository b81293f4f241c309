//! Immutable responses that clients may cache.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::http::response::forbid_sniffing;

/// A body that does not change while the program runs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct StaticFile {
    bytes: Bytes,
    content_type: HeaderValue,
    /// A hash of the bytes (RFC 9110 §8.8.3).
    etag: HeaderValue,
}

impl StaticFile {
    pub(super) fn new(bytes: Bytes, content_type: HeaderValue) -> Self {
        let hash = blake3::hash(&bytes).to_hex();
        // Quotes and hexadecimal digits are always valid.
        let etag = HeaderValue::try_from(format!("\"{}\"", &hash[..32]));
        Self {
            bytes,
            content_type,
            etag: etag.unwrap_or(HeaderValue::from_static("\"\"")),
        }
    }

    /// Returns the file, or status 304 to a client that has it. Clients may store it, and revalidate it
    /// before each use.
    pub(super) fn respond(&self, request: &HeaderMap) -> Response<Full<Bytes>> {
        let is_cached = self.is_cached(request);
        let body = if is_cached {
            Bytes::new()
        } else {
            self.bytes.clone()
        };
        let mut response = Response::new(Full::new(body));
        if is_cached {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        headers.insert(header::ETAG, self.etag.clone());
        let revalidate = HeaderValue::from_static("no-cache");
        headers.insert(header::CACHE_CONTROL, revalidate);
        forbid_sniffing(headers);
        response
    }

    /// Like [`StaticFile::respond`], for the files of a page: it sends its address to no other site, and
    /// loads only what its content security policy allows.
    pub(super) fn respond_in_page(
        &self,
        request: &HeaderMap,
        content_security_policy: &'static str,
    ) -> Response<Full<Bytes>> {
        let mut response = self.respond(request);
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, content_security_policy),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }

    /// Whether `If-None-Match` contains the tag (RFC 9110 §13.1.2).
    fn is_cached(&self, request: &HeaderMap) -> bool {
        let fields = request.get_all(header::IF_NONE_MATCH).iter();
        let mut tags = fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"));
        tags.any(|tag| tag == "*" || tag.as_bytes() == self.etag.as_bytes())
    }
}

/// A relative redirect, which is valid wherever the service is mounted.
pub(super) fn redirect(target: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let target = HeaderValue::from_static(target);
    response.headers_mut().insert(header::LOCATION, target);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_etags_get_not_modified() {
        let text = |text: &'static str| {
            StaticFile::new(text.into(), HeaderValue::from_static("text/plain"))
        };
        let file = text("text");
        let respond = |tags: Option<&str>| {
            let mut request = HeaderMap::new();
            if let Some(tags) = tags {
                request.insert(header::IF_NONE_MATCH, tags.parse().unwrap());
            }
            file.respond(&request)
        };
        let whole = respond(None);
        let etag = whole.headers()[header::ETAG].to_str().unwrap().to_owned();
        for tags in [&etag, "*", &format!("W/{etag}"), &format!("\"x\", {etag}")] {
            let response = respond(Some(tags));
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{tags}");
            assert_eq!(response.headers()[header::ETAG], *etag);
        }
        for other in ["\"x\"", etag.trim_matches('"'), ""] {
            assert_eq!(respond(Some(other)).status(), StatusCode::OK, "{other}");
        }
        assert_ne!(text("other").etag, file.etag);
    }
}
