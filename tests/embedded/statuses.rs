//! Status, header fields, body and reason of every outcome.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::common::{Home, IP, SECOND, admit, check, check_with, field, key_limited_to, key_with};
use keyguard::{
    CreateKey, CreatedKey, Denial, Grant, KeyGuard, ListUsage, RateLimitHeaders, Reason, Request,
    RotateKey, Stats, Timestamp,
};

/// Refused texts and their reasons.
fn bad_keys(home: &Home, kg: &KeyGuard) -> Vec<(Reason, String)> {
    let text = |key: &CreatedKey| key.raw_key.expose().to_owned();

    let good = text(&crate::common::key(kg));
    let (body, last) = good.split_at(good.len() - 1);
    let altered = format!("{body}{}", if last == "0" { "1" } else { "0" });

    // Issued under the same secret, but not by this data file.
    let elsewhere = Home::new();
    let unknown = text(&crate::common::key(&elsewhere.open()));

    let revoked = crate::common::key(kg);
    kg.admin().revoke_key(revoked.key.id).unwrap();

    let expires_at = Some(home.clock.timestamp().plus(SECOND));
    let expired = key_with(kg, |key| key.expires_at(expires_at));
    let rotated = crate::common::key(kg);
    kg.admin()
        .rotate_key(RotateKey::new(rotated.key.id).grace(SECOND))
        .unwrap();
    home.clock.advance(SECOND - Duration::from_millis(1));
    admit(kg, &expired);
    admit(kg, &rotated);
    home.clock.advance(Duration::from_millis(1));

    kg.admin().create_org("suspended").unwrap();
    let suspended = kg
        .admin()
        .create_key(CreateKey::new("suspended", "shop"))
        .unwrap();
    kg.admin().suspend_org(suspended.key.org_id).unwrap();

    let paused = crate::common::key(kg);
    kg.admin().suspend_key(paused.key.id).unwrap();

    vec![
        (Reason::MalformedKey, altered),
        (Reason::MalformedKey, "nonsense".into()),
        (Reason::MalformedKey, "ключ".into()),
        (Reason::MalformedKey, "k".repeat(256)),
        (Reason::MalformedKey, format!("{good}\0")),
        (Reason::UnknownKey, unknown),
        (Reason::RevokedKey, text(&revoked)),
        (Reason::ExpiredKey, text(&expired)),
        (Reason::ExpiredKey, text(&rotated)),
        (Reason::SuspendedOrg, text(&suspended)),
        (Reason::SuspendedKey, text(&paused)),
    ]
}

#[test]
fn all_rejected_keys_get_the_same_response() {
    let home = Home::new();
    let kg = home.open();
    for (reason, text) in bad_keys(&home, &kg) {
        // First read from the file, then cached.
        for _ in 0..2 {
            let denial = check_with(&kg, &text).unwrap_err();
            assert_eq!(denial.reason(), reason, "{text}");
            assert_eq!(denial.status(), 401, "{reason}");
            assert_eq!(denial.retry_after(), None, "{reason}");
            assert_eq!(
                denial.problem(),
                concat!(
                    r#"{"type":"about:blank","title":"Unauthorized","status":401,"#,
                    r#""detail":"The API key is not valid.","code":"invalid_key"}"#,
                    "\n"
                ),
                "{reason}"
            );
            let expected = [
                ("Content-Type", "application/problem+json"),
                (
                    "WWW-Authenticate",
                    r#"Bearer realm="api", error="invalid_token""#,
                ),
            ];
            assert_eq!(denial.headers(), expected.map(owned), "{reason}");
        }
    }
}

#[test]
fn missing_key_response_explains_how_to_send_one() {
    let kg_home = Home::new();
    let kg = kg_home.open();
    let key = crate::common::key(&kg);
    let in_query = format!("/api/data?api_key={}", key.raw_key.expose());
    let jwt = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
    let requests: [(&[(&str, &str)], &str); 7] = [
        (&[], "/"),
        (&[("X-API-Key", "")], "/"),
        (&[("X-API-Key", " \t")], "/"),
        (
            &[("Host", "localhost"), ("X-Other", key.raw_key.expose())],
            "/",
        ),
        (&[("Authorization", "Basic dXNlcjpwYXNz")], "/"),
        (&[("Authorization", jwt)], "/"),
        // A key is never read from a query string.
        (&[], &in_query),
    ];
    for (headers, path) in requests {
        let denial = kg.check(headers, IP, path).unwrap_err();
        assert_eq!(denial.reason(), Reason::MissingKey, "{headers:?}");
        let (headers, problem) = (denial.headers(), Problem::of(&denial));
        assert_eq!(denial.status(), 401);
        assert_eq!(problem.code(), "missing_key");
        assert_eq!(
            field(&headers, "WWW-Authenticate"),
            Some(r#"Bearer realm="api", ApiKey realm="api", header="X-API-Key""#)
        );
        let sent = "send it as `X-API-Key: KEY` or as `Authorization: Bearer KEY`.";
        assert!(denial.problem().contains(sent), "{}", denial.problem());
    }
    drop(kg);
    let kg = kg_home.open_with(kg_home.config().key_header("X-Shop-Key"));
    let denial = kg.check(&(), IP, "/").unwrap_err();
    let challenge = field(&denial.headers(), "WWW-Authenticate").map(str::to_owned);
    assert!(challenge.unwrap().ends_with(r#", header="X-Shop-Key""#));
    assert!(denial.problem().contains("`X-Shop-Key: KEY`"));
}

#[test]
fn key_is_read_from_its_header_or_a_bearer_token() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let text = key.raw_key.expose();
    let bearer = |scheme: &str| format!("{scheme} {text}");
    let requests = [
        vec![("X-API-Key", text.to_owned())],
        vec![("x-api-key", text.to_owned())],
        vec![("X-API-KEY", format!(" {text} "))],
        vec![("Authorization", bearer("Bearer"))],
        vec![("authorization", bearer("bearer"))],
        vec![("AUTHORIZATION", bearer("BEARER"))],
        vec![("Authorization", bearer("Bearer "))],
        // The same key in both places is one key.
        vec![
            ("X-API-Key", text.to_owned()),
            ("Authorization", bearer("Bearer")),
        ],
        // Credentials of the application have no effect.
        vec![
            ("X-API-Key", text.to_owned()),
            (
                "Authorization",
                "Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln".to_owned(),
            ),
        ],
        vec![
            ("Authorization", "Basic dXNlcjpwYXNz".to_owned()),
            ("Authorization", bearer("Bearer")),
        ],
    ];
    for headers in requests {
        let grant = kg.check(&headers, IP, "/").unwrap();
        assert_eq!(grant.key().map(|key| key.id), Some(key.key.id));
        assert_eq!(grant.org().map(|org| org.name.as_str()), Some("acme"));
    }
}

#[test]
fn key_header_name_is_configurable() {
    let home = Home::new();
    let kg = home.open_with(home.config().key_header("X-Token"));
    let key = crate::common::key(&kg);
    let text = key.raw_key.expose();
    kg.check(&[("x-token", text)], IP, "/").unwrap().finish(200);
    let denial = kg.check(&[("X-API-Key", text)], IP, "/").unwrap_err();
    assert_eq!(denial.reason(), Reason::MissingKey);
}

#[test]
fn ambiguous_keys_are_bad_requests() {
    let home = Home::new();
    let kg = home.open();
    let (key, other) = (crate::common::key(&kg), crate::common::key(&kg));
    let (key, other) = (key.raw_key.expose(), other.raw_key.expose());
    let bearer = format!("Bearer {key}");
    let other_bearer = format!("Bearer {other}");
    let (long, huge) = ("k".repeat(257), "k".repeat(1 << 20));
    let requests: [(Reason, &[(&str, &str)]); 8] = [
        (
            Reason::AmbiguousKey,
            &[("X-API-Key", key), ("Authorization", &other_bearer)],
        ),
        (
            Reason::AmbiguousKey,
            &[("Authorization", &bearer), ("X-API-Key", "nonsense")],
        ),
        (
            Reason::RepeatedHeader,
            &[("X-API-Key", key), ("X-API-Key", other)],
        ),
        (
            Reason::RepeatedHeader,
            &[("X-API-Key", key), ("x-api-key", key)],
        ),
        (
            Reason::RepeatedHeader,
            &[("X-API-Key", ""), ("X-API-Key", key)],
        ),
        (
            Reason::RepeatedHeader,
            &[("Authorization", &bearer), ("Authorization", &other_bearer)],
        ),
        (Reason::OversizedKey, &[("X-API-Key", &long)]),
        (Reason::OversizedKey, &[("X-API-Key", &huge)]),
    ];
    for (reason, headers) in requests {
        let denial = kg.check(headers, IP, "/").unwrap_err();
        assert_eq!((denial.reason(), denial.status()), (reason, 400));
        assert_eq!(denial.retry_after(), None);
        assert_eq!(Problem::of(&denial).code(), reason.as_str());
        assert_eq!(field(&denial.headers(), "WWW-Authenticate"), None);
    }
}

#[test]
fn cost_above_a_limit_is_a_bad_request_however_empty_the_window() {
    let home = Home::new();
    let kg = home.open();
    let per_minute = key_limited_to(&kg, 60);
    let monthly = key_with(&kg, |key| key.limits(vec!["30 monthly"]));
    for (key, limit) in [(per_minute, 60), (monthly, 30)] {
        let headers = [("X-API-Key", key.raw_key.expose())];
        let decide = |cost| {
            let cost = NonZeroU32::new(cost).unwrap();
            kg.decide(Request::new(&headers, IP, "/").cost(cost))
        };
        for cost in [limit + 1, u32::MAX] {
            let denial = decide(cost).unwrap_err();
            assert_eq!(denial.reason(), Reason::CostAboveLimit);
            assert_eq!((denial.status(), denial.retry_after()), (400, None));
            assert_eq!(Problem::of(&denial).code(), "cost_above_limit");
        }
        assert_eq!(decide(limit).unwrap().remaining(), Some(0));
    }
}

#[test]
fn key_without_a_required_scope_is_forbidden() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with(&kg, |key| key.scopes(vec!["read", "orders:write"]));
    let headers = [("X-API-Key", key.raw_key.expose())];
    let decide = |scopes: &[&str]| kg.decide(Request::new(&headers, IP, "/").scopes(scopes));
    let is_forbidden = |denial: Denial| {
        assert_eq!(denial.reason(), Reason::MissingScope);
        assert_eq!((denial.status(), denial.retry_after()), (403, None));
        assert_eq!(Problem::of(&denial).code(), "missing_scope");
        assert_eq!(
            field(&denial.headers(), "WWW-Authenticate"),
            Some(r#"Bearer realm="api", error="insufficient_scope""#)
        );
    };

    let grant = decide(&["orders:write", "read"]).unwrap();
    assert_eq!(grant.scopes().len(), 2);
    assert_eq!(grant.require("read"), Ok(()));
    assert_eq!(grant.require("orders:write"), Ok(()));
    for scope in ["admin", "READ", "orders", "rea", "orders:write ", ""] {
        is_forbidden(grant.require(scope).unwrap_err());
        is_forbidden(decide(&["read", scope]).unwrap_err());
    }
}

#[test]
fn exhausted_window_sets_retry_after() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    for _ in 0..60 {
        admit(&kg, &key);
    }
    home.clock.advance(Duration::from_millis(12_500));
    let denial = check(&kg, &key).unwrap_err();
    assert_eq!(
        (denial.reason(), denial.status()),
        (Reason::RateLimited, 429)
    );
    assert_eq!(denial.retry_after(), Some(Duration::from_millis(47_500)));
    let expected = [
        ("Content-Type", "application/problem+json"),
        ("Retry-After", "48"),
        ("X-RateLimit-Limit", "60"),
        ("X-RateLimit-Remaining", "0"),
        ("RateLimit-Policy", r#""default";q=60;w=60"#),
        ("RateLimit", r#""default";r=0;t=48"#),
    ];
    assert_eq!(denial.headers(), expected.map(owned));
    let problem = Problem::of(&denial);
    assert_eq!(problem.code(), "rate_limited");
    assert_eq!(problem.number("retry_after"), Some(48));
}

#[test]
fn exhausted_month_sets_retry_after() {
    // Ten seconds before the end of January.
    let home = Home::at(Timestamp::from_unix_millis(1_769_903_990_000));
    let kg = home.open();
    let key = key_with(&kg, |key| key.limits(vec!["2 monthly"]));
    admit(&kg, &key);
    admit(&kg, &key);
    let denial = check(&kg, &key).unwrap_err();
    assert_eq!(
        (denial.reason(), denial.status()),
        (Reason::QuotaExhausted, 429)
    );
    assert_eq!(denial.retry_after(), Some(10 * SECOND));
    let expected = [
        ("Content-Type", "application/problem+json"),
        ("Retry-After", "10"),
        ("X-RateLimit-Limit", "2"),
        ("X-RateLimit-Remaining", "0"),
        ("RateLimit-Policy", r#""monthly";q=2"#),
        ("RateLimit", r#""monthly";r=0;t=10"#),
    ];
    assert_eq!(denial.headers(), expected.map(owned));
    let problem = Problem::of(&denial);
    assert_eq!(problem.code(), "quota_exhausted");
    assert_eq!(problem.number("retry_after"), Some(10));
}

#[test]
fn grant_shows_its_tightest_limit() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    admit(&kg, &key);
    home.clock.advance(Duration::from_millis(48_100));
    let grant = check(&kg, &key).unwrap();
    let expected = [
        ("X-RateLimit-Limit", "60"),
        ("X-RateLimit-Remaining", "58"),
        ("RateLimit-Policy", r#""default";q=60;w=60"#),
        ("RateLimit", r#""default";r=58;t=12"#),
    ];
    assert_eq!(grant.headers(), expected.map(owned));

    let key = key_with(&kg, |key| key.limits(vec!["10 monthly"]));
    let headers = check(&kg, &key).unwrap().headers();
    assert_eq!(
        field(&headers, "RateLimit-Policy"),
        Some(r#""monthly";q=10"#)
    );
    assert_eq!(field(&headers, "X-RateLimit-Limit"), Some("10"));
    assert_eq!(field(&headers, "X-RateLimit-Remaining"), Some("9"));
}

#[test]
fn only_selected_rate_limit_headers_are_sent() {
    let all = [
        ("X-RateLimit-Limit", "1"),
        ("X-RateLimit-Remaining", "0"),
        ("RateLimit-Policy", r#""default";q=1;w=60"#),
        ("RateLimit", r#""default";r=0;t=60"#),
    ];
    let all = all.map(owned);
    for (selected, sent) in [
        (RateLimitHeaders::Both, &all[..]),
        (RateLimitHeaders::XRateLimit, &all[..2]),
        (RateLimitHeaders::Ietf, &all[2..]),
        (RateLimitHeaders::None, &[]),
    ] {
        let home = Home::new();
        let kg = home.open_with(home.config().rate_limit_headers(selected));
        let key = key_limited_to(&kg, 1);
        assert_eq!(check(&kg, &key).unwrap().headers(), sent, "{selected:?}");
        let denial = check(&kg, &key).unwrap_err().headers();
        let (start, rest) = denial.split_at(2);
        assert_eq!(start[1], owned(("Retry-After", "60")));
        assert_eq!(rest, sent, "{selected:?}");
    }
}

#[test]
fn retry_after_never_exceeds_the_window() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_to(&kg, 1);
    // A hit within a grain counts from the end of the grain.
    home.clock.advance(Duration::from_nanos(1));
    let grant = check(&kg, &key).unwrap();
    assert_eq!(
        field(&grant.headers(), "RateLimit"),
        Some(r#""default";r=0;t=60"#)
    );
    let denial = check(&kg, &key).unwrap_err();
    assert_eq!(
        field(&denial.headers(), "RateLimit"),
        Some(r#""default";r=0;t=60"#)
    );
}

#[test]
fn all_entry_points_give_the_same_verdict() {
    let home = Home::new();
    let kg = home.open();
    let full = key_limited_to(&kg, 1);
    admit(&kg, &full);
    let used_up = key_with(&kg, |key| key.limits(vec!["1 monthly"]));
    admit(&kg, &used_up);
    let mut keys = bad_keys(&home, &kg);
    keys.push((Reason::MissingKey, String::new()));
    keys.push((Reason::OversizedKey, "k".repeat(300)));
    keys.push((Reason::RateLimited, full.raw_key.expose().into()));
    keys.push((Reason::QuotaExhausted, used_up.raw_key.expose().into()));
    for (reason, text) in keys {
        let headers = [("X-API-Key", text.as_str())];
        let request = Request::new(&headers, IP, "/");
        let dry = kg.dry_run(request);
        assert!(!dry.is_allowed());
        let denial = dry.denial.unwrap();
        assert_eq!(denial.reason(), reason);
        assert_eq!(kg.check(&headers, IP, "/").unwrap_err(), denial);
        assert_eq!(kg.decide(request).unwrap_err(), denial);
        assert_eq!(at_first_poll(&kg, request).unwrap_err(), denial);
    }

    let good = crate::common::key(&kg);
    let headers = [("X-API-Key", good.raw_key.expose())];
    let request = Request::new(&headers, IP, "/").method("GET");
    let left = [
        kg.check(&headers, IP, "/").unwrap().remaining(),
        kg.decide(request).unwrap().remaining(),
        at_first_poll(&kg, request).unwrap().remaining(),
    ];
    assert_eq!(left, [59, 58, 57].map(Some));
    assert!(kg.dry_run(request).is_allowed());
}

#[test]
fn dry_run_consumes_and_records_nothing() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with(&kg, |key| {
        key.rate_limit_per_minute(3).limits(vec!["5 monthly"])
    });
    let headers = [("X-API-Key", key.raw_key.expose())];
    let request = Request::new(&headers, IP, "/");
    for left in [3, 2, 1] {
        for _ in 0..10 {
            let verdict = kg.dry_run(request);
            assert!(verdict.is_allowed());
            let rules: Vec<_> = verdict
                .rules
                .iter()
                .map(|rule| (rule.name.as_str(), rule.limit, rule.remaining))
                .collect();
            assert_eq!(rules, [("default", 3, left), ("monthly", 5, left + 2)]);
        }
        assert_eq!(admit(&kg, &key), left - 1);
    }
    let none: [(&str, &str); 0] = [];
    for _ in 0..10 {
        assert_eq!(reason(&kg, request), Some(Reason::RateLimited));
        let request = Request::new(&none, IP, "/");
        assert_eq!(reason(&kg, request), Some(Reason::MissingKey));
    }
    assert_eq!(kg.admin().list_usage(ListUsage::new()).unwrap().len(), 3);
    let Stats {
        requests, refused, ..
    } = kg.admin().stats().unwrap();
    assert_eq!((requests, refused), (3, vec![]));
}

#[test]
fn dry_run_by_id_needs_no_key_text() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with(&kg, |key| key.rate_limit_per_minute(1).scopes(vec!["read"]));
    let id = key.key.id;
    let none: [(&str, &str); 0] = [];
    let request = Request::new(&none, IP, "/");
    let by_id = |request| {
        kg.dry_run_as(id, request)
            .denial
            .map(|denial| denial.reason())
    };

    assert_eq!(by_id(request), None);
    assert_eq!(
        by_id(request.scopes(&["write"])),
        Some(Reason::MissingScope)
    );
    admit(&kg, &key);
    assert_eq!(by_id(request), Some(Reason::RateLimited));
    kg.admin().revoke_key(id).unwrap();
    assert_eq!(by_id(request), Some(Reason::RevokedKey));
    let nobody = keyguard::KeyId(999);
    let verdict = kg.dry_run_as(nobody, request);
    assert_eq!(
        verdict.denial.map(|denial| denial.reason()),
        Some(Reason::UnknownKey)
    );
}

fn reason<const N: usize>(
    kg: &KeyGuard,
    request: Request<'_, [(&str, &str); N]>,
) -> Option<Reason> {
    kg.dry_run(request).denial.map(|denial| denial.reason())
}

fn at_first_poll<const N: usize>(
    kg: &KeyGuard,
    request: Request<'_, [(&str, &str); N]>,
) -> Result<Grant, Denial> {
    let future = pin!(kg.decide_async(request));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("not ready at the first poll"),
    }
}

fn owned((name, value): (&'static str, &str)) -> (&'static str, String) {
    (name, value.to_owned())
}

/// Parses a problem document: a flat object of strings and numbers without escapes.
struct Problem(BTreeMap<String, Value>);

#[derive(Debug, PartialEq)]
enum Value {
    Text(String),
    Number(u64),
}

impl Problem {
    /// Parses the body of a denial and checks the common fields.
    fn of(denial: &Denial) -> Self {
        let fields = denial.headers();
        assert_eq!(
            field(&fields, "Content-Type"),
            Some("application/problem+json")
        );
        let problem = Self::read(&denial.problem());
        assert_eq!(problem.text("type"), "about:blank");
        assert_eq!(problem.number("status"), Some(denial.status().into()));
        assert!(!problem.text("title").is_empty());
        assert!(!problem.text("detail").is_empty());
        let header = field(&fields, "Retry-After").map(|seconds| seconds.parse().unwrap());
        assert_eq!(problem.number("retry_after"), header);
        problem
    }

    fn read(json: &str) -> Self {
        let inner = json
            .strip_prefix('{')
            .and_then(|json| json.strip_suffix("}\n"));
        let mut rest = inner.expect("not an object");
        let mut members = BTreeMap::new();
        loop {
            let (name, after) = quoted(rest);
            let after = after.strip_prefix(':').expect("no colon");
            let (value, after) = if after.starts_with('"') {
                let (text, after) = quoted(after);
                (Value::Text(text.to_owned()), after)
            } else {
                let end = after.find(',').unwrap_or(after.len());
                let number = after[..end].parse().expect("not a number");
                (Value::Number(number), &after[end..])
            };
            let earlier = members.insert(name.to_owned(), value);
            assert_eq!(earlier, None, "{name} is there twice");
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => break assert_eq!(after, "", "left over"),
            }
        }
        Self(members)
    }

    fn text(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(Value::Text(text)) => text,
            other => panic!("{name} is {other:?}"),
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name) {
            Some(Value::Number(number)) => Some(*number),
            None => None,
            other => panic!("{name} is {other:?}"),
        }
    }

    fn code(&self) -> &str {
        self.text("code")
    }
}

/// Splits off the quoted text at the start of `json`.
fn quoted(json: &str) -> (&str, &str) {
    let json = json.strip_prefix('"').expect("no quote");
    let (text, rest) = json.split_once('"').expect("no second quote");
    assert!(!text.contains('\\') && !text.contains(char::is_control));
    (text, rest)
}
