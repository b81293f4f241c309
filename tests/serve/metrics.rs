//! `/metrics`: its conventions, its documentation, and a real Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::server::{Server, check, get};
use crate::common::{free_port, wait_until};
use crate::server::{data_file, serve};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const ADMITTED: &str = r#"keyguard_decisions_total{outcome="admitted",reason=""}"#;

fn scrape(server: &Server) -> String {
    let response = get(&server.address, "/metrics", &[]);
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

/// The value of a metric, by its name and labels.
#[track_caller]
pub(crate) fn metric(server: &Server, name: &str) -> f64 {
    let text = scrape(server);
    let start = format!("{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    value
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

/// The names of all families.
fn families(text: &str) -> BTreeSet<&str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).collect()
}

fn refused(reason: &str) -> String {
    format!(r#"keyguard_decisions_total{{outcome="refused",reason="{reason}"}}"#)
}

#[test]
fn every_decision_is_counted_by_outcome_and_reason() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 2);
    let server = serve(dir.path(), &[]);
    let body = |key: &str| json!({"key": key, "ip": "192.0.2.7", "path": "/", "method": "GET"});
    for (text, status) in [(&*key, 200), (&key, 200), (&key, 429), ("kg_live_x", 401)] {
        assert_eq!(check(&server, &body(text)).1["status"], status);
    }
    let fields = [
        ("X-Original-URI", "/"),
        ("X-Original-Method", "GET"),
        ("X-Forwarded-For", "192.0.2.7"),
    ];
    assert_eq!(get(&server.address, "/auth", &fields).status, 401);

    let is_limited = || metric(&server, &refused("rate_limited")) == 1.0;
    wait_until(|| metric(&server, ADMITTED) == 2.0 && is_limited());
    for (reason, count) in [
        ("missing_key", 1.0),
        ("malformed_key", 1.0),
        ("unknown_key", 0.0),
        ("ip_locked", 0.0),
        ("unavailable", 0.0),
    ] {
        assert_eq!(metric(&server, &refused(reason)), count, "{reason}");
    }
    let text = scrape(&server);
    let start = r#"keyguard_decisions_total{outcome="refused""#;
    let reasons = text.lines().filter(|line| line.starts_with(start));
    assert_eq!(reasons.count(), 24, "each reason, zeros too");
    let durations = |endpoint: &str| {
        let name = "keyguard_decision_duration_seconds_count";
        metric(&server, &format!("{name}{{endpoint=\"{endpoint}\"}}"))
    };
    assert_eq!((durations("check"), durations("auth")), (4.0, 1.0));
    assert!(metric(&server, "keyguard_disk_free_bytes") > 0.0);
    assert_eq!(metric(&server, "keyguard_key_cache_keys"), 1.0);
    assert_eq!(metric(&server, "keyguard_key_cache_misses_total"), 1.0);
}

/// The table of the guide has each metric of this process and no others, except those marked as from
/// elsewhere.
#[test]
fn the_guide_lists_the_metrics() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 2);
    let server = serve(dir.path(), &[]);
    let text = scrape(&server);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual/monitoring.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `keyguard_"));
    let name = |row: &str| row.split('`').nth(1).unwrap().to_owned();
    let elsewhere = ["`keyguard_backend_", "`keyguard_request_duration_seconds`"];
    let (there, here): (Vec<&str>, Vec<&str>) =
        rows.partition(|row| elsewhere.iter().any(|name| row.contains(name)));
    assert_eq!(there.len(), 4, "{there:?}");
    let listed: BTreeSet<String> = here.into_iter().map(name).collect();
    let found: BTreeSet<String> = families(&text).into_iter().map(str::to_owned).collect();
    assert_eq!(listed, found);
}

/// Runs `promtool`, which is of the Debian package `prometheus`. Returns what it prints.
fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; tests/run installs it");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.success(), out + &error)
}

#[test]
fn metrics_follow_the_conventions_of_prometheus() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 2);
    let policy = "key_limits = [\"5/min shadow\"]";
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let server = serve(dir.path(), &["--policy", "policy.toml"]);
    let text = scrape(&server);
    assert_eq!(
        promtool(&["check", "metrics"], &text),
        (true, String::new())
    );
    // Shows that it finds what is wrong.
    let wrong = text.replace("keyguard_locks_rejected_total", "keyguard_locks_rejected");
    let (_, problems) = promtool(&["check", "metrics"], &wrong);
    assert!(problems.contains("_total"), "{problems}");
}

const ALERTS: &str = "examples/monitoring/alerts.yml";

#[test]
fn alerts_fire_when_they_should() {
    let (is_valid, text) = promtool(&["check", "rules", ALERTS], "");
    assert!(is_valid, "{text}");
    let (is_right, text) = promtool(&["test", "rules", "tests/serve/alerts_test.yml"], "");
    assert!(is_right, "{text}");
}

/// A Prometheus with the configuration of the example. Ends when dropped.
struct Prometheus {
    child: Child,
    address: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts a server in `dir` that scrapes `target` every second.
    fn start(dir: &Path, target: &str) -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring");
        let config = fs::read_to_string(examples.join("prometheus.yml")).unwrap();
        let config = config
            .replace("127.0.0.1:8700", target)
            .replace("_interval: 15s", "_interval: 1s");
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        fs::copy(examples.join("alerts.yml"), dir.join("alerts.yml")).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let child = Command::new("prometheus")
            .current_dir(dir)
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus; tests/run installs it");
        Self { child, address }
    }

    /// Returns the data of a response of the API; `None` while there is none.
    fn api(&self, path: &str, query: Option<&str>) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--get"]);
        if let Some(query) = query {
            curl.args(["--data-urlencode", &format!("query={query}")]);
        }
        let url = format!("http://{}/api/v1/{path}", self.address);
        let output = curl.arg(url).output().unwrap();
        let response: Value = serde_json::from_slice(&output.stdout).ok()?;
        assert_eq!(response["status"], "success", "{query:?}: {response}");
        Some(response["data"].clone())
    }

    /// Returns the results of a query.
    fn query(&self, query: &str) -> Vec<Value> {
        let data = self.api("query", Some(query)).unwrap_or_default();
        data["result"].as_array().cloned().unwrap_or_default()
    }
}

#[test]
fn prometheus_scrapes_the_server_and_loads_alerts_and_dashboard() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 2);
    let server = serve(dir.path(), &[]);
    for status in [200, 200, 429] {
        let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"});
        assert_eq!(check(&server, &body).1["status"], status);
    }
    let prometheus = Prometheus::start(dir.path(), &server.address);
    let is = |query: &str, value: &str| {
        let results = prometheus.query(query);
        results.len() == 1 && results[0]["value"][1] == value
    };
    wait_until(|| is(r#"keyguard_decisions_total{reason="rate_limited"}"#, "1"));
    let version = prometheus.query("keyguard_build_info");
    assert_eq!(version[0]["metric"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version[0]["metric"]["job"], "keyguard");

    let groups = || prometheus.api("rules", None).unwrap()["groups"].clone();
    let is_evaluated = |rule: &Value| rule["health"] != "unknown";
    let rules = || groups()[0]["rules"].as_array().unwrap().clone();
    wait_until(|| rules().iter().all(is_evaluated));
    let rules = rules();
    assert_eq!(rules.len(), 16);
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }

    let dashboard = include_str!("../../examples/monitoring/dashboard.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let text = scrape(&server);
    let mut shown = BTreeSet::new();
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        let query = target["expr"].as_str().unwrap();
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names = words.filter(|word| word.starts_with("keyguard_"));
        shown.extend(names.map(|name| name.trim_end_matches("_bucket")));
        let query = query
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*");
        prometheus.query(&query);
    }
    let known = families(&text);
    let of_backends = |name: &&str| name.starts_with("keyguard_backend_");
    let (there, here): (BTreeSet<&str>, BTreeSet<&str>) = shown.into_iter().partition(of_backends);
    assert_eq!(there.len(), 3);
    let not_shown: Vec<_> = known.difference(&here).collect();
    let unknown: Vec<_> = here.difference(&known).collect();
    assert_eq!(
        unknown, [&""; 0],
        "the dashboard shows metrics that are not there"
    );
    let only_in_alerts = [
        "keyguard_admin_refused_total",
        "keyguard_locks_rejected_total",
    ];
    assert_eq!(not_shown, only_in_alerts.each_ref());

    drop(server);
    let pending = r#"ALERTS{alertname="KeyGuardDown"}"#;
    wait_until(|| prometheus.query(pending).len() == 1);
}
