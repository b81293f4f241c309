//! The dashboard and Swagger UI in Chromium.
//!
//! `KEYGUARD_SCREENSHOTS=DIR cargo test --all-features --test serve dashboard` writes pictures of the dashboard
//! to a directory; those of the README are in `.github/images`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::browser::{Browser, ENTER, ESCAPE, TAB};
use crate::common::Random;
use crate::common::server::{Server, check, get, request};
use crate::server::{ADMIN_KEY, data_file, serve, stats_of};
use keyguard::{ClientIp, Config, CreateKey, KeyGuard, LockDuration, ManualClock, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

const VIEWS: [&str; 6] = ["overview", "keys", "key/1", "orgs", "locks", "audit"];

#[test]
fn administrator_creates_uses_and_revokes_a_key() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let server = serve(dir.path(), &[]);
    let browser = Browser::start();
    browser.open(&format!("http://{}/admin/ui", server.address));

    browser.enter("#admin-key", "wrong");
    browser.type_keys(ENTER);
    browser.wait_for_text("Invalid admin key.");
    // The console has the refused request, and nothing else.
    let refused = browser.messages();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("401"), "{refused:?}");
    sign_in(&browser);

    browser.press("Keys");
    browser.press("Create key");
    browser.enter("#field-label", "<b>web</b> shop");
    browser.enter("#field-limits", "ten per second");
    browser.type_keys(TAB);
    browser.press_in_dialog("Create key");
    // Invalid fields are named by the service, and marked.
    browser.wait_for("document.querySelector('#field-limits[aria-invalid=true]')");
    assert!(
        browser
            .messages()
            .iter()
            .all(|message| message.contains("422"))
    );
    browser.enter("#field-limits", "10/s");
    browser.press_in_dialog("Create key");
    browser.wait_for("document.querySelector('#key-text')");
    let key = browser.run("return document.querySelector('#key-text').value");
    browser.press("I have copied it");
    // Names are shown as text, not as markup.
    browser.press("<b>web</b> shop");
    browser.wait_for_text("10 of 10");
    assert_eq!(
        browser.run("return document.querySelector('main b')"),
        Value::Null
    );

    browser.press("Overview");
    browser.wait_for_text("Requests appear here while this view is open.");
    let body = json!({ "key": key, "ip": "192.0.2.7", "path": "/orders/7", "method": "GET" });
    assert_eq!(check(&server, &body).1["allowed"], true);
    browser.press("Refresh");
    browser.wait_for_text("GET /orders/7");
    browser.wait_for_text("Admitted");

    browser.press("<b>web</b> shop");
    browser.wait_for_text("59 of 60");
    browser.press("Revoke");
    browser.press_in_dialog("Revoke");
    browser.wait_for_text("revoked");
    browser.press("Overview");
    browser.wait_for_text("Requests appear here while this view is open.");
    let (_, verdict) = check(&server, &body);
    assert_eq!(verdict["reason"], "revoked_key");
    browser.press("Refresh");
    browser.wait_for_text("Revoked key");

    browser.press("Sign out");
    browser.wait_for("document.querySelector('#admin-key')");
    assert_eq!(
        browser.run("return sessionStorage.length + localStorage.length"),
        0
    );
    assert_eq!(browser.messages(), [""; 0]);
}

/// Fields that were changed elsewhere meanwhile are not set back.
#[test]
fn a_change_has_only_the_edited_fields() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let (server, browser) = signed_in(dir.path());
    go_to(&browser, "keys");
    browser.press("shop");
    browser.press("Change");
    browser.wait_for("document.querySelector('#field-scopes')");
    let fields = [
        ("X-Admin-Key", ADMIN_KEY),
        ("Content-Type", "application/json"),
    ];
    let elsewhere = r#"{"label": "till", "rate_limit_per_minute": 7}"#;
    let changed = request(
        &server.address,
        "PATCH",
        "/admin/keys/1",
        &fields,
        elsewhere,
    );
    assert_eq!(changed.status, 200, "{}", changed.body);
    browser.enter("#field-scopes", "write");
    browser.press_in_dialog("Save");
    browser.wait_for("!document.querySelector('dialog')");
    let key: Value =
        serde_json::from_str(&get(&server.address, "/admin/keys/1", &fields).body).unwrap();
    assert_eq!(
        [&key["scopes"], &key["label"], &key["rate_limit_per_minute"]],
        [&json!(["write"]), &json!("till"), &json!(7)]
    );
    assert_eq!(browser.messages(), [""; 0]);
}

#[test]
fn administrator_suspends_rotates_overrides_and_unlocks() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    kg.admin().create_org("acme").unwrap();
    // Credits, since nothing then depends on the time.
    let key = CreateKey::new("acme", "shop").limits(["2 credits"]);
    let key = kg.admin().create_key(key).unwrap();
    let soon = SystemTime::now() + Duration::from_secs(3 * 86_400);
    let expiring = CreateKey::new("acme", "till").expires_at(Timestamp::from(soon));
    kg.admin().create_key(expiring).unwrap();
    let day: LockDuration = "7d".parse().unwrap();
    let locked: ClientIp = "198.51.100.23".parse().unwrap();
    kg.admin().block(locked, None, day).unwrap();
    kg.close().unwrap();
    // The server makes it private, and warns.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let server = serve(dir.path(), &[]);
    let reason = |key: &str, ip: &str| {
        let body = json!({ "key": key, "ip": ip, "path": "/" });
        check(&server, &body).1["reason"].clone()
    };
    let old = key.raw_key.expose();
    let client = "192.0.2.7";
    let browser = Browser::start();
    browser.open(&format!("http://{}/admin/ui/", server.address));
    sign_in(&browser);
    let warnings = &stats_of(&server)["warnings"];
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    browser.wait_for_text(warnings[0].as_str().unwrap());
    browser.wait_for_text("key 2 `till` expires at");

    // The service searches.
    browser.press("Keys");
    browser.enter("input[type=search]", "no such key");
    browser.wait_for_text("No keys.");
    browser.enter("input[type=search]", "SHO");
    browser.press("shop");
    let badge = |status: &str| {
        let has_status = format!("badge => badge.innerText === '{status}'");
        browser.wait_for(&format!(
            "[...document.querySelectorAll('.badge')].some({has_status})"
        ));
    };
    browser.press("Suspend");
    browser.press_in_dialog("Suspend");
    badge("suspended");
    assert_eq!(reason(old, client), "suspended_key");
    browser.press("Resume");
    badge("active");
    assert_eq!(reason(old, client), Value::Null);

    browser.press("Rotate");
    browser.enter("#field-grace", "0");
    browser.press_in_dialog("Rotate");
    browser.wait_for("document.querySelector('#key-text')");
    let new = browser.run("return document.querySelector('#key-text').value");
    let new = new.as_str().unwrap();
    browser.press("I have copied it");
    assert_eq!(reason(old, client), "expired_key");
    assert_eq!(reason(new, client), Value::Null);

    let click = |label: &str| {
        let button = format!("document.querySelector('[aria-label=\"{label}\"]')");
        browser.wait_for(&button);
        browser.run(&format!("{button}.click()"));
    };
    assert_eq!(reason(new, client), "credits_exhausted");
    click("Override credits");
    browser.press_in_dialog("Override");
    browser.wait_for("document.querySelector('[aria-label=\"Restore credits\"]')");
    assert_eq!(reason(new, client), Value::Null);
    click("Restore credits");
    browser.wait_for("document.querySelector('[aria-label=\"Override credits\"]')");
    assert_eq!(reason(new, client), "credits_exhausted");

    let locked = locked.to_string();
    assert_eq!(reason(new, &locked), "ip_locked");
    browser.press("Locks");
    browser.press("Unlock");
    browser.press_in_dialog("Unlock");
    browser.wait_for_text("No address is locked out.");
    assert_eq!(reason(new, &locked), "credits_exhausted");
    assert_eq!(browser.messages(), [""; 0]);
}

#[test]
fn views_fit_every_screen_and_have_enough_contrast() {
    let dir = TempDir::new().unwrap();
    busy_data_file(dir.path());
    let (server, browser) = signed_in(dir.path());
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        for width in [360, 768, 1_920] {
            browser.resize(width, 900);
            for view in VIEWS {
                go_to(&browser, view);
                let name = format!("{view}, {width} px, {scheme}");
                let overflow = "return document.documentElement.scrollWidth - innerWidth";
                assert!(browser.run(overflow).as_f64().unwrap() <= 0.0, "{name}");
                assert_eq!(browser.run(LOW_CONTRAST), json!([]), "{name}");
            }
        }
    }
    browser.press("Sign out");
    browser.wait_for("document.querySelector('#admin-key')");
    assert_eq!(browser.run(LOW_CONTRAST), json!([]));
    assert_eq!(browser.messages(), [""; 0]);
    if let Some(dir) = std::env::var_os("KEYGUARD_SCREENSHOTS") {
        sign_in(&browser);
        take_pictures(&browser, &server, &PathBuf::from(dir));
    }
}

#[test]
fn dashboard_needs_no_mouse() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let (_server, browser) = signed_in(dir.path());
    let focused = "return document.activeElement.innerText.trim()";
    let tab_to = |text: &str| {
        for _ in 0..60 {
            if browser.run(focused) == text {
                return;
            }
            browser.type_keys(TAB);
        }
        panic!("no focus on {text}");
    };
    browser.run("document.activeElement.blur()");
    tab_to("Skip to the content");
    tab_to("Organizations");
    browser.type_keys(ENTER);
    browser.wait_for("document.activeElement.innerText === 'Organizations'");
    tab_to("Suspend");
    browser.type_keys(ENTER);
    browser.wait_for("document.querySelector('dialog:modal')");
    // The focus stays in the dialog, and returns when it closes.
    browser.type_keys(ESCAPE);
    browser.wait_for("!document.querySelector('dialog')");
    assert_eq!(browser.run(focused), "Suspend");
    browser.type_keys(ENTER);
    browser.wait_for("document.querySelector('dialog:modal')");
    tab_to("Suspend");
    browser.type_keys(ENTER);
    browser.wait_for_text("suspended");
    assert_eq!(browser.messages(), [""; 0]);
}

#[test]
fn swagger_ui_shows_its_logo_and_sends_its_examples() {
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    drop(kg);
    let server = serve(dir.path(), &[]);
    let browser = Browser::start();
    browser.open(&format!("http://{}/docs/", server.address));
    browser.wait_for("document.querySelector('.opblock')");
    let logo = "const logo = document.querySelector('.topbar img');
        return [logo.alt, logo.complete && logo.naturalWidth > 0 && logo.checkVisibility()]";
    assert_eq!(browser.run(logo), json!(["KeyGuard", true]));
    let tags = "return [...document.querySelectorAll('.opblock-tag')].map(tag => tag.dataset.tag)";
    let expected = [
        "Organizations",
        "Keys",
        "Limits",
        "Addresses",
        "Usage",
        "Decisions",
        "Service",
    ];
    assert_eq!(browser.run(tags), json!(expected));

    browser.run(&format!(
        "ui.preauthorizeApiKey('adminKey', {})",
        json!(ADMIN_KEY)
    ));
    for operation in [
        "createOrg",
        "createKey",
        "updateKey",
        "getUsage",
        "block",
        "check",
    ] {
        let block = format!("document.querySelector('[id$=\"-{operation}\"]')");
        let click = |selector: &str| {
            browser.wait_for(&format!("{block}.querySelector('{selector}')"));
            browser.run(&format!("{block}.querySelector('{selector}').click()"));
        };
        click(".opblock-summary-control");
        click(".try-out__btn");
        click(".execute");
        let status = format!(
            "{block}.querySelector('.live-responses-table .response .response-col_status')"
        );
        browser.wait_for(&status);
        let status = browser.run(&format!("return {status}.innerText.trim().slice(0, 3)"));
        assert!(
            ["200", "201"].contains(&status.as_str().unwrap()),
            "{operation}: {status}"
        );
    }
    assert_eq!(browser.messages(), [""; 0]);
}

/// A server, and its dashboard in a browser.
fn signed_in(dir: &Path) -> (Server, Browser) {
    let server = serve(dir, &[]);
    let browser = Browser::start();
    browser.open(&format!("http://{}/admin/ui/", server.address));
    sign_in(&browser);
    (server, browser)
}

fn sign_in(browser: &Browser) {
    browser.enter("#admin-key", ADMIN_KEY);
    browser.type_keys(ENTER);
    browser.wait_for("document.querySelector('#sign-out').checkVisibility()");
}

/// Shows a view, and waits for its data.
fn go_to(browser: &Browser, view: &str) {
    browser.run(&format!("location.hash = {}", json!(view)));
    let shown = match view {
        "overview" => "document.querySelector('.tile') && document.querySelector('.canvas canvas')",
        "key/1" => {
            "document.querySelector('main tbody tr') && document.querySelector('.canvas canvas')"
        }
        _ => "document.querySelector('main tbody tr')",
    };
    browser.wait_for(&format!("location.hash === '#{view}' && {shown}"));
}

/// Texts with less contrast than WCAG 2.2 asks for at level AA.
const LOW_CONTRAST: &str = r"
    const colorOf = (text) => text.match(/[\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = color.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const background = (element) => {
        for (; element; element = element.parentElement) {
            const [r, g, b, alpha = 1] = colorOf(getComputedStyle(element).backgroundColor);
            if (alpha === 1) return [r, g, b];
        }
        throw new Error('no background');
    };
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let count = 0;
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
        if (element.closest('.hidden, noscript')) continue;
        count += 1;
        const style = getComputedStyle(element);
        const [one, other] = [colorOf(style.color).slice(0, 3), background(element)].map(luminance);
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        if (ratio < (large ? 3 : 4.5)) found.push(`${texts.currentNode.data}: ${ratio.toFixed(2)}`);
    }
    if (count < 5) found.push(`only ${count} texts`);
    return found;
";

/// Creates a data file with an hour of traffic, refusals and locks.
fn busy_data_file(dir: &Path) {
    const KEYS: [(&str, &str, u32); 6] = [
        ("acme", "web shop", 600),
        ("acme", "warehouse", 120),
        ("acme", "till", 60),
        ("Northwind", "mobile app", 300),
        ("Northwind", "partner feed", 6),
        ("Blue Harbour", "reports", 60),
    ];
    const PATHS: [&str; 5] = [
        "/orders",
        "/orders/{id}",
        "/items",
        "/customers/7",
        "/v1/search",
    ];

    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let clock = ManualClock::starting_at(Timestamp::from_unix_millis(now - 3_600_000));
    let config = Config::default().clock(clock.clone());
    let kg = KeyGuard::open(dir.join("keyguard.redb"), config).unwrap();
    let admin = kg.admin();
    for name in ["acme", "Northwind", "Blue Harbour"] {
        admin.create_org(name).unwrap();
    }
    let keys = KEYS.map(|(org, label, per_minute)| {
        let key = CreateKey::new(org, label)
            .rate_limit_per_minute(per_minute)
            .limits(["50000 monthly", "8 concurrent"])
            .scopes(["orders:read", "items:read"]);
        admin.create_key(key).unwrap()
    });
    let mut random = Random(19);
    for minute in 0..58 {
        for (index, key) in keys.iter().enumerate() {
            for _ in 0..random.below(3 + 24 / (index as u64 + 1)) + minute / 12 {
                let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10 + index as u8));
                let headers = [("X-API-Key", key.raw_key.expose())];
                if let Ok(grant) = kg.check(&headers, ip, random.pick(&PATHS)) {
                    grant.finish(random.pick(&[200, 200, 200, 200, 200, 201, 404, 200, 500, 200]));
                }
            }
        }
        if minute > 40 {
            let guess = [("X-API-Key", "kg_live_guessed")];
            for _ in 0..8 {
                let _ = kg.check(&guess, Ipv4Addr::new(203, 0, 113, 9), "/orders");
            }
        }
        clock.advance(Duration::from_secs(60));
    }
    let day: LockDuration = "7d".parse().unwrap();
    let ip: ClientIp = "198.51.100.23".parse().unwrap();
    admin.block(ip, Some("/v1/search"), day).unwrap();
    kg.close().unwrap();
}

/// Writes pictures of the views for the documentation.
fn take_pictures(browser: &Browser, server: &Server, dir: &Path) {
    browser.resize(1_280, 860);
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        go_to(browser, "locks");
        go_to(browser, "overview");
        browser.wait_for_text("Requests appear here while this view is open.");
        for path in ["/orders", "/items?page=2", "/v1/search"] {
            check(
                server,
                &json!({ "ip": "192.0.2.7", "path": path, "method": "GET" }),
            );
        }
        browser.press("Refresh");
        browser.wait_for_text("Missing key");
        fs::write(
            dir.join(format!("overview-{scheme}.png")),
            browser.screenshot(),
        )
        .unwrap();
    }
    for view in VIEWS {
        for (width, scheme) in [(360, "dark"), (1_280, "light")] {
            browser.prefer(scheme);
            browser.resize(width, 860);
            go_to(browser, view);
            let name = format!("{}-{width}.png", view.replace('/', "-"));
            fs::write(dir.join(name), browser.screenshot()).unwrap();
        }
    }
}
