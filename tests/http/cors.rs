//! Pages of another origin, in Chromium.

use std::process::Command;

use crate::axum::Served;
use crate::common::{Home, key_limited_to};
use axum::response::Html;
use axum::routing::get;
use rustix::process::geteuid;
use tempfile::TempDir;

// The program of the guide.
include!("cors_layers.rs");

/// A page that sends three requests, the last one without the key, and shows what it can read.
const PAGE: &str = r#"<!doctype html>
<pre id="seen"></pre>
<script>
const given = new URLSearchParams(location.search);
const names = ["retry-after", "x-ratelimit-remaining"];

async function fetched(headers) {
    try {
        const response = await fetch(given.get("api"), { headers });
        return [response.status, ...names.map(name => response.headers.get(name) ?? "-")].join(" ");
    } catch (error) {
        return error.name;
    }
}

(async () => {
    const key = { "X-API-Key": given.get("key") };
    for (const headers of [key, key, {}]) {
        document.getElementById("seen").append(await fetched(headers) + "\n");
    }
})();
</script>"#;

/// Opens a page in the browser and returns the lines that it shows.
fn seen(url: &str) -> Vec<String> {
    let profile = TempDir::new().unwrap();
    let mut browser = Command::new("chromium");
    if geteuid().is_root() {
        // Chromium's sandbox refuses root.
        browser.arg("--no-sandbox");
    }
    let output = browser
        .args(["--headless", "--disable-gpu", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        // The time of the page stands still while a request is on its way.
        .args(["--virtual-time-budget=10000", "--dump-dom", url])
        .output()
        .expect("Chromium has to be there: tests/run installs it");
    let page = String::from_utf8(output.stdout).unwrap();
    let seen = page.split_once(r#"<pre id="seen">"#).expect(&page).1;
    let (seen, _) = seen.split_once("</pre>").unwrap();
    seen.lines().map(str::to_owned).collect()
}

#[test]
fn page_of_another_origin_reads_status_and_retry_after() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_to(&kg, 1);
    let pages = Served::new(Router::new().route("/", get(|| async { Html(PAGE) })));
    let page = format!("http://{}", pages.address);
    let routes = Router::new().route("/api/data", get(|| async { "Hello!" }));
    let api = Served::new(app(routes, kg, page.parse().unwrap()));

    let (api, key) = (&api.address, key.raw_key.expose());
    let seen = seen(&format!("{page}/?api=http://{api}/api/data&key={key}"));
    assert_eq!(seen, ["200 - 0", "429 60 0", "401 - -"]);
}

#[test]
fn program_of_the_guide_is_the_tested_one() {
    let guide = include_str!("../../src/manual/middleware.md");
    let program = include_str!("cors_layers.rs");
    assert!(guide.contains(&format!("```rust\n{program}```\n")));
}
