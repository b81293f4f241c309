//! `keyguard demo` in a terminal.
//!
//! `KEYGUARD_SCREENSHOTS=DIR cargo test --all-features --test serve terminal` writes a picture of it to a
//! directory; that of the README is in `.github/images`.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::browser::Browser;
use crate::common::program::{done, keyguard};
use crate::common::server::get;
use crate::common::wait_until;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;
use tempfile::TempDir;

const CLEAR: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

/// What a program has written to its terminal so far.
#[derive(Clone, Default)]
struct Terminal(Arc<Mutex<Vec<u8>>>);

impl Terminal {
    /// A terminal of 100 columns, and the end of it that a program writes to.
    fn open() -> (Self, File) {
        let size = Winsize {
            ws_row: 40,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&ours).unwrap();
        let path = ptsname(&ours, Vec::new()).unwrap();
        let theirs = open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcsetwinsize(&theirs, size).unwrap();
        let terminal = Self::default();
        let written = terminal.clone();
        thread::spawn(move || {
            let (mut ours, mut buffer) = (File::from(ours), [0; 4096]);
            // Fails once no program has the terminal open.
            while let Ok(length) = ours.read(&mut buffer) {
                written.0.lock().unwrap().extend(&buffer[..length]);
            }
        });
        (terminal, File::from(theirs))
    }

    /// The text since the screen was last cleared.
    fn screen(&self) -> String {
        let written = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&written).replace("\r\n", "\n");
        text.rsplit(CLEAR).next().unwrap().to_owned()
    }
}

#[test]
fn demo_shows_limits_and_the_latest_requests() {
    let dir = TempDir::new().unwrap();
    let (terminal, stdout) = Terminal::open();
    let mut command = keyguard(dir.path(), &["demo", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", dir.path()).stdout(stdout);
    let mut demo = command.spawn().unwrap();
    drop(command);
    let shows = |text: &str| terminal.screen().contains(text);
    let word_after = |start: &str| {
        let screen = terminal.screen();
        let rest = screen.split_once(start).unwrap().1;
        rest.split_whitespace().next().unwrap().to_owned()
    };
    wait_until(|| shows("listening on ") && shows("remaining"));
    let address = word_after("listening on ");
    let key = word_after("without a key:");

    assert_eq!(get(&address, "/", &[]).status, 401);
    wait_until(|| shows("missing_key"));
    for status in [200, 200, 200, 200, 200, 429] {
        let key = ("X-API-Key", key.as_str());
        assert_eq!(get(&address, "/orders", &[key]).status, status);
    }
    wait_until(|| shows("rate_limited"));
    assert_eq!(terminal.screen().matches("admitted").count(), 5);
    if let Some(dir) = std::env::var_os("KEYGUARD_SCREENSHOTS") {
        let picture = picture(&terminal.screen());
        fs::write(PathBuf::from(dir).join("terminal.png"), picture).unwrap();
    }
    let db = word_after("keyguard --db ");
    done(dir.path(), &["--db", &db, "revoke-key", "1"]);
    assert_eq!(get(&address, "/", &[("X-API-Key", &key)]).status, 401);
    wait_until(|| shows("revoked"));

    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(0));
}

/// The screen as PNG.
fn picture(screen: &str) -> Vec<u8> {
    let browser = Browser::start();
    browser.open("about:blank");
    let bold = screen
        .replace('<', "&lt;")
        .replace("\u{1b}[1m", "<b>")
        .replace("\u{1b}[0m", "</b>");
    let style = "margin: 0; padding: 16px; background: #14181f; color: #d7dce4; \
                 font: 14px/18px 'DejaVu Sans Mono', monospace";
    let page = format!("<pre style='margin: 0'>{}</pre>", bold.trim());
    // The padding, and 18 pixels for each line.
    let height = 32 + 18 * bold.trim().lines().count() as u32;
    browser.run(&format!(
        "document.body.style.cssText = {}; document.body.innerHTML = {};",
        json!(style),
        json!(page)
    ));
    browser.resize(960, height);
    browser.screenshot()
}
