//! The admin service over real sockets.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::common::server::{HttpResponse, connect, get, request};
use crate::common::{Home, IP, check_with, key};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use keyguard::http::AdminService;
use keyguard::{ClientIp, Config, KeyGuard, KeyId, LockDuration, Page};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const ADMIN_KEY: &str = "an admin key of 16+ bytes";

/// An admin service that listens.
struct Admin {
    address: String,
    _runtime: Runtime,
}

impl Admin {
    fn new(kg: &KeyGuard) -> Self {
        Self::with(AdminService::new(kg.clone()), |peer| peer.into())
    }

    fn with(service: AdminService, peer: fn(SocketAddr) -> ClientIp) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(async move {
            loop {
                let (stream, address) = listener.accept().await.unwrap();
                let service = service.for_peer(peer(address));
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            _runtime: runtime,
        }
    }

    fn fetch(&self, method: &str, target: &str, body: Value) -> HttpResponse {
        self.fetch_with(method, target, &[], body)
    }

    fn fetch_with(
        &self,
        method: &str,
        target: &str,
        more: &[(&str, &str)],
        body: Value,
    ) -> HttpResponse {
        let fields = [
            &[
                ("X-Admin-Key", ADMIN_KEY),
                ("Content-Type", "application/json"),
            ],
            more,
        ];
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        request(&self.address, method, target, &fields.concat(), &body)
    }

    fn get(&self, target: &str) -> Value {
        let response = self.fetch("GET", target, Value::Null);
        assert_eq!(response.status, 200, "{target}: {}", response.body);
        json_of(&response)
    }
}

fn json_of(response: &HttpResponse) -> Value {
    serde_json::from_str(&response.body).unwrap()
}

fn open(home: &Home) -> KeyGuard {
    home.open_with(configured(home))
}

fn configured(home: &Home) -> Config {
    home.config().admin_key(ADMIN_KEY)
}

#[test]
fn six_original_endpoints_keep_their_behavior() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);

    let org = admin.fetch("POST", "/admin/orgs", json!({"org_name": "acme"}));
    assert_eq!(org.status, 201);
    assert_eq!(json_of(&org)["name"], "acme");
    let orgs = admin.get("/admin/orgs");
    assert_eq!(orgs.as_array().unwrap().len(), 1);

    let fields = json!({"org_name": "acme", "label": "shop", "rate_limit_per_minute": 7});
    let key = admin.fetch("POST", "/admin/keys", fields);
    assert_eq!(key.status, 201);
    assert_eq!(key.field("cache-control"), "no-store");
    let key = json_of(&key);
    assert_eq!(
        (&key["id"], &key["rate_limit_per_minute"]),
        (&json!(1), &json!(7))
    );
    let raw_key = key["raw_key"].as_str().unwrap();
    assert_eq!(check_with(&kg, raw_key).unwrap().remaining(), Some(6));

    let keys = admin.get("/admin/keys");
    assert_eq!(keys[0]["label"], "shop");
    assert_eq!(keys[0]["org_name"], "acme");
    assert!(!keys.to_string().contains(raw_key));
    let stats = admin.get("/admin/stats");
    assert_eq!(
        (&stats["requests"], &stats["active_keys"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        stats["error_rate"],
        0.0 + f64::from(u8::from(stats["errors"] == 1))
    );

    let revoked = admin.fetch("DELETE", "/admin/keys/1", Value::Null);
    assert_eq!(
        (revoked.status, &json_of(&revoked)["active"]),
        (200, &json!(false))
    );
    assert_eq!(check_with(&kg, raw_key).unwrap_err().status(), 401);
}

#[test]
fn every_command_has_an_endpoint() {
    let home = Home::new();
    std::fs::write(home.dir().join("policy.toml"), "").unwrap();
    let kg = home.open_with(configured(&home).policy_file(home.dir().join("policy.toml")));
    let admin = Admin::new(&kg);
    let done = |method: &str, target: &str, body: Value| {
        let response = admin.fetch(method, target, body);
        assert!(
            [200, 201].contains(&response.status),
            "{target}: {}",
            response.body
        );
        json_of(&response)
    };
    done("POST", "/admin/orgs", json!({"org_name": "acme"}));
    done(
        "POST",
        "/admin/keys",
        json!({"org_name": "acme", "label": "shop"}),
    );
    assert_eq!(done("GET", "/admin/orgs/1", Value::Null)["name"], "acme");
    let diagnosis = done("GET", "/admin/diagnosis?unused_for=0", Value::Null);
    let unused = diagnosis["conditions"].as_array().unwrap().iter();
    let mut unused = unused.filter(|condition| condition["area"] == "unused_keys");
    assert_eq!(unused.next().unwrap()["key"], 1);
    let org = done("PATCH", "/admin/orgs/1", json!({"limits": ["9/s"]}));
    assert_eq!(org["limits"], json!(["9/s"]));
    let org = done("POST", "/admin/orgs/1/suspend", Value::Null);
    assert_eq!(org["status"], "suspended");
    let org = done("POST", "/admin/orgs/1/resume", Value::Null);
    assert_eq!(org["status"], "active");
    let key = done("POST", "/admin/keys/1/suspend", Value::Null);
    assert_eq!(
        (&key["status"], &key["active"]),
        (&json!("suspended"), &json!(false))
    );
    let key = done("POST", "/admin/keys/1/resume", Value::Null);
    assert_eq!(
        (&key["status"], &key["active"]),
        (&json!("active"), &json!(true))
    );
    let found = |target: &str| done("GET", target, Value::Null).as_array().unwrap().len();
    assert_eq!(found("/admin/keys?search=SHO&org=acme"), 1);
    assert_eq!(found("/admin/keys?search=AC"), 1);
    assert_eq!(found("/admin/keys?search=SHO&after=1"), 0);
    assert_eq!(found("/admin/keys?search=shoe"), 0);
    assert_eq!(
        (
            found("/admin/orgs?search=Ac"),
            found("/admin/orgs?search=x")
        ),
        (1, 0)
    );
    let changes = json!({"label": "web", "expires_at": "2027-01-01T00:00:00Z"});
    let key = done("PATCH", "/admin/keys/1", changes);
    assert_eq!(
        (&key["label"], &key["expires_at"]),
        (&json!("web"), &json!("2027-01-01T00:00:00Z"))
    );
    let key = done("PATCH", "/admin/keys/1", json!({"expires_at": null}));
    assert_eq!(
        (&key["label"], &key["expires_at"]),
        (&json!("web"), &Value::Null)
    );
    assert_eq!(done("GET", "/admin/keys/1", Value::Null), key);
    let rotated = done("POST", "/admin/keys/1/rotate", json!({"grace": "0"}));
    assert!(rotated["raw_key"].as_str().unwrap().starts_with("kg_live_"));
    assert_eq!(
        done("GET", "/admin/keys/1/limits", Value::Null)[0]["limit"],
        60
    );
    done("POST", "/admin/keys/1/reset", json!({}));
    let lifted = done(
        "POST",
        "/admin/keys/1/overrides",
        json!({"limit": "default", "duration": "1 hour"}),
    );
    assert_eq!(lifted["overrides"][0]["limit"], "default");
    done(
        "DELETE",
        "/admin/keys/1/overrides?limit=default",
        Value::Null,
    );
    let lock = done(
        "POST",
        "/admin/blocks",
        json!({"ip": "203.0.113.9", "duration": "1 hour"}),
    );
    assert_eq!(
        (&lock["cause"], &lock["scope"]),
        (&json!("manual"), &json!("all"))
    );
    assert_eq!(done("GET", "/admin/blocks", Value::Null), json!([lock]));
    let states = done("GET", "/admin/ips?ip=203.0.113.9", Value::Null);
    assert_eq!(states[0]["name"], "bad_keys");
    done("POST", "/admin/ips/reset", json!({"ip": "203.0.113.9"}));
    let ended = done("DELETE", "/admin/blocks?ip=203.0.113.9", Value::Null);
    assert_eq!(ended, json!([lock]));
    let verdict = done(
        "POST",
        "/admin/check",
        json!({"key": "1", "ip": "192.0.2.1", "path": "/"}),
    );
    assert_eq!(verdict["allowed"], true);
    assert_eq!(
        done("POST", "/admin/reload", Value::Null),
        json!({"reloaded": true})
    );
    let usage = done("GET", "/admin/usage?key=1&since=1h&by=hour", Value::Null);
    assert_eq!(
        (&usage["requests"], &usage["rows"]),
        (&json!(0), &json!([]))
    );
    let page = done("GET", "/admin/usage/requests?since=1h&limit=5", Value::Null);
    assert_eq!(page, json!({"requests": [], "next": null}));
    let tail = done("GET", "/admin/usage/tail?refused=true", Value::Null);
    assert_eq!(
        tail,
        json!({"requests": [], "next": 0, "missed": 0, "has_more": false})
    );
    done("DELETE", "/admin/keys/1", Value::Null);

    let log = admin.get("/admin/audit");
    let actions: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["action"])
        .collect();
    assert_eq!(actions.len(), 18);
    assert_eq!(actions[0], "revoke_key");
    assert!(
        log.as_array()
            .unwrap()
            .iter()
            .all(|entry| { entry["actor"] == "admin key" && entry["ip"] == "127.0.0.1" })
    );
}

#[test]
fn usage_is_counted_by_the_fields_of_the_query() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    let keys = [key(&kg), key(&kg)];
    for (path, status) in [("/v1/a", 200), ("/v1/b", 404), ("/v1/b", 500)] {
        let headers = [("X-API-Key", keys[1].raw_key.expose())];
        kg.check(&headers, IP, path).unwrap().finish(status);
    }
    kg.check(&[("X-API-Key", "kg_live_nonsense")], IP, "/v1/a")
        .unwrap_err();
    let get = |query: &str| admin.get(&format!("/admin/usage?{query}"));

    let by_key = get("since=1h");
    assert_eq!(by_key["requests"], 3);
    let used =
        json!({"id": 2, "prefix": keys[1].key.shown_prefix, "label": "shop", "org_name": "acme"});
    assert_eq!(
        by_key["rows"],
        json!([{"key": used, "requests": 3, "errors": 2}])
    );
    assert_eq!(
        get("by=path&status=4xx&ip=192.0.2.0/24&path=/v1/*&org=acme&key=2")["rows"],
        json!([{"path": "/v1/b", "requests": 1, "errors": 1}])
    );
    assert_eq!(
        get("by=status&limit=2&until=2027-01-01T00:00:00Z")["rows"],
        json!([
            {"status": 200, "requests": 1, "errors": 0},
            {"status": 404, "requests": 1, "errors": 1},
        ])
    );
    let refused = get("by=reason&refused=true&since=1h");
    assert_eq!(refused["includes_keyless"], true);
    assert_eq!(
        refused["rows"],
        json!([{"reason": "malformed_key", "requests": 1, "errors": 1}])
    );
    assert_eq!(get("by=reason&key=2")["rows"][0]["reason"], Value::Null);
    assert_eq!(
        get("by=hour&reason=malformed_key&since=1h")["rows"],
        json!([{"start": "2026-01-15T12:00:00Z", "requests": 1, "errors": 1}])
    );

    for (query, status, text) in [
        ("by=week", 422, "unknown variant `week`"),
        (
            "since=yesterday",
            422,
            "since: `yesterday` is neither a time",
        ),
        ("status=fine", 422, "status: `fine` is no status"),
        ("ip=192.0.2.7/8", 422, "ip: `192.0.2.7/8` has bits set"),
        ("since=1h&until=2h", 422, "until: is not after `since`"),
        ("limit=0", 422, "expected 1 to 1,000 rows"),
        ("reason=bored", 422, "unknown variant `bored`"),
        ("org=globex", 404, "There is no organization named `globex`"),
        ("key=9", 404, "There is no key with the id 9"),
        ("keys=9", 422, "unknown field `keys`"),
    ] {
        let response = admin.fetch("GET", &format!("/admin/usage?{query}"), Value::Null);
        let detail = json_of(&response)["detail"]
            .as_str()
            .unwrap()
            .to_lowercase();
        assert_eq!(response.status, status, "{query}: {detail}");
        assert!(detail.contains(&text.to_lowercase()), "{query}: {detail}");
    }
}

/// The `curl` lines of the documentation of the Python package, version 0.3.0, and the fields of its
/// responses.
#[test]
fn requests_of_the_python_package_work() {
    let home = Home::new();
    let config = home.config().secret_as_admin_key(true);
    let kg = home.open_with(config);
    let admin = Admin::new(&kg);
    let curl = |method: &str, target: &str, body: &str| {
        let fields = [
            ("X-Admin-Key", crate::common::SECRET),
            ("Content-Type", "application/json"),
        ];
        let response = request(&admin.address, method, target, &fields, body);
        assert!(
            [200, 201].contains(&response.status),
            "{target}: {}",
            response.body
        );
        json_of(&response)
    };
    let org = curl("POST", "/admin/orgs", r#"{"name": "Acme Corp"}"#);
    assert_eq!(
        (&org["id"], &org["name"], &org["org_name"], &org["status"]),
        (
            &json!(1),
            &json!("Acme Corp"),
            &json!("Acme Corp"),
            &json!("active")
        )
    );
    let body = r#"{"org_name": "Acme Corp", "label": "prod-key", "rate_limit_per_minute": 120}"#;
    let key = curl("POST", "/admin/keys", body);
    assert_eq!(
        (
            &key["id"],
            &key["org_name"],
            &key["label"],
            &key["rate_limit_per_minute"]
        ),
        (
            &json!(1),
            &json!("Acme Corp"),
            &json!("prod-key"),
            &json!(120)
        )
    );
    let _ = check_with(&kg, key["raw_key"].as_str().unwrap()).unwrap();
    assert_eq!(curl("GET", "/admin/keys", "")[0]["org_name"], "Acme Corp");
    assert_eq!(curl("GET", "/admin/stats", "")["total_keys"], 1);
    for target in ["/admin/keys/1", "/admin/orgs/1"] {
        let response = curl("GET", target, "");
        assert_eq!(
            (&response["org_name"], &response["id"]),
            (&json!("Acme Corp"), &json!(1))
        );
    }
    let revoked = curl("DELETE", "/admin/keys/1", "");
    assert_eq!(
        (&revoked["org_name"], &revoked["active"]),
        (&json!("Acme Corp"), &json!(false))
    );
}

#[test]
fn keys_are_listed_by_organization_name() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    for name in ["acme", "globex inc"] {
        kg.admin().create_org(name).unwrap();
        kg.admin()
            .create_key(keyguard::CreateKey::new(name, name))
            .unwrap();
    }
    let listed = admin.get("/admin/keys?org=globex%20inc");
    assert_eq!(
        (listed.as_array().unwrap().len(), &listed[0]["id"]),
        (1, &json!(2))
    );
    assert_eq!(admin.get("/admin/keys?org=acme&org_id=1")[0]["id"], 1);
    let status = |target: &str| admin.fetch("GET", target, Value::Null).status;
    assert_eq!(status("/admin/keys?org=nobody"), 404);
    assert_eq!(status("/admin/keys?org=acme&org_id=2"), 422);
}

/// The last duplicate field once won, and other parsers may take the first.
#[test]
fn duplicate_field_is_a_bad_request() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    kg.admin().create_org("acme").unwrap();
    let fields = [
        ("X-Admin-Key", ADMIN_KEY),
        ("Content-Type", "application/json"),
    ];
    for (target, body) in [
        ("/admin/orgs", r#"{"org_name":"a","org_name":"a"}"#),
        ("/admin/orgs", r#"{"org_name":"a","org_n\u0061me":"b"}"#),
        (
            "/admin/keys",
            r#"{"org_name":"acme","label":"x","label":"y"}"#,
        ),
        (
            "/admin/check",
            r#"{"ip":"local","path":"/","key":null,"key":"1"}"#,
        ),
    ] {
        let response = request(&admin.address, "POST", target, &fields, body);
        assert_eq!(response.status, 400, "{body}: {}", response.body);
        assert!(
            response.body.contains("duplicate field"),
            "{}",
            response.body
        );
    }
    let both = r#"{"org_name":"a","name":"b"}"#;
    let response = request(&admin.address, "POST", "/admin/orgs", &fields, both);
    assert_eq!(response.status, 422, "{}", response.body);
    assert_eq!(
        kg.admin().list_orgs(Page::first().limit(9)).unwrap().len(),
        1
    );
}

/// Settings of a cloned service were once ignored.
#[test]
fn cloned_service_can_be_configured() {
    let home = Home::new();
    let kg = open(&home);
    let first = AdminService::new(kg.clone());
    let service = first
        .clone()
        .max_body_bytes(10)
        .prefix("/internal")
        .hosts(["admin.test"]);
    let admin = Admin::with(service, |peer| peer.into());
    assert_eq!(admin.fetch("GET", "/admin/orgs", Value::Null).status, 404);
    let response = admin.fetch("POST", "/internal/admin/orgs", json!({"org_name": "acme"}));
    assert_eq!(response.status, 413, "{}", response.body);
    let admin = Admin::with(first, |peer| peer.into());
    admin.get("/admin/orgs");
}

#[test]
fn errors_name_the_field() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    admin.fetch("POST", "/admin/orgs", json!({"org_name": "acme"}));
    let refused = |method: &str, target: &str, body: Value| {
        let response = admin.fetch(method, target, body);
        assert_eq!(response.field("content-type"), "application/problem+json");
        let problem = json_of(&response);
        assert_eq!(problem["status"], response.status);
        let field = problem["field"].as_str().unwrap_or_default().to_owned();
        (response.status, field)
    };
    let of = |status: u16, field: &str| (status, field.to_owned());
    let key = |fields: Value| {
        let mut key = json!({"org_name": "acme", "label": "shop"});
        for (name, value) in fields.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    };
    for (expected, fields) in [
        (
            of(422, "rate_limit_per_minute"),
            json!({"rate_limit_per_minute": 0}),
        ),
        (
            of(422, "rate_limit_per_minute"),
            json!({"rate_limit_per_minute": "7"}),
        ),
        (
            of(422, "rate_limit_per_minute"),
            json!({"rate_limit_per_minute": -1}),
        ),
        (of(422, "label"), json!({"label": " "})),
        (of(422, "scopes"), json!({"scopes": ["a b"]})),
        (of(422, "scopes[1]"), json!({"scopes": ["a", 1]})),
        (of(422, "limits"), json!({"limits": ["10/fortnight"]})),
        (of(422, "allowed_ips"), json!({"allowed_ips": ["nowhere"]})),
        (of(422, "expires_at"), json!({"expires_at": "tomorrow"})),
        (of(422, "ratelimit"), json!({"ratelimit": 7})),
        (of(404, ""), json!({"org_name": "nobody"})),
    ] {
        assert_eq!(
            refused("POST", "/admin/keys", key(fields.clone())),
            expected,
            "{fields}"
        );
    }
    assert_eq!(
        refused("POST", "/admin/orgs", json!({"org_name": "acme"})),
        of(409, "")
    );
    assert_eq!(
        refused("POST", "/admin/orgs", json!({})),
        of(422, "org_name")
    );
    assert_eq!(
        refused("POST", "/admin/orgs", json!(["other"])),
        of(422, "")
    );
    assert_eq!(
        refused("GET", "/admin/orgs?limit=0", Value::Null),
        of(422, "limit")
    );
    assert_eq!(
        refused("GET", "/admin/orgs?limit=x", Value::Null),
        of(422, "limit")
    );
    assert_eq!(
        refused("GET", "/admin/orgs?page=2", Value::Null),
        of(422, "page")
    );
    assert_eq!(
        refused("GET", "/admin/keys?org_id=9", Value::Null),
        of(404, "")
    );
    assert_eq!(refused("GET", "/admin/keys/9", Value::Null), of(404, ""));
    assert_eq!(refused("GET", "/admin/keys/x", Value::Null), of(404, ""));
    assert_eq!(refused("GET", "/admin/nothing", Value::Null), of(404, ""));
    assert_eq!(refused("GET", "/elsewhere", Value::Null), of(404, ""));
    assert_eq!(
        refused("DELETE", "/admin/blocks?ip=1.2.3.4", Value::Null),
        of(404, "")
    );
    assert_eq!(refused("POST", "/admin/reload", Value::Null), of(409, ""));

    let response = admin.fetch("PUT", "/admin/orgs", json!({}));
    assert_eq!(
        (response.status, response.field("allow")),
        (405, "POST, GET")
    );
    let fields = [
        ("X-Admin-Key", ADMIN_KEY),
        ("Content-Type", "application/json"),
    ];
    let response = request(
        &admin.address,
        "POST",
        "/admin/orgs",
        &fields,
        "{\"org_name\":",
    );
    assert_eq!(response.status, 400);
    let response = request(
        &admin.address,
        "POST",
        "/admin/orgs",
        &fields[..1],
        "org_name=a",
    );
    assert_eq!(response.status, 415);
    let long = format!("{{\"org_name\":\"{}\"}}", "a".repeat(70_000));
    let response = request(&admin.address, "POST", "/admin/orgs", &fields, &long);
    assert_eq!(response.status, 413);
    let mut stream = connect(&admin.address);
    let head = format!(
        "HEAD /admin/orgs HTTP/1.1\r\nHost: localhost\r\nX-Admin-Key: {ADMIN_KEY}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\n"));
}

#[test]
fn lists_are_paged() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    for name in ["a", "b", "c", "d", "e"] {
        let org = kg.admin().create_org(name).unwrap();
        kg.admin()
            .create_key(keyguard::CreateKey::new(&org.name, "k"))
            .unwrap();
    }
    for (mut target, cursor) in [
        ("/admin/orgs?limit=2".to_owned(), "after"),
        ("/admin/keys?limit=2".to_owned(), "after"),
        ("/admin/audit?limit=4".to_owned(), "before"),
    ] {
        let path = target.split('?').next().unwrap().to_owned();
        let mut seen = Vec::new();
        loop {
            let response = admin.fetch("GET", &target, Value::Null);
            let rows = json_of(&response);
            seen.extend(
                rows.as_array()
                    .unwrap()
                    .iter()
                    .map(|row| row["id"].as_u64().unwrap()),
            );
            if !response.has("link") {
                break;
            }
            let link = response.field("link");
            assert!(
                link.ends_with("; rel=\"next\"") && link.contains(cursor),
                "{link}"
            );
            let query = link.split(['<', '>']).nth(1).unwrap();
            target = format!("{path}{query}");
        }
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), seen.len(), "{path}");
        assert_eq!(
            seen.len(),
            if cursor == "before" { 10 } else { 5 },
            "{path}"
        );
    }
}

#[test]
fn change_with_an_idempotency_key_is_made_once() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    admin.fetch("POST", "/admin/orgs", json!({"org_name": "acme"}));
    let key = json!({"org_name": "acme", "label": "shop"});
    let once = [("Idempotency-Key", "7f1c")];
    let first = admin.fetch_with("POST", "/admin/keys", &once, key.clone());
    assert_eq!(first.status, 201);
    let again = admin.fetch_with("POST", "/admin/keys", &once, key.clone());
    assert_eq!((again.status, &json_of(&again)["id"]), (409, &json!(1)));
    assert!(!again.body.contains("raw_key") && !again.body.contains("kg_live_"));
    let other = json!({"org_name": "acme", "label": "other"});
    let misused = admin.fetch_with("POST", "/admin/keys", &once, other);
    assert_eq!(misused.status, 422);
    assert_eq!(json_of(&misused)["field"], "Idempotency-Key");
    assert_eq!(admin.get("/admin/keys").as_array().unwrap().len(), 1);
    let another = [("Idempotency-Key", "7f1d")];
    assert_eq!(
        admin
            .fetch_with("POST", "/admin/keys", &another, key.clone())
            .status,
        201
    );
    // A rotation creates a key, too.
    let once = [("Idempotency-Key", "rotate-1")];
    let rotation = |fields: &[(&str, &str)]| {
        admin.fetch_with(
            "POST",
            "/admin/keys/1/rotate",
            fields,
            json!({"grace": "0"}),
        )
    };
    let rotated = rotation(&once);
    let text = json_of(&rotated)["raw_key"].as_str().unwrap().to_owned();
    assert_eq!(rotation(&once).status, 409);
    assert!(check_with(&kg, &text).is_ok());
    home.clock.advance(Duration::from_secs(86_400));
    assert_eq!(rotation(&once).status, 201);
    for bad in ["", "a b", &"x".repeat(256)] {
        let response = admin.fetch_with(
            "POST",
            "/admin/keys",
            &[("Idempotency-Key", bad)],
            key.clone(),
        );
        assert_eq!(response.status, 422, "{bad}");
    }
}

#[test]
fn admin_key_is_required() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    let status = |fields: &[(&str, &str)]| get(&admin.address, "/admin/stats", fields).status;
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("X-Admin-Key", "wrong")]), 401);
    assert_eq!(status(&[("X-Admin-Key", crate::common::SECRET)]), 401);
    assert_eq!(status(&[("X-Admin-Key", &ADMIN_KEY[1..])]), 401);
    assert_eq!(
        status(&[("X-Admin-Key", ADMIN_KEY), ("X-Admin-Key", ADMIN_KEY)]),
        401
    );
    assert_eq!(status(&[("X-Admin-Key", ADMIN_KEY)]), 200);
    // A client without the key cannot even find out which paths exist.
    assert_eq!(get(&admin.address, "/admin/nothing", &[]).status, 401);
    assert_eq!(get(&admin.address, "/openapi.json", &[]).status, 200);
}

#[test]
fn default_admin_key_is_derived_from_the_secret() {
    let home = Home::new();
    let kg = home.open();
    let admin = Admin::new(&kg);
    let status = |key: &str| get(&admin.address, "/admin/stats", &[("X-Admin-Key", key)]).status;
    assert_eq!(status(crate::common::SECRET), 401);
    assert_eq!(status(ADMIN_KEY), 401);
    let derived = blake3::derive_key(
        "keyguard 2026-11-24 admin key v1",
        crate::common::SECRET.as_bytes(),
    );
    use base64::Engine;
    let derived = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(derived);
    assert_eq!(status(&format!("kg_admin_{derived}")), 200);
    drop((admin, kg));
    let kg = home.open_with(home.config().secret_as_admin_key(true));
    let admin = Admin::new(&kg);
    let status = |key: &str| get(&admin.address, "/admin/stats", &[("X-Admin-Key", key)]).status;
    assert_eq!(status(crate::common::SECRET), 200);
    assert_eq!(status("x"), 401);
}

#[test]
fn wrong_admin_keys_lock_the_address_but_never_the_local_socket() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    let fetch =
        |admin: &Admin, key: &str| get(&admin.address, "/admin/stats", &[("X-Admin-Key", key)]);
    let is_warned = || {
        let warnings = kg.admin().stats().unwrap().warnings;
        let problem = "many requests had a wrong admin key";
        warnings.iter().any(|warning| warning.starts_with(problem))
    };
    for _ in 0..10 {
        assert!(!is_warned());
        assert_eq!(fetch(&admin, "wrong").status, 401);
    }
    assert!(is_warned());
    // A missing key is not a guess.
    assert_eq!(get(&admin.address, "/admin/stats", &[]).status, 401);
    let limited = fetch(&admin, "wrong");
    assert_eq!((limited.status, limited.field("retry-after")), (429, "900"));
    let locked = fetch(&admin, ADMIN_KEY);
    assert_eq!((locked.status, locked.field("retry-after")), (403, "900"));
    home.clock.advance(Duration::from_secs(899));
    assert_eq!(fetch(&admin, ADMIN_KEY).status, 403);
    home.clock.advance(Duration::from_secs(1));
    assert_eq!(fetch(&admin, ADMIN_KEY).status, 200);
    // The lock applies to the admin API only.
    let key = crate::common::key(&kg);
    let fields = [("X-API-Key", key.raw_key.expose())];
    assert!(kg.check(&fields, crate::common::IP, "/").is_ok());

    let local = Admin::with(AdminService::new(kg.clone()), |_| ClientIp::LOCAL);
    for _ in 0..50 {
        assert_eq!(fetch(&local, "wrong").status, 401);
    }
    assert_eq!(fetch(&local, ADMIN_KEY).status, 200);
}

#[test]
fn other_hosts_and_origins_are_refused() {
    let home = Home::new();
    let kg = open(&home);
    let service = AdminService::new(kg.clone()).hosts(["admin.example.com"]);
    let admin = Admin::with(service, |peer| peer.into());
    let status = |fields: &[(&str, &str)]| {
        let fields = [&[("X-Admin-Key", ADMIN_KEY)], fields].concat();
        get(&admin.address, "/admin/stats", &fields).status
    };
    for own in [
        "localhost",
        "localhost:8080",
        "127.0.0.1",
        "[::1]:8080",
        "admin.example.com",
        "ADMIN.example.com:443",
    ] {
        assert_eq!(status(&[("Host", own)]), 200, "{own}");
    }
    for foreign in [
        "evil.example",
        "admin.example.com.evil.example",
        "localhost.evil.example",
        "localhost/evil",
        "user@localhost",
        "",
        "127.0.0.1.evil.example",
    ] {
        assert!(
            [400, 403].contains(&status(&[("Host", foreign)])),
            "{foreign}"
        );
    }
    let of = |origin| status(&[("Host", "localhost:8080"), ("Origin", origin)]);
    assert_eq!(of("http://localhost:8080"), 200);
    for foreign in [
        "http://localhost:8081",
        "https://evil.example",
        "null",
        "localhost:8080",
    ] {
        assert_eq!(of(foreign), 403, "{foreign}");
    }
}

#[test]
fn dashboard_is_files_of_its_own_without_data() {
    let home = Home::new();
    let kg = open(&home);
    kg.admin().create_org("customer").unwrap();
    let admin = Admin::with(AdminService::new(kg.clone()).prefix("/internal/"), |p| {
        p.into()
    });
    let fetch = |target: &str| get(&admin.address, &format!("/internal/admin/ui{target}"), &[]);
    assert_eq!(get(&admin.address, "/admin/ui/", &[]).status, 404);
    let moved = fetch("");
    assert_eq!((moved.status, moved.field("location")), (308, "ui/"));
    let page = fetch("/");
    assert_eq!(page.status, 200);
    assert!(page.field("content-type").starts_with("text/html"));
    assert_eq!(page.field("x-content-type-options"), "nosniff");
    assert_eq!(page.field("referrer-policy"), "no-referrer");
    let policy = page.field("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    // The page loads files, and they load others, all from beside it.
    let mut files = vec![page.body.clone()];
    let mut names = std::collections::BTreeSet::new();
    while let Some(text) = files.pop() {
        let parts = text.split('"').map(|part| part.trim_start_matches("./"));
        for name in parts.filter(|part| part.ends_with(".js") || part.ends_with(".css")) {
            if names.insert(name.to_owned()) {
                let file = fetch(&format!("/{name}"));
                assert_eq!(file.status, 200, "{name}");
                assert!(file.has("content-security-policy"), "{name}");
                files.push(file.body);
            }
        }
    }
    assert!(names.len() >= 15, "{names:?}");
    assert!(fetch("/uPlot.license.txt").body.contains("MIT License"));

    let etag = page.field("etag");
    let again = get(
        &admin.address,
        "/internal/admin/ui/",
        &[("If-None-Match", etag)],
    );
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    for (method, target, status) in [
        ("POST", "/internal/admin/ui/", 405),
        ("GET", "/internal/admin/ui/none", 404),
        ("GET", "/internal/admin/uiother", 401),
    ] {
        let response = request(&admin.address, method, target, &[], "");
        assert_eq!(response.status, status, "{method} {target}");
    }
    let foreign = [("Host", "evil.example")];
    assert_eq!(
        get(&admin.address, "/internal/admin/ui/", &foreign).status,
        403
    );
}

#[cfg(feature = "openapi")]
#[test]
fn pages_load_nothing_from_other_origins() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::with(AdminService::new(kg.clone()).prefix("/internal/"), |p| {
        p.into()
    });
    assert_eq!(get(&admin.address, "/docs/", &[]).status, 404);
    let moved = get(&admin.address, "/internal/docs", &[]);
    assert_eq!((moved.status, moved.field("location")), (308, "docs/"));
    let page = get(&admin.address, "/internal/docs/", &[]);
    assert_eq!(page.status, 200);
    let policy = page.field("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(!page.body.contains("http://") && !page.body.contains("https://"));
    let mut files = 0;
    for part in page.body.split('"') {
        if part.ends_with(".js") || part.ends_with(".css") {
            let target = format!("/internal/docs/{}", part.trim_start_matches("./"));
            let file = get(&admin.address, &target, &[]);
            assert_eq!(file.status, 200, "{target}");
            files += 1;
        }
    }
    assert!(files >= 4, "{files}");
    let script = get(&admin.address, "/internal/docs/swagger-initializer.js", &[]);
    assert!(script.body.contains("../openapi.json"));
    // The content security policy forbids inline scripts and styles.
    assert!(!page.body.contains("<script>") && !page.body.contains("<style>"));
    assert_eq!(get(&admin.address, "/internal/docs/none", &[]).status, 404);
}

#[cfg(feature = "openapi")]
#[test]
fn static_files_are_cached_by_clients() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    let mut tags = Vec::new();
    for target in [
        "/openapi.json",
        "/docs/",
        "/docs/swagger-ui.css",
        "/docs/swagger-initializer.js",
    ] {
        let whole = get(&admin.address, target, &[]);
        assert_eq!(
            (whole.status, whole.field("cache-control")),
            (200, "no-cache")
        );
        let etag = whole.field("etag");
        let kept = get(&admin.address, target, &[("If-None-Match", etag)]);
        assert_eq!((kept.status, kept.body.as_str()), (304, ""), "{target}");
        assert_eq!(kept.field("etag"), etag);
        let other = get(&admin.address, target, &[("If-None-Match", "\"other\"")]);
        assert_eq!((other.status, &other.body), (200, &whole.body));
        tags.push(etag.to_owned());
    }
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), 4);
    // Responses to requests with the admin key are not cached.
    let stats = get(
        &admin.address,
        "/admin/stats",
        &[("X-Admin-Key", ADMIN_KEY)],
    );
    assert_eq!(stats.field("cache-control"), "no-store");
    assert!(!stats.has("etag"));
}

#[cfg(feature = "openapi")]
#[test]
fn openapi_document_describes_the_service() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    let response = get(&admin.address, "/openapi.json", &[]);
    let document: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = 0;
    each_reference(&document, &mut |target| {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(
            document.pointer(pointer).is_some(),
            "{target} leads nowhere"
        );
        references += 1;
    });
    assert!(references > 50, "{references}");
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            // The path exists; at most a key, a body or a row is missing.
            let target = path.replace("{id}", "4711");
            let response = admin.fetch(&method.to_uppercase(), &target, json!({}));
            let is_there = match response.status {
                404 => !json_of(&response)["detail"]
                    .as_str()
                    .unwrap()
                    .contains("openapi"),
                405 => false,
                _ => true,
            };
            assert!(is_there, "{method} {path}: {}", response.body);
            let documented = &operations[method]["responses"][response.status.to_string()];
            assert!(
                documented.is_object(),
                "{method} {path}: {}",
                response.status
            );
        }
    }
}

#[cfg(feature = "openapi")]
#[test]
fn operations_have_tags_that_the_document_describes() {
    let home = Home::new();
    let kg = open(&home);
    let document = Admin::new(&kg).get("/openapi.json");
    let tags = document["tags"].as_array().unwrap();
    let mut described: Vec<&Value> = tags.iter().map(|tag| &tag["name"]).collect();
    let mut used = Vec::new();
    for operations in document["paths"].as_object().unwrap().values() {
        for operation in operations.as_object().unwrap().values() {
            let tags = operation["tags"].as_array().unwrap();
            assert_eq!(tags.len(), 1, "{operation}");
            used.push(&tags[0]);
        }
    }
    described.sort_by_key(|name| name.as_str());
    used.sort_by_key(|name| name.as_str());
    used.dedup();
    assert_eq!(used, described);
}

/// Swagger UI sends the examples if nothing else is typed.
#[cfg(feature = "openapi")]
#[test]
fn examples_of_the_document_are_accepted() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    let document = admin.get("/openapi.json");
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push((path, method, operation));
        }
    }
    // What is created first is there for the others; the key is revoked last.
    operations.sort_by_key(|(path, method, _)| {
        let methods = ["post", "patch", "get", "delete"];
        let step = methods.iter().position(|known| known == method);
        let created = ["/admin/orgs", "/admin/keys"].map(|first| *path != first);
        (step, created, std::cmp::Reverse(path.len()))
    });
    let mut bodies = 0;
    for (path, method, operation) in operations {
        // There is no policy file, and the sidecar decides elsewhere.
        if path == "/admin/reload" || path == "/v1/check" {
            continue;
        }
        let mut query = Vec::new();
        for field in operation["parameters"].as_array().unwrap() {
            let example = &field["example"];
            match field["in"].as_str() {
                Some("query") if !example.is_null() => {
                    query.push(format!(
                        "{}={}",
                        field["name"].as_str().unwrap(),
                        example.as_str().unwrap()
                    ));
                }
                Some("path") => assert_eq!(*example, 1),
                _ => {}
            }
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let body = match schema["$ref"].as_str() {
            Some(name) => example_of(document.pointer(&name[1..]).unwrap()),
            None => Value::Null,
        };
        bodies += usize::from(!body.is_null());
        let target = format!("{}?{}", path.replace("{id}", "1"), query.join("&"));
        let response = admin.fetch(&method.to_uppercase(), &target, body.clone());
        let is_success = (200..300).contains(&response.status);
        assert!(is_success, "{method} {target} {body}: {}", response.body);
    }
    assert!(bodies >= 9, "{bodies}");
}

/// The example of an object, or those of its fields.
#[cfg(feature = "openapi")]
fn example_of(schema: &Value) -> Value {
    if !schema["example"].is_null() {
        return schema["example"].clone();
    }
    let fields = schema["properties"].as_object().unwrap().iter();
    let fields = fields.map(|(name, field)| {
        let example = field["example"].clone();
        assert!(!example.is_null(), "{name} has no example");
        (name.clone(), example)
    });
    fields.collect::<serde_json::Map<_, _>>().into()
}

#[cfg(feature = "openapi")]
fn each_reference(value: &Value, look: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => look(target),
                    value => each_reference(value, look),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_reference(item, look)),
        _ => {}
    }
}

#[test]
fn revocation_applies_to_the_next_request_under_load() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    kg.admin().create_org("acme").unwrap();
    for round in 1..=20 {
        let key = crate::common::key_limited_to(&kg, 1_000_000);
        let text = key.raw_key.expose();
        let (stop, revoked) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let load = || {
                let (mut admitted, mut late) = (0, 0);
                while !stop.load(Ordering::Acquire) {
                    let was_revoked = revoked.load(Ordering::Acquire);
                    if check_with(&kg, text).is_ok() {
                        admitted += 1;
                        late += usize::from(was_revoked);
                    }
                }
                (admitted, late)
            };
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(load)).collect();
            while kg.admin().stats().unwrap().requests == 0 {}
            let id = key.key.id;
            let response = admin.fetch("DELETE", &format!("/admin/keys/{id}"), Value::Null);
            assert_eq!(response.status, 200);
            revoked.store(true, Ordering::Release);
            assert_eq!(check_with(&kg, text).unwrap_err().status(), 401);
            stop.store(true, Ordering::Release);
            for thread in threads {
                let (admitted, late) = thread.join().unwrap();
                assert_eq!(late, 0, "round {round}, {admitted} admitted");
            }
        });
    }
    assert!(!kg.admin().get_key(KeyId(20)).unwrap().is_active());
}

#[test]
fn global_lock_covers_the_admin_service() {
    let home = Home::new();
    let kg = open(&home);
    let admin = Admin::new(&kg);
    let day: LockDuration = "24 hours".parse().unwrap();
    kg.admin()
        .block("127.0.0.1".parse::<ClientIp>().unwrap(), None, day)
        .unwrap();
    assert_eq!(admin.fetch("GET", "/admin/stats", Value::Null).status, 403);
}
