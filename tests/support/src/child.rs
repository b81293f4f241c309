//! Tests that run themselves again as a child process: with another environment or user, or to be
//! killed.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::process::{Command, Stdio};
use std::thread;

const ARGUMENT: &str = "KEYGUARD_TEST_CHILD";

/// Returns the argument from the parent in the child, and `None` in the parent.
pub fn argument() -> Option<OsString> {
    std::env::var_os(ARGUMENT)
}

/// Returns the command that runs `test` of `module` (its `module_path!()`) in a child process,
/// without a secret in its environment.
pub fn command(module: &str, test: &str, argument: impl AsRef<OsStr>) -> Command {
    // The test harness names tests without their crate.
    let name = match module.split_once("::") {
        Some((_, module)) => format!("{module}::{test}"),
        None => test.to_owned(),
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([&name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ARGUMENT, argument)
        .env_remove("KEYGUARD_SECRET")
        .stdin(Stdio::null());
    command
}

/// Runs a child that makes its own assertions.
pub fn run(command: &mut Command) {
    let output = start(|| command.output());
    let text = String::from_utf8_lossy(&output.stdout);
    // A name that matches no test would pass, too.
    assert!(
        output.status.success() && text.contains("test result: ok. 1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Starts a process of a copied program, with `Command::spawn` or `Command::output`.
pub fn start<T>(mut start: impl FnMut() -> io::Result<T>) -> T {
    loop {
        match start() {
            // A process forked by another test may still have the copy open for writing.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
            started => return started.unwrap(),
        }
    }
}

/// The same child with another copy of the program.
pub fn again(command: Command, program: impl AsRef<OsStr>) -> Command {
    let mut other = Command::new(program);
    other.args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}
