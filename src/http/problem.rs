//! Problem documents.

use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::response::{forbid_sniffing, set_headers};
use crate::admin::{AdminError, Failure, FailureCode};
use crate::guard::Denial;
use crate::input::text::escaped_json;
use crate::model::Key;

/// A problem document (RFC 9457).
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct ProblemDocument {
    /// Always `about:blank`: the status is the type of the problem.
    #[serde(rename = "type")]
    kind: &'static str,
    title: String,
    status: u16,
    /// What is wrong and what to do about it.
    detail: String,
    /// A stable identifier of the problem.
    code: String,
    /// The invalid field.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The id of what an earlier request with the same idempotency key created.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    /// The number of seconds after which a retry succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// The keys that match an ambiguous prefix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<Key>,
}

/// An error response: a problem document and header fields.
#[derive(Debug)]
pub(crate) struct Problem {
    document: Box<ProblemDocument>,
    headers: Vec<(&'static str, String)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            document: Box::new(ProblemDocument {
                kind: "about:blank",
                title: status.canonical_reason().unwrap_or_default().to_owned(),
                status: status.as_u16(),
                detail: detail.into(),
                code: code.to_owned(),
                field: None,
                id: None,
                retry_after: None,
                candidates: Vec::new(),
            }),
            headers: Vec::new(),
        }
    }

    /// Status 422 for an invalid field; an empty name stands for the whole input.
    pub(crate) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
        problem.document.field = Some(field.into()).filter(|field| !field.is_empty());
        problem
    }

    /// The same problem with a header field.
    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Status 405 for a path with other methods.
    pub(crate) fn method_not_allowed<'a>(methods: impl Iterator<Item = &'a str>) -> Self {
        let allowed = methods.collect::<Vec<_>>().join(", ");
        let detail = format!("Method not allowed; expected {allowed}.");
        let (status, code) = (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
        Self::new(status, code, detail).with_header("Allow", allowed)
    }

    pub(crate) fn into_response<B: From<String>>(self) -> Response<B> {
        let status = StatusCode::from_u16(self.document.status);
        let document = serde_json::to_string(&self.document).unwrap_or_default();
        let body = escaped_json(&document).into_owned() + "\n";
        let mut response = Response::new(body.into());
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        forbid_sniffing(response.headers_mut());
        set_headers(response.headers_mut(), self.headers);
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let code = match failure.code {
            FailureCode::Invalid => "invalid",
            FailureCode::NotFound => "not_found",
            FailureCode::Conflict => "conflict",
            FailureCode::Ambiguous => "ambiguous",
            FailureCode::Damaged | FailureCode::Unavailable => "unavailable",
            FailureCode::Refused => "refused",
        };
        let status = StatusCode::from_u16(failure.code.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut detail = failure.message;
        // The name of a field at the start stays as it is.
        if let (None, Some(first)) = (&failure.field, detail.get_mut(..1)) {
            first.make_ascii_uppercase();
        }
        if !detail.ends_with(['.', '\n']) {
            detail.push('.');
        }
        let mut problem = Self::new(status, code, detail);
        problem.document.field = failure.field;
        problem.document.id = failure.id;
        problem.document.candidates = failure.candidates;
        problem
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        Failure::from(error).into()
    }
}

/// A denial of an administrator by IP address.
impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        let status = StatusCode::from_u16(denial.status()).unwrap_or(StatusCode::FORBIDDEN);
        let mut problem = Self::new(status, denial.code(), denial.detail());
        problem.document.retry_after = denial.retry_after_seconds();
        let retry_after = |(name, _): &(&str, String)| *name == "Retry-After";
        problem.headers = denial.headers().into_iter().filter(retry_after).collect();
        problem
    }
}
