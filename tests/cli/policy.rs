//! `policy`

use std::fs;

use crate::common::program::{done, error_of, keyguard, prepared, refused, run};
use tempfile::TempDir;

#[test]
fn printed_example_is_checked_and_explained() {
    let dir = TempDir::new().unwrap();
    let example = done(dir.path(), &["policy", "example"]);
    fs::write(dir.path().join("keyguard.toml"), &example).unwrap();
    assert_eq!(
        done(dir.path(), &["policy", "check", "keyguard.toml"]),
        "The policy `keyguard.toml` is valid. Routes: 3.\n"
    );
    let explained = done(dir.path(), &["policy", "explain", "keyguard.toml"]);
    for part in [
        "Keys\n  These paths and all below them need a key, and no others unless a route requires one: `/api`.\n",
        "\nRoute `orders`: POST /api/orders and all below\n  It needs a key with the scope `orders:write`.\n  \
         Each key: 10 requests in any second.\n",
        "\nRoute `login`: POST /login and all below\n  It needs no key.\n  \
         Each address, with or without a key: 3 requests in any minute.\n  \
         An address that exceeds this is locked out of the route for 5 minutes.\n",
        "\n  It is in shadow mode: its rules count and refuse nothing.\n",
    ] {
        assert!(explained.contains(part), "{part}\n{explained}");
    }
    assert!(
        !dir.path().join("keyguard.redb").exists(),
        "no data file is needed"
    );
}

#[test]
fn file_without_an_end_is_refused() {
    let dir = TempDir::new().unwrap();
    let check = keyguard(dir.path(), &["policy", "check", "/dev/zero"]);
    // So that a reader without a bound ends soon.
    let error = error_of(&mut prepared("ulimit -v 2000000", &check));
    assert!(
        error.starts_with(
            "error: invalid policy: `/dev/zero`: cannot be read: it is not a regular file"
        ),
        "{error}"
    );
}

/// The file of a secret may be named by mistake, and a line may have any length.
#[test]
fn an_error_quotes_little_of_the_file_and_no_secret() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("p.toml");
    let secret = "3f1c5a0b9d7e2846aa10";
    let long = "x".repeat(200_000);
    for (text, position) in [
        (format!("{secret}\n"), "line 1"),
        (format!("KEYGUARD_SECRET={secret}"), "line 1"),
        (
            format!("\nKEYGUARD_SECRET = \"{secret}\""),
            "line 2, column 1",
        ),
        (
            format!("protect = [\"/a\"] # {long}\nallow = \"{long}\" # {secret}"),
            "line 2, column 9",
        ),
        (format!("{long} = 1 # {secret}"), "line 1, column 1"),
        (format!("allow = [\"10.0.0.0/8\", {long}]"), "line 1"),
        (
            format!("lockout = {{ decay = \"1 day\", {long} = 1 }}"),
            "line 1",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let error = refused(dir.path(), &["policy", "check", "p.toml"]);
        assert!(error.contains(position), "{error:.3000}");
        assert!(error.len() < 3_000, "{position}: {}", error.len());
        assert!(!error.contains(secret), "{error}");
    }
    fs::write(
        &path,
        "key_limits = [\"10/s\"]\nprotect = [\"a\"] # not yet",
    )
    .unwrap();
    let error = refused(dir.path(), &["policy", "check", "p.toml"]);
    let quoted = "line 2, column 11\n  |\n2 | protect = [\"a\"]\n  |           ^^^^^\npath: ";
    assert!(error.contains(quoted), "{error}");
}

#[test]
fn rules_of_a_request_are_explained_alone() {
    let dir = TempDir::new().unwrap();
    let policy = "deny = [\"203.0.113.0/24\"]\n[[route]]\nname = \"a\"\npath = \"/a\"\nlimits = [\"1/s\"]\n\
                  [[route]]\nname = \"b\"\npath = \"/b\"\nprotect = false\nip_limits = [\"1/min\"]";
    fs::write(dir.path().join("p.toml"), policy).unwrap();
    let explain = [
        "policy",
        "explain",
        "p.toml",
        "--path",
        "/x/../b?q",
        "--ip",
        "203.0.113.7",
    ];
    let text = done(dir.path(), &explain);
    assert_eq!(
        text,
        "The request\n  It needs a key.\n  203.0.113.7 is refused with status 403, by `allow` or `deny`.\n  \
         Matching routes: `b`.\nRoute `b`: /b and all below\n  It needs no key.\n  \
         Each address, with or without a key: 1 request in any minute.\n"
    );
    let json = done(dir.path(), &[&explain[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["sections"][1]["about"], "route `b`: /b and all below");
    assert_eq!(json["warnings"], serde_json::json!([]));
    for wrong in [["--ip", "192.0.2.7"], ["--path", "a"], ["--method", "POST"]] {
        let output = run(dir.path(), &[&explain[..3], &wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn invalid_policy_and_rules_without_effect_are_reported() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("p.toml"), "protect = [\"/a\"]\nprotec = 1").unwrap();
    for action in ["check", "explain"] {
        let error = refused(dir.path(), &["policy", action, "p.toml"]);
        assert!(
            error.starts_with("error: invalid policy: `p.toml`: TOML parse error at line 2"),
            "{error}"
        );
        assert!(error.contains("next:  keyguard policy example"), "{error}");
        let error = refused(dir.path(), &["policy", action, "none"]);
        assert_eq!(
            error,
            "error: there is no policy file at `none`\n\
             next:  keyguard policy example > none    # then adapt it\n"
        );
    }
    for (policy, form) in [
        (
            "[route]\nname = \"a\"",
            "expected a list of routes: write `[[route]]`",
        ),
        (
            "deny = \"10.0.0.1\"",
            "expected a list, such as `[\"a\", \"b\"]`",
        ),
        (
            "[[route]]\nname = \"a\"\npath = \"/a\"\nscopes = 'read'",
            "expected a list, such as `[\"a\", \"b\"]`",
        ),
        ("protect = 1", "expected a list, such as `[\"a\", \"b\"]`"),
    ] {
        fs::write(dir.path().join("p.toml"), policy).unwrap();
        let error = refused(dir.path(), &["policy", "check", "p.toml"]);
        assert!(error.contains(&format!(", {form}\n")), "{error}");
    }
    fs::write(dir.path().join("p.toml"), "protect = [\"/a/b\", \"/a\"]").unwrap();
    let output = run(dir.path(), &["policy", "check", "p.toml"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "warning: protect: `/a/b` changes nothing, because `/a` covers it; remove it\n"
    );
    let json = done(dir.path(), &["policy", "check", "p.toml", "--json"]);
    assert!(json.contains("\"warnings\":[\"protect: "), "{json}");
}

/// Opening a pipe waits for its other side.
#[cfg(unix)]
#[test]
fn pipes_in_the_place_of_files_are_refused() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    let made = std::process::Command::new("mkfifo")
        .arg(dir.path().join("pipe"))
        .status();
    assert!(made.unwrap().success());
    let policy = refused(dir.path(), &["policy", "check", "pipe"]);
    assert!(
        policy.contains("`pipe`: cannot be read: it is not a regular file"),
        "{policy}"
    );
    #[cfg(feature = "serve")]
    for (arguments, problem) in [
        (["--policy", "pipe"], "it is not a regular file"),
        (
            ["--usage-log", "pipe"],
            "no process reads the pipe; start its reader first",
        ),
        (["--webhook-ca", "pipe"], "it is not a regular file"),
    ] {
        let webhook = ["--webhook", "https://example.com/hook"];
        let serve = ["serve", "--listen", "127.0.0.1:0"];
        let error = refused(dir.path(), &[&serve[..], &webhook, &arguments].concat());
        assert!(error.contains(problem), "{error}");
    }
}
