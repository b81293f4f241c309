//! `POST /v1/check`: decisions for servers in any language.

use std::num::NonZeroU32;

use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use smallvec::SmallVec;
use utoipa::ToSchema;

use super::otlp::note_reason;
use crate::admin::AdminError;
use crate::guard::{Denial, Grant, LimitFields, Request};
use crate::http::admin::{Json, Operation, Tag};
use crate::http::problem::Problem;
use crate::http::response::{HttpResult, json_text};
use crate::input::InvalidInput;
use crate::keyguard::KeyGuard;
use crate::model::{KeyId, OrgId, Reason, Scope};
use crate::net::ClientIp;

/// A request to decide. Admission consumes its cost.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "ip": "192.0.2.7", "path": "/orders?page=2", "method": "GET" }))]
struct CheckRequest {
    /// The text of the key, if the client sent one.
    key: Option<String>,
    /// The IP address of the peer: the client, or a proxy that the policy trusts; or `local`.
    ip: String,
    /// The value of the header field that the policy calls `client_ip_header`, if `ip` is a proxy.
    client_ip_header: Option<String>,
    /// The request target as the client sent it, undecoded.
    path: String,
    /// The method as the client sent it.
    #[serde(default)]
    method: String,
    /// Scopes that the key must have.
    #[serde(default)]
    scopes: Vec<String>,
    /// The cost, consumed from every limit. Default: the cost of the matching routes, or 1.
    #[schema(value_type = Option<u32>, minimum = 1)]
    cost: Option<NonZeroU32>,
}

/// A decision. Its fields are in alphabetical order, like those of all responses.
#[derive(Serialize, ToSchema)]
struct CheckResponse<'a> {
    /// Whether the request is admitted.
    allowed: bool,
    /// Header fields for the response.
    #[schema(value_type = BTreeMap<String, String>)]
    #[serde(serialize_with = "serialize_headers")]
    headers: HeaderFields<'a>,
    /// The key; null without a key and for a refusal.
    key_id: Option<KeyId>,
    /// The label of the key.
    key_label: Option<&'a str>,
    /// The organization that owns the key.
    org_id: Option<OrgId>,
    /// Its name.
    org_name: Option<&'a str>,
    /// The body to respond with to a refused request.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
    /// The reason of a refusal, for the server. `problem` is for the client.
    reason: Option<Reason>,
    /// The number of further requests of cost 1 that the tightest limit admits.
    remaining: Option<u64>,
    /// The number of seconds after which to retry, where waiting helps.
    retry_after: Option<u64>,
    /// The scopes of the key.
    #[schema(value_type = Vec<String>)]
    scopes: &'a [Scope],
    /// The status to respond with; 200 if the request is admitted.
    status: u16,
}

type HeaderFields<'a> = SmallVec<[(&'static str, &'a str); 5]>;

fn serialize_headers<S: Serializer>(
    headers: &HeaderFields<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut headers = headers.clone();
    headers.sort_unstable();
    serializer.collect_map(headers)
}

pub(super) fn operation() -> Operation {
    let route = Tag::Decisions
        .post("/v1/check")
        .summary("Decide about a request, and consume its cost");
    Operation::new::<Json<CheckRequest>, CheckResponse<'static>>("decide", route)
        .for_trusted_peers()
}

pub(super) async fn respond(guard: &KeyGuard, parts: &Parts, body: &[u8]) -> HttpResult {
    let request = Json::<CheckRequest>::read_struct(parts, body)?;
    match decide(guard, &request).await? {
        Ok(grant) => {
            let response = admitted(&grant);
            // The status of the other server's response is unknown.
            grant.finish(200);
            response
        }
        Err(denial) => {
            let mut response = refused(&denial)?;
            note_reason(&mut response, denial.reason());
            Ok(response)
        }
    }
}

async fn decide(guard: &KeyGuard, check: &CheckRequest) -> Result<Result<Grant, Denial>, Problem> {
    let invalid = |field, problem: String| AdminError::from(InvalidInput::new(field, problem));
    let ip: Result<ClientIp, _> = check.ip.parse();
    let ip = ip.map_err(|error| invalid("ip", error.to_string()))?;
    if !check.path.starts_with('/') {
        return Err(invalid("path", "must start with `/`".into()).into());
    }
    let compiled = guard.inner.compiled_full();
    let names = [
        guard.inner.config().key_header.as_str(),
        compiled.source.client_ip_header.name(),
    ];
    let values = [check.key.as_deref(), check.client_ip_header.as_deref()];
    let headers = names.into_iter().zip(values);
    let headers: Vec<(&str, &str)> = headers
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let scopes: Vec<&str> = check.scopes.iter().map(String::as_str).collect();
    let mut request = Request::new(&headers, ip, &check.path)
        .method(check.method.as_str())
        .scopes(&scopes);
    if let Some(cost) = check.cost {
        request = request.cost(cost);
    }
    Ok(guard.decide_async(request).await)
}

fn admitted(grant: &Grant) -> HttpResult {
    let limit = grant.limit_fields();
    let shadow = grant.shadow_field();
    let shadow = shadow.iter().map(|(name, value)| (*name, value.as_str()));
    to_response(&CheckResponse {
        allowed: true,
        headers: limit
            .iter()
            .flat_map(LimitFields::pairs)
            .chain(shadow)
            .collect(),
        key_id: grant.key().map(|key| key.id),
        key_label: grant.key().map(|key| &*key.label),
        org_id: grant.org().map(|org| org.id),
        org_name: grant.org().map(|org| &*org.name),
        problem: None,
        reason: None,
        remaining: grant.remaining(),
        retry_after: None,
        scopes: grant.scopes(),
        status: 200,
    })
}

fn refused(denial: &Denial) -> HttpResult {
    let headers = denial.headers();
    let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
    to_response(&CheckResponse {
        allowed: false,
        headers: headers.collect(),
        key_id: None,
        key_label: None,
        org_id: None,
        org_name: None,
        problem: serde_json::from_str(&denial.problem()).ok(),
        reason: Some(denial.reason()),
        remaining: None,
        retry_after: denial.retry_after_seconds(),
        scopes: &[],
        status: denial.status(),
    })
}

fn to_response(response: &CheckResponse<'_>) -> HttpResult {
    let text = serde_json::to_string(response).map_err(|error| {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Problem::new(status, "unavailable", error.to_string())
    })?;
    Ok(json_text(StatusCode::OK, text))
}
