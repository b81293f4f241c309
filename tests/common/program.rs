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

/// The command in a process that was prepared by shell commands, such as `ulimit`.
pub(crate) fn prepared(preparation: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{preparation}; exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

pub(crate) fn run(dir: &Path, arguments: &[&str]) -> Output {
    keyguard(dir, arguments).output().unwrap()
}

/// Runs a command that succeeds and returns its output.
pub(crate) fn done(dir: &Path, arguments: &[&str]) -> String {
    output_of(&mut keyguard(dir, arguments))
}

/// Runs a command that is refused and returns its error.
pub(crate) fn refused(dir: &Path, arguments: &[&str]) -> String {
    error_of(&mut keyguard(dir, arguments))
}

/// Runs a command that succeeds without a warning and returns its output.
pub(crate) fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{command:?}: {error}");
    assert_eq!(error, "", "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that is refused without any output and returns its error.
pub(crate) fn error_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}");
    assert_eq!(output.stdout, b"", "{command:?}");
    String::from_utf8(output.stderr).unwrap()
}
