//! Output and exit codes of the command line, on closed data files and on files that a process holds.
//!
//! `KEYGUARD_BLESS=1 cargo test --features cli,import,serve --test cli` rewrites the transcripts.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::program::{done, keyguard, refused, run};
use crate::common::{IP, key, write_private};
use keyguard::{Config, CreateKey, KeyGuard, Page, Reason};
#[cfg(feature = "parquet")]
use keyguard::{Method, Request};
use tempfile::TempDir;

/// Runs every line `$ keyguard …` of a transcript and returns the transcript with the new output.
fn rerun(dir: &Path, transcript: &str) -> String {
    let mut out = String::new();
    for line in transcript
        .lines()
        .filter(|line| line.starts_with('$') || line.starts_with('#'))
    {
        out += line;
        out.push('\n');
        let Some(arguments) = line.strip_prefix("$ keyguard ") else {
            continue;
        };
        let arguments = words(arguments);
        let output = run(
            dir,
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        out += &normalized(&String::from_utf8_lossy(&output.stdout));
        out += &normalized(&String::from_utf8_lossy(&output.stderr));
        if output.status.code() != Some(0) {
            out += &format!("[exit {}]\n", output.status.code().unwrap());
        }
    }
    out
}

/// Splits at spaces outside of double quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

/// Replaces keys, prefixes and times, which differ from run to run, by names.
fn normalized(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let token = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_:.".contains(c)));
        let (token, after) = rest.split_at(token.unwrap_or(rest.len()));
        let is_day = |text: &str| {
            text.len() == 10 && text.starts_with("20") && text.matches('-').count() == 2
        };
        if token.is_empty() {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        match token.len() {
            57 if token.starts_with("kg_live_") => out += "<key>",
            12 if token.starts_with("kg_live_") => out += "<prefix>",
            _ if token.starts_with("kg_admin_") => out += "<admin key>",
            _ if token.ends_with('Z') && token.get(..10).is_some_and(is_day) => out += "<time>",
            10 if is_day(token) => out += "<day>",
            _ => out += token,
        }
        rest = after;
    }
    // Seconds pass between two commands.
    for name in ["retry after: ", "\"retry_after\":"] {
        out = without_number_after(&out, name);
    }
    let user = format!("user {}", rustix::process::geteuid().as_raw());
    out.replace(&user, "user <id>")
}

/// Replaces each number after `name` by `<wait>`.
fn without_number_after(text: &str, name: &str) -> String {
    let mut parts = text.split(name);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let after = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = if after.len() < part.len() {
            "<wait>"
        } else {
            ""
        };
        out += &format!("{name}{number}{after}");
    }
    out
}

fn compare(name: &str, printed: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cli/transcripts")
        .join(name);
    if std::env::var_os("KEYGUARD_BLESS").is_some() {
        fs::write(path, printed).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap();
    for (line, (printed, expected)) in printed.lines().zip(expected.lines()).enumerate() {
        assert_eq!(printed, expected, "line {} of {name}", line + 1);
    }
    assert_eq!(printed.lines().count(), expected.lines().count(), "{name}");
}

const COMMANDS: &str = include_str!("transcripts/commands.txt");
const WITHOUT_A_FILE: &str = include_str!("transcripts/without-a-file.txt");

#[test]
fn transcript_matches_on_closed_file() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    compare("commands.txt", &rerun(dir.path(), COMMANDS));
}

/// The transcript is the same when another process holds the file.
#[test]
fn transcript_matches_on_file_held_by_a_process() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let printed = rerun(dir.path(), COMMANDS);
    assert!(
        !kg.admin()
            .list_keys(None, Page::first())
            .unwrap()
            .is_empty(),
        "it was this guard that answered"
    );
    drop(kg);
    if std::env::var_os("KEYGUARD_BLESS").is_none() {
        compare("commands.txt", &printed);
    }
}

#[test]
fn commands_without_data_file_create_nothing() {
    let dir = TempDir::new().unwrap();
    compare("without-a-file.txt", &rerun(dir.path(), WITHOUT_A_FILE));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn invalid_arguments_exit_with_2() {
    let dir = TempDir::new().unwrap();
    let cases: [&[&str]; 5] = [
        &["frobnicate"],
        &["create-key", "--org", "acme"],
        &["check", "--cost", "0"],
        &["update-key", "1", "--expires-at", "tomorrow"],
        &["--secret", "a", "--secret-file", "b", "stats"],
    ];
    for arguments in cases {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let help = done(dir.path(), &["--help"]);
    assert!(
        help.contains("Other users of this machine can see it") && help.contains("revoke-key"),
        "{help}"
    );
    assert!(done(dir.path(), &["completions", "bash"]).contains("revoke-key"));
}

#[test]
fn errors_name_the_argument_once() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    let refused = |arguments: &[&str], variable: (&str, &str)| {
        let mut command = keyguard(dir.path(), arguments);
        let output = command.env(variable.0, variable.1).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    // The URL may contain a password.
    let no_redis = "starts with none of `redis://`";
    let cases = [
        (
            refused(
                &["stats"],
                ("KEYGUARD_REDIS", "user:hunter2@localhost:6379"),
            ),
            "error: --redis or KEYGUARD_REDIS: ",
            no_redis,
            "next:  export KEYGUARD_REDIS=redis://",
        ),
        #[cfg(feature = "serve")]
        (
            refused(&["serve"], ("KEYGUARD_ADMIN_KEY", "hunter2")),
            "error: KEYGUARD_ADMIN_KEY or --admin-key-file: ",
            "expected at least 16 bytes",
            "next:  unset KEYGUARD_ADMIN_KEY",
        ),
        #[cfg(feature = "serve")]
        (
            refused(&["serve", "--usage-log", "none/log"], ("KEYGUARD_KEY", "")),
            "error: --usage-log: ",
            "`none/log` cannot be opened: No such file or directory",
            "next:  mkdir -p none",
        ),
        #[cfg(feature = "serve")]
        (
            refused(
                &["serve", "--usage-log", "keyguard.redb"],
                ("KEYGUARD_KEY", ""),
            ),
            "error: --usage-log: ",
            "`keyguard.redb` cannot be opened: the file contains something other than lines of JSON",
            "next:  ls -ld keyguard.redb",
        ),
        #[cfg(feature = "postgres")]
        (
            refused(
                &["--db", "postgres://127.0.0.1:1/none", "reload"],
                ("KEYGUARD_KEY", ""),
            ),
            "error: ",
            "send SIGHUP to each `keyguard serve`",
            "next:  kill -HUP PID",
        ),
        #[cfg(feature = "serve")]
        (
            refused(&["serve", "--policy", "none"], ("KEYGUARD_KEY", "")),
            "error: there is no policy file at ",
            "`none`",
            "next:  keyguard policy example > none ",
        ),
        (
            refused(
                &["update-key", "1", "--limit", "kg_live_".repeat(8).as_str()],
                ("KEYGUARD_KEY", ""),
            ),
            "error: ",
            "there is no key with the id 1",
            "next:  keyguard list-keys",
        ),
    ];
    for (said, argument, problem, next) in cases {
        assert!(said.starts_with(argument) && said.contains(next), "{said}");
        assert_eq!(said.matches(problem).count(), 1, "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn revocation_is_in_force_when_the_command_returns() {
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    kg.admin().create_org("acme").unwrap();
    let (revoked, running) = (AtomicBool::new(false), AtomicBool::new(true));
    for _ in 0..5 {
        let created = kg
            .admin()
            .create_key(CreateKey::new("acme", "shop").rate_limit_per_minute(u32::MAX));
        let created = created.unwrap();
        let headers = [("X-API-Key", created.raw_key.expose())];
        revoked.store(false, Ordering::SeqCst);
        running.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while running.load(Ordering::SeqCst) {
                        let was_revoked = revoked.load(Ordering::SeqCst);
                        match kg.check(&headers, IP, "/") {
                            Ok(grant) => {
                                assert!(!was_revoked);
                                grant.finish(200);
                            }
                            Err(denial) => assert_eq!(denial.reason(), Reason::RevokedKey),
                        }
                    }
                });
            }
            done(dir.path(), &["revoke-key", &created.key.id.to_string()]);
            revoked.store(true, Ordering::SeqCst);
            assert_eq!(
                kg.check(&headers, IP, "/").unwrap_err().reason(),
                Reason::RevokedKey
            );
            running.store(false, Ordering::SeqCst);
        });
    }
}

/// Once, `revoke-key ""` and `revoke-key kg` revoked the only key.
#[test]
fn shortened_prefix_selects_no_key() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let prefix = key(&kg).key.shown_prefix;
    // On a file held by this process, through its socket, and on a closed file.
    for kg in [Some(kg), None] {
        let shorter = &prefix[..prefix.len() - 1];
        for text in ["", " ", "k", "kg", "kg_live_", shorter] {
            let commands: [&[&str]; 6] = [
                &["revoke-key", text],
                &["rotate-key", text],
                &["update-key", text, "--label", "x"],
                &["reset", text],
                &["override-limit", text, "--rule", "default", "--for", "1h"],
                &["restore-limit", text, "--rule", "default"],
            ];
            for command in commands {
                let error = refused(dir.path(), command);
                assert!(error.contains("whole prefix"), "{command:?}: {error}");
            }
            refused(dir.path(), &["limits", text]);
            refused(dir.path(), &["check", text]);
        }
        let key = done(dir.path(), &["list-keys"]);
        assert!(
            key.contains("shop") && key.contains("active") && key.contains(&prefix),
            "{key}"
        );
        done(dir.path(), &["update-key", &prefix, "--label", "shop"]);
        done(dir.path(), &["limits", &prefix]);
        drop(kg);
    }
    assert!(done(dir.path(), &["revoke-key", &prefix]).contains("revoked"));
}

#[test]
fn check_reports_requests_that_need_no_key() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let policy: keyguard::Policy = "protect = [\"/api\"]".parse().unwrap();
    let kg = KeyGuard::open(&file, Config::default().policy(policy)).unwrap();
    let key = key(&kg).key;
    kg.admin().revoke_key(key.id).unwrap();
    let open = done(dir.path(), &["check", "1", "--path", "/about"]);
    assert!(open.contains("key: not checked"), "{open}");
    let open = done(dir.path(), &["check", "1", "--path", "/about", "--json"]);
    assert!(open.contains(r#""key_checked":false"#), "{open}");
    let output = run(dir.path(), &["check", "1", "--path", "/api", "--json"]);
    let protected = String::from_utf8(output.stdout).unwrap();
    assert!(
        protected.contains(r#""key_checked":true"#) && protected.contains("revoked_key"),
        "{protected}"
    );
}

/// Returns the exit code and the error of a command whose output cannot be written.
#[cfg(target_os = "linux")]
fn into_nowhere(dir: &Path, arguments: &[&str], out: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut command = keyguard(dir, arguments);
    let child = command.stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!error.contains("panicked"), "{arguments:?}: {error}");
    (output.status.code(), error)
}

#[cfg(target_os = "linux")]
fn full() -> fs::File {
    fs::File::options().write(true).open("/dev/full").unwrap()
}

/// A pipe whose reader is closed.
#[cfg(target_os = "linux")]
fn closed() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

/// Once, a key created with `> /dev/full` was active although its text was lost.
#[cfg(target_os = "linux")]
#[test]
fn unprinted_key_is_revoked_or_keeps_its_text() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let old = key(&kg);
    let mut kg = Some(kg);
    for is_live in [true, false] {
        let nowhere = [Stdio::from(full()), Stdio::from(closed())];
        for out in nowhere {
            let create = ["create-key", "--org", "acme", "--label", "lost"];
            let (code, error) = into_nowhere(dir.path(), &create, out);
            assert_eq!(code, Some(1), "{is_live}");
            assert!(error.contains("was revoked"), "{error}");
        }
        let nowhere = [Stdio::from(full()), Stdio::from(closed())];
        for out in nowhere {
            let rotate = ["rotate-key", "1", "--grace", "0", "--json"];
            let (code, error) = into_nowhere(dir.path(), &rotate, out);
            assert_eq!(code, Some(1), "{is_live}");
            assert!(error.contains("keeps its old text"), "{error}");
        }
        kg = None;
    }
    drop(kg);
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let keys = kg.admin().list_keys(None, Page::first()).unwrap();
    assert_eq!(keys.iter().filter(|key| key.is_active()).count(), 1);
    assert_eq!(keys[0], old.key, "nothing of it has changed");
    let headers = [("X-API-Key", old.raw_key.expose())];
    kg.check(&headers, IP, "/").unwrap().finish(200);
}

/// Daemons start programs in this way.
#[cfg(target_os = "linux")]
#[test]
fn closed_standard_output_gets_no_key() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let old = key(&kg);
    for (arguments, outcome) in [
        (
            &["create-key", "--org", "acme", "--label", "lost"][..],
            "was revoked",
        ),
        (&["rotate-key", "1", "--grace", "0"], "keeps its old text"),
    ] {
        let command = keyguard(dir.path(), arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" >&-"]);
        shell.arg(command.get_program()).args(command.get_args());
        let output = shell.current_dir(dir.path()).env_remove("KEYGUARD_DB");
        let output = output.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("it is closed; ") && error.contains(outcome),
            "{error}"
        );
    }
    let headers = [("X-API-Key", old.raw_key.expose())];
    kg.check(&headers, IP, "/").unwrap().finish(200);
    // Output to the null device is deliberate.
    let into_null = keyguard(dir.path(), &["rotate-key", "1"])
        .stdout(Stdio::null())
        .status();
    assert!(into_null.unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn unwritable_output_is_an_error_and_a_closed_pipe_is_not() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    let commands: [&[&str]; 9] = [
        &["completions", "bash"],
        &["list-orgs"],
        &["list-keys", "--json"],
        &["list-blocks"],
        &["stats"],
        &["audit"],
        &["admin-key"],
        &["init"],
        &["limits", "--ip", "192.0.2.7"],
    ];
    for command in commands {
        let (code, error) = into_nowhere(dir.path(), command, full());
        assert_eq!(code, Some(1), "{command:?}");
        assert!(error.contains("cannot be written"), "{command:?}: {error}");
        let (code, error) = into_nowhere(dir.path(), command, closed());
        assert_eq!((code, error.as_str()), (Some(0), ""), "{command:?}");
    }
    // Standard error cannot be written either.
    let mut command = keyguard(dir.path(), &["revoke-key", "7"]);
    let status = command.stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn expired_key_is_listed_and_rotated_with_new_expiry() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    let clock = keyguard::ManualClock::starting_at(crate::common::NOON);
    let kg = KeyGuard::open(&file, Config::default().clock(clock.clone())).unwrap();
    kg.admin().create_org("acme").unwrap();
    let create = |time: &str| {
        let command = [
            "create-key",
            "--org",
            "acme",
            "--label",
            "x",
            "--expires-at",
        ];
        run(dir.path(), &[&command[..], &[time]].concat())
    };
    let output = create("2026-01-15T12:00:00Z");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is in the past"));
    assert_eq!(create("2026-01-15T12:01:00Z").status.code(), Some(0));
    clock.advance(std::time::Duration::from_secs(60));
    assert!(done(dir.path(), &["list-keys"]).contains("\texpired\t"));
    let json = done(dir.path(), &["list-keys", "--json"]);
    assert!(
        json.contains(r#""active":false"#) && json.contains(r#""status":"expired""#),
        "{json}"
    );
    assert!(done(dir.path(), &["stats"]).contains("active keys: 0"));
    let error = refused(dir.path(), &["update-key", "1", "--expires-at", "none"]);
    assert!(error.contains("--reactivate"), "{error}");
    let error = refused(dir.path(), &["rotate-key", "1"]);
    assert!(error.contains("--expires-at"), "{error}");
    let later = "2026-01-15T12:02:00Z";
    let rotated = done(dir.path(), &["rotate-key", "1", "--expires-at", later]);
    assert!(
        rotated.contains("status: active") && rotated.contains(later),
        "{rotated}"
    );
    clock.advance(std::time::Duration::from_secs(60));
    let extend = ["update-key", "1", "--expires-at", "none", "--reactivate"];
    assert!(done(dir.path(), &extend).contains("status: active"));
}

/// Once, a URL of another form was taken for a path and printed with its password.
#[test]
fn unknown_url_is_refused_and_not_shown() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    for url in [
        "mysql://me:hunter2@h/d",
        "sqlite+aiosqlite:///old.db",
        "postgre://me:hunter2@h/d",
        "postgres:/me:hunter2@h/d",
        "me:hunter2@h/d",
        "host=h password=hunter2",
    ] {
        let commands: [&[&str]; 9] = [
            &["--db", url, "stats"],
            &["--db", url, "init"],
            &["--db", url, "list-keys", "--json"],
            &["--db", url, "admin-key"],
            &["--db", url, "export", "--to", "x.redb"],
            &["--db", url, "replay", "log", "--policy", "p"],
            &["export", "--to", url],
            &["import", "--from", url],
            &["--redis", url, "stats"],
        ];
        for command in commands {
            let error = refused(dir.path(), command);
            assert!(
                !error.contains("hunter2") && error.contains("next"),
                "{command:?}: {error}"
            );
        }
        let error = KeyGuard::open(url, Config::new("secret")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    let made = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(made, 2, "nothing but the data file and its secret");
    assert!(
        done(dir.path(), &["--db", "mysql://h/d", "completions", "bash"]).contains("revoke-key")
    );
}

#[test]
fn check_reads_the_key_from_environment_or_standard_input() {
    use std::io::Write;

    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    done(dir.path(), &["create-org", "acme"]);
    let created = done(
        dir.path(),
        &["create-key", "--org", "acme", "--label", "shop", "--json"],
    );
    let key = created
        .split("\"raw_key\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();

    let output = keyguard(dir.path(), &["check"])
        .env("KEYGUARD_KEY", key)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let mut child = keyguard(dir.path(), &["check"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(key.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("admitted"));
}

#[test]
fn lists_longer_than_a_page_are_complete() {
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    kg.admin().create_org("acme").unwrap();
    let keys: Vec<CreateKey> = (0..2_500)
        .map(|i| CreateKey::new("acme", format!("key {i}")))
        .collect();
    kg.admin().create_keys(&keys).unwrap();
    for kg in [Some(kg), None] {
        assert_eq!(done(dir.path(), &["list-keys"]).lines().count(), 2_501);
        let json = done(dir.path(), &["list-keys", "--json"]);
        assert_eq!(json.matches("\"org_name\":\"acme\"").count(), 2_500);
        drop(kg);
    }
}

/// Once, a page of a thousand large keys exceeded the frame size of the socket.
#[test]
fn lists_of_the_largest_keys_are_complete() {
    const KEYS: usize = 1_200;

    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    kg.admin().create_org("acme").unwrap();
    let ips = (0..256).map(|i| format!("2001:db8:1111:2222:3333:4444:5555:{:x}", 0x1000 + i));
    let longest = CreateKey::new("acme", "ü".repeat(255))
        .scopes((0..63).map(|i| format!("{i:064}")))
        .allowed_ips(ips.collect::<Vec<_>>());
    kg.admin().create_keys(&vec![longest; KEYS]).unwrap();
    for kg in [Some(kg), None] {
        assert_eq!(done(dir.path(), &["list-keys"]).lines().count(), KEYS + 1);
        drop(kg);
    }
}

/// Once, a listing held the data file until its reader had read everything.
#[test]
fn listing_in_a_pager_does_not_block_other_commands() {
    use std::io::Read;

    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    // More than a pipe holds.
    for i in 0..120 {
        let name = format!("{i} {}", "宽".repeat(250));
        kg.admin().create_org(&name).unwrap();
        kg.admin().create_key(CreateKey::new(&name, &name)).unwrap();
    }
    drop(kg);
    let listings: [&[&str]; 3] = [&["list-orgs"], &["list-keys"], &["audit", "--rows", "1000"]];
    for (i, listing) in listings.into_iter().enumerate() {
        let mut command = keyguard(dir.path(), listing);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 1]).unwrap();
        done(dir.path(), &["create-org", &format!("org {i}")]);
        assert!(child.try_wait().unwrap().is_none(), "the pipe was not full");
        out.read_to_end(&mut Vec::new()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn secret_is_found_as_in_the_library() {
    let dir = TempDir::new().unwrap();
    write_private(&dir.path().join("secret"), "a secret of its own\n");
    done(dir.path(), &["--secret-file", "secret", "init"]);
    assert!(!dir.path().join("keyguard.redb.secret").exists());
    done(dir.path(), &["--secret-file", "secret", "stats"]);
    done(dir.path(), &["--secret", "a secret of its own", "stats"]);
    let output = keyguard(dir.path(), &["stats"])
        .env("KEYGUARD_SECRET", "a secret of its own")
        .output();
    assert_eq!(output.unwrap().status.code(), Some(0));

    let missing = refused(dir.path(), &["stats"]);
    assert!(
        missing.contains("KEYGUARD_SECRET") && missing.contains("next:  keyguard --secret-file"),
        "{missing}"
    );
    let wrong = refused(dir.path(), &["--secret", "another one", "stats"]);
    assert!(
        wrong.contains("another secret") && !wrong.contains("another one"),
        "{wrong}"
    );
    // Each secret has another admin key.
    let admin_key = done(
        dir.path(),
        &["--secret", "a secret of its own", "admin-key"],
    );
    assert_ne!(
        admin_key,
        done(dir.path(), &["--secret", "another one", "admin-key"])
    );
    assert!(refused(dir.path(), &["admin-key"]).contains("KEYGUARD_SECRET"));
}

#[cfg(unix)]
#[test]
fn secret_files_that_others_may_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;

    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    write_private(&dir.path().join("a file"), "a secret that others may read");
    let public = fs::Permissions::from_mode(0o644);
    fs::set_permissions(dir.path().join("a file"), public).unwrap();
    let mut options = vec!["--secret-file", "--legacy-secret-file"];
    if cfg!(feature = "serve") {
        options.push("--admin-key-file");
    }
    for option in options {
        let command = match option {
            "--admin-key-file" => "serve",
            _ => "stats",
        };
        let error = refused(dir.path(), &[command, option, "a file"]);
        assert!(
            error.contains("the secret in `a file` is refused") && error.contains("mode 644"),
            "{error}"
        );
        assert!(error.contains("next:  chmod 600 'a file'"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn data_file_that_others_may_read_causes_one_warning() {
    use std::os::unix::fs::PermissionsExt;

    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    done(dir.path(), &["init"]);
    for arguments in [&["stats"][..], &["list-orgs"]] {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let output = run(dir.path(), arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            error.matches("chmod 600 keyguard.redb").count(),
            1,
            "{error}"
        );
        assert!(error.starts_with("warning: the data file"), "{error}");
    }
    // The first command has made the file private.
    assert!(run(dir.path(), &["stats"]).stderr.is_empty());
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    let error = String::from_utf8(run(dir.path(), &["stats"]).stderr).unwrap();
    assert!(error.contains("chmod 600"), "a live one too: {error}");
    drop(kg);
}

#[cfg(unix)]
#[test]
fn symbolic_link_stands_for_its_target() {
    use std::os::unix::fs::symlink;

    let dir = TempDir::new().unwrap();
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    let link = dir.path().join("keyguard.redb");
    symlink("real/data.redb", &link).unwrap();
    for command in ["init", "stats", "admin-key"] {
        let error = refused(dir.path(), &[command]);
        assert!(
            error.contains("is a symbolic link to `real/data.redb`")
                && error.contains("next:  keyguard --db real/data.redb init"),
            "{error}"
        );
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "no stray secret"
    );
    assert_eq!(fs::read_dir(&real).unwrap().count(), 0);

    done(&real, &["--db", "data.redb", "init"]);
    assert!(done(dir.path(), &["init"]).contains("real/data.redb.secret"));
    done(dir.path(), &["create-org", "by its link"]);
    let kg = KeyGuard::open(real.join("data.redb"), Config::default()).unwrap();
    done(dir.path(), &["create-org", "by its link, live"]);
    drop(kg);
    let kg = KeyGuard::open(&link, Config::default()).unwrap();
    done(
        &real,
        &["--db", "data.redb", "create-org", "by its name, live"],
    );
    drop(kg);
    assert_eq!(
        done(&real, &["--db", "data.redb", "list-orgs"])
            .lines()
            .count(),
        4
    );
    let admin_key = done(dir.path(), &["admin-key"]);
    assert_eq!(admin_key, done(&real, &["--db", "data.redb", "admin-key"]));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "no second secret"
    );

    symlink("nowhere.redb", dir.path().join("copy.redb")).unwrap();
    let error = refused(dir.path(), &["export", "--to", "copy.redb"]);
    assert!(error.contains("symbolic link to `nowhere.redb`"), "{error}");
    assert!(!dir.path().join("copy.redb.secret").exists());
}

#[test]
fn usage_answers_questions_about_requests() {
    const KEYLESS: &str = "Refusals without a known key are not included.\n";
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    let key = key(&kg);
    let headers = [("X-API-Key", key.raw_key.expose())];
    for (path, status) in [("/a", 200), ("/b", 500), ("/b", 500)] {
        kg.check(&headers, IP, path).unwrap().finish(status);
    }
    let usage = |arguments: &[&str]| done(dir.path(), &[&["usage"], arguments].concat());
    let (id, prefix) = (key.key.id, &key.key.shown_prefix);
    assert_eq!(
        usage(&["--since", "1h"]),
        format!(
            "id\tprefix\tlabel\torg\trequests\terrors\n{id}\t{prefix}\tshop\tacme\t3\t2\n{KEYLESS}"
        )
    );
    assert_eq!(
        usage(&["--by", "reason", "--since", "1h"]),
        "reason\trequests\terrors\nnot refused\t3\t2\n"
    );
    assert_eq!(
        usage(&["--by", "path", "--status", "5xx", "--csv"]),
        "path,requests,errors\r\n/b,2,2\r\n"
    );
    assert_eq!(
        usage(&["--key", prefix, "--refused"]),
        format!("No such requests.\n{KEYLESS}")
    );
    drop(kg);
    let json = usage(&["--by", "ip", "--ip", "192.0.2.0/24", "--json"]);
    assert!(
        json.contains(r#""rows":[{"errors":2,"ip":"192.0.2.7","requests":3}]"#),
        "{json}"
    );
    let error = refused(dir.path(), &["usage", "--since", "yesterday"]);
    assert!(
        error.contains("--since: `yesterday` is neither a time"),
        "{error}"
    );
    assert!(error.contains("next:  keyguard usage --help"), "{error}");
    let error = refused(dir.path(), &["usage", "--org", "globex"]);
    assert!(error.contains("no organization named `globex`"), "{error}");
    for wrong in [["--by", "week"], ["--reason", "bored"], ["--rows", "0"]] {
        let output = run(dir.path(), &[&["usage"][..], &wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn watched_stats_are_repeated() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    let mut watching = keyguard(dir.path(), &["stats", "--watch", "0.1", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let lines =
        lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    let keys: Vec<_> = lines
        .take(2)
        .map(|stats| stats["total_keys"].clone())
        .collect();
    assert_eq!(keys, [0, 0]);
    // Its file stays free for other commands.
    done(dir.path(), &["create-org", "acme"]);
    watching.kill().unwrap();
    watching.wait().unwrap();
    for pause in ["0", "soon", "100000"] {
        let output = run(dir.path(), &["stats", "--watch", pause]);
        assert_eq!(output.status.code(), Some(2), "{pause}");
    }
}

#[test]
fn exported_usage_has_every_request_in_both_formats() {
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    let key = key(&kg);
    let headers = [("X-API-Key", key.raw_key.expose())];
    for number in 0..30 {
        let path = format!("/v1/{number},\"x\"");
        kg.check(&headers, IP, &path).unwrap().finish(200 + number);
    }
    // The first export travels through the socket.
    let csv = done(dir.path(), &["export-usage", "--to", "-"]);
    drop(kg);
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "at,key_id,method,path,ip,status,latency_us,refused"
    );
    assert_eq!(lines.len(), 31);
    let id = key.key.id;
    assert!(
        lines[8].contains(&format!(",{id},-,\"/v1/7,\"\"x\"\"\",192.0.2.7,207,")),
        "{}",
        lines[8]
    );
    let reply = done(
        dir.path(),
        &[
            "export-usage",
            "--to",
            "some.ndjson",
            "--status",
            "207",
            "--json",
        ],
    );
    assert_eq!(reply, "{\"file\":\"some.ndjson\",\"requests\":1}\n");
    let line = fs::read_to_string(dir.path().join("some.ndjson")).unwrap();
    let usage: serde_json::Value = serde_json::from_str(line.trim_end()).unwrap();
    assert_eq!(
        (&usage["status"], &usage["path"]),
        (&207.into(), &"/v1/7,\"x\"".into())
    );
    let error = refused(dir.path(), &["export-usage", "--to", "some.ndjson"]);
    assert!(
        error.contains("`some.ndjson` was not written: it exists"),
        "{error}"
    );
    assert!(
        fs::read_dir(dir.path()).unwrap().count() <= 4,
        "no temporary file stays"
    );
}

#[cfg(feature = "parquet")]
#[test]
fn exported_parquet_has_the_rows_of_the_other_formats() {
    use parquet::basic::{LogicalType, TimeUnit};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};
    use serde_json::{Value, json};
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    /// The row as an object of the other format.
    fn object(row: &Row) -> Value {
        let columns = row.get_column_iter().map(|(name, field)| {
            let value = match field {
                Field::Null => Value::Null,
                Field::Str(text) => json!(text),
                Field::Int(number) => json!(number),
                Field::Long(number) => json!(number),
                Field::TimestampMillis(millis) => {
                    let nanos = i128::from(*millis) * 1_000_000;
                    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap();
                    json!(at.format(&Rfc3339).unwrap())
                }
                other => panic!("{name}: {other:?}"),
            };
            (name.clone(), value)
        });
        Value::Object(columns.collect())
    }

    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    let key = key(&kg);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let requests = 2_500;
    for number in 0..requests {
        let path = format!("/v1/{number},\"ü\"\n");
        let request = Request::new(&headers, IP, &path).method(Method::Post);
        let _ = kg.decide(request).map(|grant| grant.finish(201));
    }
    kg.admin().suspend_key(key.key.id).unwrap();
    kg.check(&headers, IP, "/late").unwrap_err();
    drop(kg);
    for name in ["all.parquet", "all.ndjson", "none.parquet"] {
        let status = if name == "none.parquet" { "599" } else { "" };
        let arguments = ["export-usage", "--json", "--to", name, "--status", status];
        let used = if status.is_empty() { 4 } else { 6 };
        let reply: Value = serde_json::from_str(&done(dir.path(), &arguments[..used])).unwrap();
        let expected = if status.is_empty() { requests + 1 } else { 0 };
        assert_eq!(reply["requests"], expected, "{name}");
    }
    let reader = |name: &str| {
        let file = fs::File::open(dir.path().join(name)).unwrap();
        SerializedFileReader::new(file).unwrap()
    };
    let rows: Vec<Value> = reader("all.parquet")
        .get_row_iter(None)
        .unwrap()
        .map(|row| object(&row.unwrap()))
        .collect();
    let lines = fs::read_to_string(dir.path().join("all.ndjson")).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let objects: Vec<Value> = lines
        .map(|mut object: Value| {
            // Both notations of a time have the fraction only if there is one.
            let at = OffsetDateTime::parse(object["at"].as_str().unwrap(), &Rfc3339).unwrap();
            object["at"] = json!(at.format(&Rfc3339).unwrap());
            object
        })
        .collect();
    assert_eq!(rows, objects);
    assert_eq!(rows.last().unwrap()["refused"], "suspended_key");

    let none = reader("none.parquet");
    assert_eq!(none.get_row_iter(None).unwrap().count(), 0);
    let columns = none.metadata().file_metadata().schema_descr().columns();
    let names: Vec<_> = columns.iter().map(|column| column.name()).collect();
    let expected = "at key_id method path ip status latency_us refused";
    assert_eq!(names.join(" "), expected);
    assert_eq!(
        columns[0].logical_type_ref(),
        Some(&LogicalType::timestamp(true, TimeUnit::MILLIS))
    );
    for name in ["all.parquet", "away/all.parquet"] {
        let error = refused(dir.path(), &["export-usage", "--to", name]);
        assert!(
            error.contains(&format!("`{name}` was not written: ")),
            "{error}"
        );
    }
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_without_its_feature_is_refused() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    for arguments in [
        &["export-usage", "--to", "x.parquet"][..],
        &["export-usage", "--to", "-", "--format", "parquet"],
    ] {
        let error = refused(dir.path(), arguments);
        assert!(
            error.contains("it lacks the cargo feature `parquet`"),
            "{error}"
        );
        assert!(error.contains(",parquet "), "{error}");
    }
    assert!(!dir.path().join("x.parquet").exists());
}

#[test]
fn extension_of_an_export_names_its_format() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    let written = |name: &str| {
        done(dir.path(), &["export-usage", "--to", name]);
        fs::read_to_string(dir.path().join(name)).unwrap()
    };
    assert_eq!(written("a.NDJSON"), "");
    for name in ["a.CSV", "a"] {
        assert!(written(name).starts_with("at,"));
    }
    for name in ["a.parquet.gz", "a.json"] {
        let error = refused(dir.path(), &["export-usage", "--to", name]);
        assert!(
            error.contains("names no format: give `--format csv`"),
            "{error}"
        );
        assert!(!dir.path().join(name).exists());
    }
    done(
        dir.path(),
        &["export-usage", "--to", "a.gz", "--format", "csv"],
    );
}
