//! `POST /v1/check`: a verdict for a server in any language.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::admin::AdminError;
use crate::guard::{Denial, Grant, Request};
use crate::http::admin::{Input, Json, Operation};
use crate::http::problem::Problem;
use crate::http::response::json_value;
use crate::input::InvalidInput;
use crate::keyguard::KeyGuard;
use crate::model::{KeyId, Reason};
use crate::net::ClientIp;

/// A request to decide about. It takes its cost from the limits of its key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The text of the key, if one was sent.
    key: Option<String>,
    /// The address of the client, or of a proxy that the policy trusts, or `local`.
    #[schema(example = "192.0.2.7")]
    ip: String,
    /// The field that the policy calls `client_ip_header`, as it was sent, where `ip` is that of a
    /// proxy.
    client_ip_header: Option<String>,
    /// The target as it was sent, undecoded.
    #[schema(example = "/orders?page=2")]
    path: String,
    /// The method as it was sent.
    #[serde(default)]
    method: String,
    /// What the key must hold.
    #[serde(default)]
    scopes: Vec<String>,
    /// How much it takes from every limit; what the routes say, or 1, if it is left out.
    #[schema(value_type = Option<u32>, minimum = 1)]
    cost: Option<NonZeroU32>,
}

/// A verdict.
#[derive(Serialize, Deserialize, ToSchema)]
struct Verdict {
    /// Whether to let the request through.
    allowed: bool,
    /// The status to answer with; 200 if it is let through.
    status: u16,
    /// Why it is refused. What the client is to be told is in `problem`.
    reason: Option<Reason>,
    /// The key; null without one, and with a refusal.
    key_id: Option<KeyId>,
    /// The name of the organization that owns the key.
    org_name: Option<String>,
    /// What the key may do.
    scopes: Vec<String>,
    /// How many more requests the tightest limit admits now.
    remaining: Option<u64>,
    /// In how many seconds to come again, where waiting helps.
    retry_after: Option<u64>,
    /// Header fields to send with the answer.
    headers: BTreeMap<String, String>,
    /// The body to answer with, if it is refused.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
}

pub(super) fn operation() -> Operation {
    let about = ("decide", "Decide about a request, and consume its cost");
    Operation::new::<(), Json<Asked>, Verdict>((Method::POST, "/v1/check"), about)
        .for_trusted_peers()
}

pub(super) async fn answer(
    guard: &KeyGuard,
    parts: &Parts,
    body: &[u8],
) -> Result<Response<Full<Bytes>>, Problem> {
    <()>::from_query(&parts.uri)?;
    let Json(asked) = Json::from_body(&parts.headers, body)?;
    // Fields are in the order of the alphabet, as in all answers.
    let verdict = serde_json::to_value(decide(guard, &asked).await?);
    let verdict = verdict.map_err(|error| {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Problem::new(status, "unavailable", error.to_string())
    })?;
    Ok(json_value(StatusCode::OK, &verdict))
}

async fn decide(guard: &KeyGuard, asked: &Asked) -> Result<Verdict, Problem> {
    let ip: Result<ClientIp, _> = asked.ip.parse();
    let ip = ip.map_err(|error| AdminError::from(InvalidInput::new("ip", error.to_string())))?;
    if !asked.path.starts_with('/') {
        let problem = InvalidInput::new("path", "starts with `/`");
        return Err(AdminError::from(problem).into());
    }
    let key_header = guard.inner.config().key_header.as_str();
    let compiled = guard.inner.compiled_full();
    let client_ip_header = compiled.policy.client_ip_header.name();
    let key = asked.key.as_deref().map(|key| (key_header, key));
    let client = asked.client_ip_header.as_deref();
    let client = client.map(|client| (client_ip_header, client));
    let headers: Vec<(&str, &str)> = key.into_iter().chain(client).collect();
    let scopes: Vec<&str> = asked.scopes.iter().map(String::as_str).collect();
    let mut request = Request::new(&headers, ip, &asked.path)
        .method(asked.method.as_str())
        .scopes(&scopes);
    if let Some(cost) = asked.cost {
        request = request.cost(cost);
    }
    Ok(match guard.decide_async(request).await {
        Ok(grant) => admitted(grant),
        Err(denial) => refused(&denial),
    })
}

fn admitted(grant: Grant) -> Verdict {
    let verdict = Verdict {
        allowed: true,
        status: 200,
        reason: None,
        key_id: grant.key().map(|key| key.id),
        org_name: grant.org().map(|org| org.name.clone()),
        scopes: grant.scopes().iter().map(ToString::to_string).collect(),
        remaining: grant.key().map(|_| grant.remaining()),
        retry_after: None,
        headers: fields(grant.headers()),
        problem: None,
    };
    // How the other server will answer is not known here.
    grant.finish(200);
    verdict
}

fn refused(denial: &Denial) -> Verdict {
    Verdict {
        allowed: false,
        status: denial.status(),
        reason: Some(denial.reason()),
        key_id: None,
        org_name: None,
        scopes: Vec::new(),
        remaining: None,
        retry_after: denial.retry_after_seconds(),
        headers: fields(denial.headers()),
        problem: serde_json::from_str(&denial.problem()).ok(),
    }
}

fn fields(fields: Vec<(&'static str, String)>) -> BTreeMap<String, String> {
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
