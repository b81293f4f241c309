//! Headless Chromium, driven by the WebDriver protocol of `chromedriver`.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::common::server::request;
use crate::common::wait_until;
use base64::Engine;
use rustix::process::geteuid;
use serde_json::{Value, json};

pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";

/// A window of a new profile. Ends when dropped.
pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
    /// Kept open, so that the driver can print.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let mut driver = Command::new("chromedriver");
        let mut driver = driver
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("no `chromedriver`: `tests/run` installs it");
        let mut stdout = BufReader::new(driver.stdout.take().unwrap()).lines();
        let started = "ChromeDriver was started successfully on port ";
        let port = stdout
            .find_map(|line| Some(line.unwrap().strip_prefix(started)?.replace('.', "")))
            .expect("chromedriver ended");
        let mut browser = Self {
            driver,
            address: format!("127.0.0.1:{port}"),
            session: String::new(),
            _stdout: stdout,
        };
        let mut arguments = vec!["--headless=new", "--disable-gpu", "--disable-dev-shm-usage"];
        if geteuid().is_root() {
            // Chromium's sandbox refuses root.
            arguments.push("--no-sandbox");
        }
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let created = browser.post(
            "/session",
            &json!({ "capabilities": { "alwaysMatch": capabilities } }),
        );
        browser.session = format!("/session/{}", created["sessionId"].as_str().unwrap());
        browser
    }

    pub(crate) fn open(&self, address: &str) {
        self.command("/url", &json!({ "url": address }));
    }

    /// Runs the body of a function in the page; waits for a promise.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until the expression is true in the page.
    #[track_caller]
    pub(crate) fn wait_for(&self, expression: &str) {
        wait_until(|| self.run(&format!("return Boolean({expression})")) == true);
    }

    /// Waits until the page shows this text.
    #[track_caller]
    pub(crate) fn wait_for_text(&self, text: &str) {
        self.wait_for(&format!(
            "document.body.innerText.includes({})",
            json!(text)
        ));
    }

    /// Clicks the only visible button or link with this text.
    #[track_caller]
    pub(crate) fn press(&self, text: &str) {
        let script = format!(
            "const found = [...document.querySelectorAll('dialog, body')].slice(-1)[0]
                 .querySelectorAll('button, a, summary');
             return [...found].filter(e => e.checkVisibility() && e.innerText.trim() === {});",
            json!(text)
        );
        // The page may replace an element after it is found.
        wait_until(|| match self.run(&script).as_array().unwrap().as_slice() {
            [found] => {
                let path = format!("{}/element/{}/click", self.session, id(found));
                self.try_post(&path, &json!({})).is_ok()
            }
            _ => false,
        });
    }

    /// Like [`Browser::press`], once a dialog is open.
    #[track_caller]
    pub(crate) fn press_in_dialog(&self, text: &str) {
        self.wait_for("document.querySelector('dialog:modal')");
        self.press(text);
    }

    /// Replaces the text of a field.
    #[track_caller]
    pub(crate) fn enter(&self, selector: &str, text: &str) {
        self.wait_for(&format!("document.querySelector({})", json!(selector)));
        let found = self.run(&format!(
            "return document.querySelector({})",
            json!(selector)
        ));
        let element = format!("/element/{}", id(&found));
        self.command(&format!("{element}/clear"), &json!({}));
        self.command(&format!("{element}/value"), &json!({ "text": text }));
    }

    /// Types into the element that has the focus.
    pub(crate) fn type_keys(&self, keys: &str) {
        let focused = self.run("return document.activeElement");
        self.command(
            &format!("/element/{}/value", id(&focused)),
            &json!({ "text": keys }),
        );
    }

    /// Sets the size of the viewport.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Sets the preferred color scheme: `light` or `dark`.
    pub(crate) fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [feature] }),
        );
    }

    /// A picture of the viewport as PNG.
    pub(crate) fn screenshot(&self) -> Vec<u8> {
        let picture = self.devtools("Page.captureScreenshot", &json!({}));
        let data = picture["data"].as_str().unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(data)
            .unwrap()
    }

    /// The messages of the console since the last call: errors of scripts, refused requests, and violations
    /// of the content security policy.
    pub(crate) fn messages(&self) -> Vec<String> {
        let entries = self.command("/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().unwrap().iter();
        entries
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.command("/goog/cdp/execute", &body)
    }

    #[track_caller]
    fn command(&self, path: &str, body: &Value) -> Value {
        self.post(&format!("{}{path}", self.session), body)
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        let reply = self.try_post(path, body);
        reply.unwrap_or_else(|error| panic!("{path} {body}: {error}"))
    }

    fn try_post(&self, path: &str, body: &Value) -> Result<Value, Value> {
        let fields = [("Content-Type", "application/json; charset=utf-8")];
        let response = request(&self.address, "POST", path, &fields, &body.to_string());
        let mut reply: Value = serde_json::from_str(&response.body).unwrap();
        let value = reply["value"].take();
        match response.status {
            200 => Ok(value),
            _ => Err(value),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium and removes its profile, also after a failed assertion.
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            let end = format!(
                "DELETE {} HTTP/1.1\r\nHost: {}\r\n\r\n",
                self.session, self.address
            );
            let _ = stream.write_all(end.as_bytes());
            let _ = stream.read(&mut [0; 64]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The id of an element in a reply.
#[track_caller]
fn id(element: &Value) -> &str {
    let id = &element["element-6066-11e4-a52e-4f735466cecf"];
    id.as_str()
        .unwrap_or_else(|| panic!("no element: {element}"))
}
