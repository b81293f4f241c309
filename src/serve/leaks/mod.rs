//! `POST /v1/leaks`: reports of leaked keys, as the partners of GitHub's secret scanning get them.
//!
//! | header field | value |
//! |---|---|
//! | `Github-Public-Key-Identifier` | which key of the reporter signed the body |
//! | `Github-Public-Key-Signature` | the signature: ECDSA with P-256 and SHA-256, ASN.1 DER, base64 |
//!
//! Addresses are not limited: behind a proxy, strangers could lock out the reporter. Without a valid signature,
//! every request gets the same refusal after the same work, and nothing of its body is read.

mod reporters;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use http::StatusCode;
use http::request::Parts;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use self::reporters::Reporters;
use super::error::ServeError;
use super::hangup::HangupSignal;
use crate::admin::{Admin, AdminError, AuditActor, Leak, OnLeak};
use crate::guard::{self, Topic};
use crate::http::admin::{Json, Operation, Tag, blocking};
use crate::http::problem::Problem;
use crate::http::response::{HttpResult, json_text};
use crate::input::text;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

pub(super) const PATH: &str = "/v1/leaks";

/// The actor of changes that reports cause, in the audit log.
const ACTOR: &str = "leak report";

#[derive(Clone, Debug, Args)]
pub(crate) struct LeakSettings {
    /// Accept reports of leaked keys at `POST /v1/leaks`, signed with a public key in this file: the JSON of
    /// https://api.github.com/meta/public_keys/secret_scanning. Other users must not be able to change the file
    /// or its directory; only the file is checked. SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    leak_keys: Option<PathBuf>,
    /// What to do about a leaked key: revoke it (revoke), or only warn of it (warn)
    #[arg(
        long,
        value_name = "ACTION",
        default_value = "revoke",
        value_parser = on_leak,
        requires = "leak_keys"
    )]
    on_leak: OnLeak,
}

fn on_leak(text: &str) -> Result<OnLeak, String> {
    match text {
        "revoke" => Ok(OnLeak::Revoke),
        "warn" => Ok(OnLeak::Warn),
        _ => Err("expected revoke or warn".into()),
    }
}

impl LeakSettings {
    /// Reads the keys of the reporters, if reports shall be accepted. `data` is the data file or the URL of a
    /// database.
    pub(super) fn open(
        &self,
        guard: &KeyGuard,
        data: &Path,
    ) -> Result<Option<Arc<LeakReports>>, ServeError> {
        let Some(file) = &self.leak_keys else {
            return Ok(None);
        };
        let reporters = Reporters::read(file.clone(), data);
        let reporters = reporters.map_err(ServeError::LeakKeys)?;
        Ok(Some(Arc::new(LeakReports {
            guard: guard.clone(),
            reporters,
            on_leak: self.on_leak,
        })))
    }
}

/// A report: texts that were found in public.
#[derive(Deserialize, ToSchema)]
struct LeakReport(Vec<LeakedToken>);

/// A text that was found in public. Further fields are ignored.
#[derive(Deserialize, ToSchema)]
struct LeakedToken {
    /// The text.
    token: String,
    /// The kind of the text, as the reporter calls it.
    #[serde(rename = "type")]
    #[schema(example = "keyguard_api_key")]
    kind: String,
    /// Where it was found.
    #[serde(default)]
    #[schema(example = "https://github.com/octocat/Hello-World/blob/main/config.py")]
    url: String,
    /// The kind of the place.
    #[serde(default)]
    #[schema(example = "content")]
    source: String,
}

/// What a text turned out to be. It is named by its hash.
#[derive(Serialize, ToSchema)]
struct Feedback<'a> {
    label: Label,
    /// SHA-256 of the text, in hexadecimal digits.
    token_hash: String,
    /// `type` of the report.
    token_type: &'a str,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Label {
    /// The text of a key, which may be revoked.
    TruePositive,
    /// No key has this text.
    FalsePositive,
}

/// The endpoint, for reporters that a file lists.
pub(super) struct LeakReports {
    guard: KeyGuard,
    reporters: Reporters,
    on_leak: OnLeak,
}

impl LeakReports {
    pub(super) fn operation() -> Operation {
        let route = Tag::Decisions
            .post(PATH)
            .summary("Report keys that were found in public");
        Operation::new::<Json<LeakReport>, Vec<Feedback<'static>>>("reportLeaks", route)
            .for_reporters()
    }

    pub(super) async fn respond(
        self: &Arc<Self>,
        parts: &Parts,
        body: &[u8],
        peer: ClientIp,
    ) -> HttpResult {
        if !self.reporters.have_signed(&parts.headers, body) {
            self.warn_of_unknown(parts);
            let detail = "The report has no valid signature of a known reporter.";
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "invalid_signature", detail);
            let challenge = format!("{} realm=\"leaks\"", reporters::SIGNATURE);
            return Err(problem.with_header("WWW-Authenticate", challenge));
        }
        let report: LeakReport =
            serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
        // The reporter may be behind a proxy.
        let request = guard::Request::new(&parts.headers, peer, PATH);
        let client = guard::client_ip(&self.guard.inner, &request).unwrap_or(peer);
        let reports = Arc::clone(self);
        blocking(move || reports.act_on(&report, client)).await
    }

    /// Acts on all texts of a report, also if one of them fails.
    fn act_on(&self, report: &LeakReport, client: ClientIp) -> HttpResult {
        let actor = AuditActor::new(ACTOR.into(), client, None);
        let admin = self.guard.admin().with_actor(actor);
        let outcomes: Vec<_> = report
            .0
            .iter()
            .map(|leak| self.feedback(&admin, leak))
            .collect();
        let feedback: Vec<_> = outcomes.into_iter().collect::<Result<_, AdminError>>()?;
        let text = serde_json::to_string(&feedback).unwrap_or_default();
        Ok(json_text(StatusCode::OK, text))
    }

    fn feedback<'r>(
        &self,
        admin: &Admin,
        leaked: &'r LeakedToken,
    ) -> Result<Feedback<'r>, AdminError> {
        let leak = Leak {
            token: &leaked.token,
            url: &leaked.url,
            source: &leaked.source,
        };
        Ok(Feedback {
            label: match admin.report_leak(leak, self.on_leak)? {
                true => Label::TruePositive,
                false => Label::FalsePositive,
            },
            token_hash: text::hex(digest(&SHA256, leaked.token.as_bytes()).as_ref()),
            token_type: &leaked.kind,
        })
    }

    /// Warns that a report names a key that the file does not have: reporters replace their keys.
    fn warn_of_unknown(&self, parts: &Parts) {
        if self.reporters.lack_key(&parts.headers) {
            let text = format!(
                "a report of leaked keys was refused, because `{}` does not have the key that it names; \
                 if it came from GitHub, get the current keys from \
                 https://api.github.com/meta/public_keys/secret_scanning, and send SIGHUP",
                self.reporters.file().display()
            );
            self.guard
                .inner
                .warnings()
                .set(Topic::UnknownReporter, Some(text));
        }
    }

    /// Reads the keys of the reporters again at each SIGHUP, until `end` changes.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut hangup: HangupSignal,
        mut end: watch::Receiver<()>,
    ) {
        loop {
            tokio::select! {
                () = hangup.received() => {}
                _ = end.changed() => return,
            }
            let reports = Arc::clone(&self);
            let reloaded = tokio::task::spawn_blocking(move || reports.reporters.reload()).await;
            let warning = reloaded.unwrap_or_else(|panicked| Err(panicked.to_string()));
            let warning = warning.err().map(|problem| {
                format!("invalid file of --leak-keys; the public_keys in force stay: {problem}")
            });
            let warnings = self.guard.inner.warnings();
            if warning.is_none() {
                warnings.set(Topic::UnknownReporter, None);
            }
            warnings.set(Topic::LeakKeys, warning);
        }
    }
}

/// The body is not quoted: it has keys.
fn unreadable(error: &serde_json::Error) -> Problem {
    let detail = format!(
        "The body must be a JSON array of objects with the texts `token`, `type`, `url` and `source` \
         (line {}, column {}).",
        error.line(),
        error.column()
    );
    Problem::invalid("", detail)
}
