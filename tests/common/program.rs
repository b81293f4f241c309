//! The program `keyguard` as a child process.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use keyguard_test_support::server::unconfigured;

/// The program in a directory, with an empty environment.
pub(crate) fn keyguard(dir: &Path, arguments: &[&str]) -> Command {
    let command = Command::new(env!("CARGO_BIN_EXE_keyguard"));
    let mut command = unconfigured(command, dir);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("TZ", "UTC");
    command
}

pub(crate) fn run(dir: &Path, arguments: &[&str]) -> Output {
    keyguard(dir, arguments).output().unwrap()
}

/// Runs a command that succeeds and returns its output.
pub(crate) fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that is refused and returns its error.
pub(crate) fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}
