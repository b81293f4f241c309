//! Refusals of gRPC requests.

use http::{HeaderMap, HeaderValue, Response, header};

use super::response::set_headers;
use crate::guard::Denial;

/// Returns the response to a refused request with these header fields. A gRPC request gets status 200 and no
/// body, with the outcome in `grpc-status`; all others get a problem document.
pub(crate) fn refusal(denial: &Denial, request: &HeaderMap) -> Response<String> {
    match content_type(request) {
        Some(kind) => grpc_refusal(denial, kind),
        None => denial.response(),
    }
}

/// Returns the content type of a gRPC request, such as `application/grpc+proto` or `application/grpc-web`.
fn content_type(request: &HeaderMap) -> Option<&HeaderValue> {
    let kind = request.get(header::CONTENT_TYPE)?;
    let rest = kind.as_bytes().strip_prefix(b"application/grpc")?;
    let rest = rest.strip_prefix(b"-web").unwrap_or(rest);
    let rest = rest.strip_prefix(b"-text").unwrap_or(rest);
    matches!(rest.first(), None | Some(b'+' | b';')).then_some(kind)
}

fn grpc_refusal(denial: &Denial, kind: &HeaderValue) -> Response<String> {
    let mut fields = denial.headers();
    fields.push(("Grpc-Status", code(denial.status()).to_string()));
    fields.push(("Grpc-Message", denial.detail().replace('%', "%25")));
    if let Some(seconds) = denial.retry_after_seconds() {
        // Clients with a retry policy wait so long, in milliseconds.
        let millis = seconds.saturating_mul(1_000).to_string();
        fields.push(("Grpc-Retry-Pushback-Ms", millis));
    }
    let mut response = Response::new(String::new());
    let headers = response.headers_mut();
    set_headers(headers, fields);
    headers.insert(header::CONTENT_TYPE, kind.clone());
    // A cache stores responses with status 200.
    let no_store = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    response
}

/// Returns the code of gRPC for a status of HTTP.
fn code(status: u16) -> u8 {
    match status {
        400 => 3,  // INVALID_ARGUMENT
        401 => 16, // UNAUTHENTICATED
        403 => 7,  // PERMISSION_DENIED
        429 => 8,  // RESOURCE_EXHAUSTED
        _ => 14,   // UNAVAILABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_types_of_grpc_are_taken_for_it() {
        for (text, is_grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", true),
            ("application/grpc-web+proto", true),
            ("application/grpc-web-text+proto", true),
            ("application/grpcurl", false),
            ("application/grpc-websocket", false),
            ("application/grpc/", false),
            ("application/json", false),
            ("", false),
        ] {
            let mut request = HeaderMap::new();
            request.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
            assert_eq!(content_type(&request).is_some(), is_grpc, "{text}");
        }
        assert_eq!(content_type(&HeaderMap::new()), None);
    }
}
