//! The dry run of a request.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::Command;
use crate::admin::{Admin, AdminError};
use crate::guard::{self, KeySource, LimitStatus, Request, Verdict};
use crate::input::InvalidInput;
use crate::model::Reason;
use crate::net::ClientIp;
use crate::store::LegacyKeys;
use crate::sys::block_on;

/// A request to decide about without consuming anything.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(example = json!({
    "key": "1",
    "ip": "192.0.2.7",
    "path": "/orders",
    "method": "GET",
})))]
pub(crate) struct Check {
    /// The id or the whole prefix of a key, instead of its text.
    pub(crate) key: Option<String>,
    /// The text of a key. It is neither stored nor logged.
    pub(crate) raw_key: Option<String>,
    /// The IP address of the client, or `local`.
    pub(crate) ip: String,
    /// The path of the request.
    pub(crate) path: String,
    /// The method of the request.
    #[serde(default)]
    pub(crate) method: String,
    /// The cost of the request. Default: the cost of the matching routes, or 1.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>, minimum = 1))]
    pub(crate) cost: Option<NonZeroU32>,
    /// Scopes that the key must have.
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
}

impl Command for Check {
    type Reply = DryRunReply;
    const NAME: &'static str = "check";

    fn run(self, admin: &Admin) -> Result<DryRunReply, AdminError> {
        let ip: Result<ClientIp, _> = self.ip.parse();
        let ip = ip.map_err(|error| InvalidInput::new("ip", error.to_string()))?;
        let guard = &admin.guard;
        let headers: Vec<(&str, &str)> = self
            .raw_key
            .iter()
            .map(|key| (guard.config().key_header.as_str(), key.as_str()))
            .collect();
        let scopes: Vec<&str> = self.scopes.iter().map(String::as_str).collect();
        let mut request = Request::new(&headers, ip, &self.path)
            .method(self.method.as_str())
            .scopes(&scopes);
        if let Some(cost) = self.cost {
            request = request.cost(cost);
        }
        let source = match &self.key {
            Some(key) => KeySource::Key(admin.find_key(key)?.id),
            None => KeySource::Presented,
        };
        let mut reply: DryRunReply = block_on(guard::preview(guard, &request, source)).into();
        // Without a note, the decision is still right.
        let note = match source {
            KeySource::Key(id) if reply.key_checked => guard
                .lacks_legacy_secret(LegacyKeys::Of(id))
                .unwrap_or(false)
                .then_some(TEXT_IS_REFUSED),
            KeySource::Presented if reply.reason == Some(Reason::MalformedKey) => guard
                .has_legacy_keys(LegacyKeys::All)
                .unwrap_or(false)
                .then_some(MAY_BE_LEGACY),
            _ => None,
        };
        reply.note = note.map(str::to_owned);
        Ok(reply)
    }
}

/// The note on a key that is named by its id and refused by its text.
const TEXT_IS_REFUSED: &str = "requests with the text that the Python package issued for this key are refused \
    with 401: the secret of the package (KEYGUARD_LEGACY_SECRET) is missing";

/// The note on a malformed key if keys of the Python package, which have no checksum, are stored.
const MAY_BE_LEGACY: &str = "if this is a key of the Python package, the secret of the package \
    (KEYGUARD_LEGACY_SECRET) is missing or wrong";

/// The decision about a request.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct DryRunReply {
    /// Whether the request would be admitted.
    pub(crate) allowed: bool,
    /// The status of the response; 200 if the request would be admitted.
    pub(crate) status: u16,
    /// The reason of a refusal.
    pub(crate) reason: Option<Reason>,
    /// In whole seconds, rounded up.
    pub(crate) retry_after: Option<u64>,
    /// The limit that refuses the request.
    pub(crate) rule: Option<String>,
    /// The limits that the decision reached: a rule is a limit applied to one key, organization or
    /// address.
    pub(crate) rules: Vec<LimitStatus>,
    /// The limits and routes in shadow mode that would refuse the request.
    pub(crate) shadow_denied: Vec<String>,
    /// Whether the key was checked. It is not if the path needs no key, or if the IP address alone is
    /// refused.
    pub(crate) key_checked: bool,
    /// What the decision does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl From<Verdict> for DryRunReply {
    fn from(verdict: Verdict) -> Self {
        let denial = verdict.denial.as_ref();
        Self {
            allowed: verdict.is_allowed(),
            status: denial.map_or(200, |denial| denial.status()),
            reason: denial.map(|denial| denial.reason()),
            retry_after: denial.and_then(|denial| denial.retry_after_seconds()),
            rule: denial.and_then(|denial| denial.limit_name()),
            rules: verdict.rules,
            shadow_denied: verdict.shadow_denied,
            key_checked: verdict.key_checked,
            note: None,
        }
    }
}
