//! A trace of requests that is decided in several ways, with the same verdicts.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::process::Output;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::common::program::keyguard;
use crate::common::{Home, NOON, Random, SECRET};
use keyguard::{CreateKey, CreatedKey, Denial, Grant, KeyGuard, Policy, Request, UpdateOrg};

const POLICY: &str = r#"
    exempt = ["/health"]
    protect = ["/api", "/admin"]
    deny = ["203.0.113.0/24"]

    [lockout]
    threshold = 20

    [[route]]
    name = "search"
    path = "/api/search"
    limits = ["4/10s"]
    ip_limits = ["9/10s"]
    cost = 3

    [[route]]
    name = "admin"
    path = "/admin"
    scopes = ["admin"]
"#;

struct TracedRequest {
    /// Seconds after the start.
    at: u64,
    ip: IpAddr,
    /// The index of the key.
    key: Option<usize>,
    path: String,
}

fn trace() -> Vec<TracedRequest> {
    let unreadable = format!("/%{}61", "25".repeat(40));
    let mut random = Random(7);
    let mut at = 0;
    let mut request = Vec::new();
    for _ in 0..3_000 {
        at += u64::from(random.one_in(3));
        let host = random.pick(&[1, 2, 3]);
        let network = if random.one_in(20) {
            [203, 0, 113]
        } else {
            [192, 0, 2]
        };
        let paths = [
            "/api/a",
            "/api/search?q=1",
            "//api/./search",
            "/admin/x",
            "/open",
            "/health",
            "/api/%2e%2e/open",
            "/x/..%2fadmin",
            &unreadable,
        ];
        request.push(TracedRequest {
            at,
            ip: IpAddr::from([network[0], network[1], network[2], host]),
            key: Some(random.index(5)).filter(|key| *key < 4),
            path: random.pick(&paths).to_owned(),
        });
    }
    request
}

fn keys(kg: &KeyGuard) -> Vec<CreatedKey> {
    kg.admin().create_org("acme").unwrap();
    kg.admin().create_org("globex").unwrap();
    let globex = kg.admin().find_org("globex").unwrap();
    kg.admin()
        .update_org(UpdateOrg::new(globex.id).limits(["30/min"]))
        .unwrap();
    let create = |org: &str, per_minute, limits: &[&str], scopes: &[&str]| {
        kg.admin()
            .create_key(
                CreateKey::new(org, "key")
                    .limits(limits.iter().copied())
                    .scopes(scopes.iter().copied())
                    .rate_limit_per_minute(per_minute),
            )
            .unwrap()
    };
    let keys = vec![
        create("acme", 40, &["1/s", "300 daily"], &["admin"]),
        create("acme", 40, &["100 credits +5/min"], &[]),
        create("globex", 40, &["20/10s shadow"], &["admin"]),
        create("globex", 8, &[], &[]),
    ];
    kg.admin()
        .revoke_key(create("acme", 40, &[], &[]).key.id)
        .unwrap();
    keys
}

/// The reason and the limit of a refusal.
fn verdict(outcome: Result<Grant, Denial>) -> String {
    match outcome {
        Ok(_) => "admitted".to_owned(),
        Err(denial) => said(denial.reason().as_str(), denial.limit_name()),
    }
}

fn said(reason: &str, rule: Option<String>) -> String {
    rule.map_or_else(|| reason.to_owned(), |rule| format!("{reason} by {rule}"))
}

/// Runs the trace on a new guard.
fn run(decide: impl Fn(&KeyGuard, &[(&str, &str)], IpAddr, &str) -> String) -> Vec<String> {
    let home = Home::new();
    let policy: Policy = POLICY.parse().unwrap();
    let kg = home.open_with(home.config().policy(policy));
    let keys = keys(&kg);
    let mut now = 0;
    let mut verdicts = Vec::new();
    for request in trace() {
        home.clock.advance(Duration::from_secs(request.at - now));
        now = request.at;
        let key = request
            .key
            .map(|key| ("X-API-Key", keys[key].raw_key.expose()));
        let headers: Vec<_> = key.into_iter().collect();
        verdicts.push(decide(&kg, &headers, request.ip, &request.path));
    }
    verdicts
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("not ready when first polled"),
    }
}

/// Runs the program with the secret of these tests.
fn run_program(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = keyguard(dir, arguments);
    command.env("KEYGUARD_SECRET", SECRET).output().unwrap()
}

/// Runs `replay` on the trace as an access log.
fn replayed() -> Vec<String> {
    let home = Home::new();
    let kg = home.open();
    let keys = keys(&kg);
    drop(kg);
    let mut log = String::new();
    for request in trace() {
        let time = NOON.plus(Duration::from_secs(request.at)).to_string();
        let (time, ip, path) = (&time[11..19], request.ip, request.path);
        let user = request
            .key
            .map_or("-".to_owned(), |key| keys[key].key.id.to_string());
        log += &format!("{ip} - {user} [15/Jan/2026:{time} +0000] \"GET {path} HTTP/1.1\" 200 5\n");
    }
    log += "no request\n";
    fs::write(home.dir().join("access.log"), log).unwrap();
    fs::write(home.dir().join("new.toml"), POLICY).unwrap();
    let arguments = ["replay", "access.log", "--policy", "new.toml"];
    let output = run_program(
        home.dir(),
        &[&arguments[..], &["--each", "--json"]].concat(),
    );
    assert!(output.status.success(), "{output:?}");
    let mut verdicts = vec!["admitted".to_owned(); trace().len()];
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let refused: serde_json::Value = serde_json::from_str(line).unwrap();
        let line = refused["line"].as_u64().unwrap() as usize;
        let rule = refused["rule"].as_str().map(str::to_owned);
        verdicts[line - 1] = said(refused["reason"].as_str().unwrap(), rule);
    }
    let summary = run_program(home.dir(), &[&arguments[..], &["--json"]].concat());
    let summary: serde_json::Value = serde_json::from_slice(&summary.stdout).unwrap();
    let refused = verdicts
        .iter()
        .filter(|verdict| *verdict != "admitted")
        .count();
    assert_eq!(summary["refused"], refused);
    assert_eq!(summary["requests"], trace().len());
    assert_eq!(summary["unreadable"], 1);
    verdicts
}

#[test]
fn all_replays_of_a_log_agree() {
    let checked = run(|kg, headers, ip, path| verdict(kg.check(headers, ip, path)));
    let awaited = run(|kg, headers, ip, path| {
        let request = Request::new(headers, ip, path).method("GET");
        verdict(ready(kg.decide_async(request)))
    });
    let foreseen = run(|kg, headers, ip, path| {
        let foreseen = kg.dry_run(Request::new(headers, ip, path)).denial;
        let foreseen = foreseen.map_or("admitted".to_owned(), |denial| {
            said(denial.reason().as_str(), denial.limit_name())
        });
        drop(kg.check(headers, ip, path));
        foreseen
    });
    let replayed = replayed();
    for (number, verdict) in checked.iter().enumerate() {
        let others = [&awaited[number], &foreseen[number], &replayed[number]];
        assert_eq!(others, [verdict; 3], "request {number}");
    }
    // Requests were refused by every stage.
    for reason in [
        "admitted",
        "ip_denied",
        "unreadable_path",
        "missing_key",
        "missing_scope",
        "ip_locked",
        "rate_limited by default",
        "rate_limited by 1/s",
        "rate_limited by search 4/10s",
        "rate_limited by org 30/min",
        "ip_limited by search ip 9/10s",
        "credits_exhausted",
    ] {
        let found = checked.iter().any(|verdict| verdict.starts_with(reason));
        assert!(found, "{reason} is missing");
    }
}

#[test]
fn summary_names_client_time_and_rule() {
    let home = Home::new();
    let line = |second: u32| {
        format!("192.0.2.7 - - [15/Jan/2026:12:00:{second:02} +0100] \"GET /x HTTP/1.1\" 200 5")
    };
    let log: Vec<String> = (0..5).map(line).collect();
    fs::write(home.dir().join("access.log"), log.join("\n")).unwrap();
    let policy = "[[route]]\nname = \"x\"\npath = \"/x\"\nprotect = false\nip_limits = [\"2/min\"]";
    fs::write(home.dir().join("new.toml"), policy).unwrap();
    let output = run_program(
        home.dir(),
        &["replay", "access.log", "--policy", "new.toml"],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "requests: 5\nadmitted: 2\nrefused: 3\nwho\twhy\tcount\tfirst\tlast\n192.0.2.7\tip_limited by x ip 2/min\t3\t2026-01-15T11:00:02Z\t2026-01-15T11:00:04Z\n";
    assert_eq!(text, expected);
    // A replay records nothing.
    assert!(!home.file().exists());
}

/// Once, the prefix and the id of a key were reported as two keys, rows were sorted by name, and whole
/// keys of the log were printed.
#[test]
fn key_is_recognized_under_all_names_and_its_text_is_not_shown() {
    let home = Home::new();
    let kg = home.open();
    kg.admin().create_org("acme").unwrap();
    let create = |label: &str| {
        kg.admin()
            .create_key(CreateKey::new("acme", label))
            .unwrap()
    };
    let (one, other) = (create("one"), create("other"));
    let expired =
        CreateKey::new("acme", "expired").expires_at(Some(NOON.plus(Duration::from_secs(1))));
    let expired = kg.admin().create_key(expired).unwrap();
    drop(kg);
    let text = one.raw_key.expose();
    let foreign = crate::common::key(&Home::new().open())
        .raw_key
        .expose()
        .to_owned();
    let legacy = "kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDE";
    let id = |key: &CreatedKey| key.key.id.to_string();
    let mut log = String::new();
    let mut add = |user: &str, path: &str| {
        log += &format!(
            "192.0.2.7 - {user} [15/Jan/2026:12:00:10 +0000] \"GET {path} HTTP/1.1\" 200 5\n"
        );
    };
    add(&id(&other), "/x");
    for user in [&id(&one), &one.key.shown_prefix, text] {
        add(user, "/x");
    }
    for user in [foreign.as_str(), legacy] {
        add(user, &format!("/x/{text}/y?key={text}"));
    }
    add(&id(&expired), "/y");
    fs::write(home.dir().join("access.log"), log).unwrap();
    let policy = "[[route]]\nname = \"x\"\npath = \"/x\"\nscopes = [\"none\"]\n";
    fs::write(home.dir().join("new.toml"), policy).unwrap();
    let arguments = ["replay", "access.log", "--policy", "new.toml"];
    let printed = |more: &[&str]| {
        let output = run_program(home.dir(), &[&arguments[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        for key in [text, &foreign, legacy] {
            assert!(!printed.contains(&key[14..]), "{printed}");
        }
        printed
    };
    let summary: serde_json::Value = serde_json::from_str(&printed(&["--json"])).unwrap();
    let of = |who: String| {
        let refusals = summary["refusals"].as_array().unwrap();
        let of_key: Vec<_> = refusals.iter().filter(|kind| kind["who"] == *who).collect();
        assert_eq!(of_key.len(), 1, "{who} in {summary}");
        of_key[0].clone()
    };
    let most = format!("key {}", id(&one));
    assert_eq!(summary["refusals"][0]["who"], *most, "{summary}");
    assert_eq!(of(most)["count"], 3);
    assert_eq!(of(format!("key {}", id(&other)))["count"], 1);
    let expired = of(format!("key {}", id(&expired)));
    assert_eq!(expired["why"], "expired_key");
    printed(&[]);
    printed(&["--each"]);
    printed(&["--each", "--json"]);
}

#[test]
fn log_without_requests_is_refused() {
    let home = Home::new();
    fs::write(home.dir().join("new.toml"), "").unwrap();
    for (log, lines) in [
        ("", "(0 other lines)"),
        ("{}\nno request\n", "(2 other lines)"),
    ] {
        fs::write(home.dir().join("access.log"), log).unwrap();
        for more in [&[][..], &["--each"], &["--json"]] {
            let arguments = ["replay", "access.log", "--policy", "new.toml"];
            let output = run_program(home.dir(), &[&arguments[..], more].concat());
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
            assert!(
                error.contains("access.log") && error.contains(lines),
                "{error}"
            );
        }
    }
}

#[test]
fn errors_name_the_unreadable_file() {
    let home = Home::new();
    fs::write(home.dir().join("new.toml"), "protect = [\"x\"]").unwrap();
    let output = run_program(home.dir(), &["replay", "none.log", "--policy", "new.toml"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("new.toml") && text.contains("line 1"),
        "{text}"
    );
    fs::write(home.dir().join("new.toml"), "").unwrap();
    let output = run_program(home.dir(), &["replay", "none.log", "--policy", "new.toml"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("none.log") && text.contains("next:"),
        "{text}"
    );
}
