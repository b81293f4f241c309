//! Standard output and standard error.

use std::io::Write;

use serde::Serialize;
use serde_json::{Value, json};

use super::connection::GuardConnection;
use super::error::CliError;
use super::exit::Exit;
use super::render::{OutputStyle, escaped};
use super::settings::Cli;
use crate::admin::command::Command;
use crate::input::text::escaped_json;
use crate::model::key_words::message_without_keys;

impl Cli {
    /// Executes a command and prints its reply; returns [`Exit::Done`].
    pub(super) fn execute<C: Command>(
        &self,
        command: C,
        view: impl FnOnce(&C::Reply, OutputStyle) -> String,
    ) -> Result<Exit, CliError> {
        self.execute_in(self.connect()?, command, view)
    }

    /// Executes the last command of a connection and prints its reply; returns [`Exit::Done`].
    pub(super) fn execute_in<C: Command>(
        &self,
        mut connection: GuardConnection,
        command: C,
        view: impl FnOnce(&C::Reply, OutputStyle) -> String,
    ) -> Result<Exit, CliError> {
        let reply = connection.execute(command)?;
        // Standard output may block; other commands must not wait for it.
        drop(connection);
        self.print(&reply, |style| view(&reply, style))?;
        Ok(Exit::Done)
    }

    /// Prints a value as JSON with `--json`, else its view.
    pub(super) fn print(
        &self,
        value: &impl Serialize,
        view: impl FnOnce(OutputStyle) -> String,
    ) -> Result<(), CliError> {
        match self.json {
            true => self.print_json(&serde_json::to_value(value)?),
            false => write_out(view(self.style).as_bytes()),
        }
    }

    fn print_json(&self, value: &Value) -> Result<(), CliError> {
        let text = match self.style.is_terminal {
            true => format!("{value:#}"),
            false => value.to_string(),
        };
        write_line(&escaped_json(&text))
    }

    /// Prints a warning to standard error, unless it was printed before.
    pub(super) fn warn(&self, text: &str) {
        if self.warned.borrow_mut().insert(text.to_owned()) {
            self.warn_again(text);
        }
    }

    /// Prints a warning to standard error.
    pub(super) fn warn_again(&self, text: &str) {
        match self.json {
            true => eprint_line(&escaped_json(&json!({ "warning": text }).to_string())),
            false => eprint_warning(text),
        }
    }
}

/// Prints a warning to standard error as text.
fn eprint_warning(text: &str) {
    eprint_line(&format!("warning: {}", escaped_lines(text)));
}

/// Escapes each line of a text that has several.
pub(super) fn escaped_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(escaped).collect();
    lines.join("\n")
}

/// Prints a line to standard output.
pub(super) fn write_line(line: &str) -> Result<(), CliError> {
    write_out(format!("{line}\n").as_bytes())
}

/// Writes to standard output.
pub(super) fn write_out(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(CliError::Output)
}

/// Prints lines to standard error, with shortened keys: errors, next commands and warnings quote what was given. A
/// failure is ignored: no other place could report it.
pub(super) fn eprint_line(line: &str) {
    let line = message_without_keys(line);
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Fails if standard output was closed when the program started. The runtime has then opened the null
/// device in its place, for reading and writing; shells open it for writing only.
#[cfg(unix)]
pub(super) fn require_stdout() -> Result<(), CliError> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{OFlags, fcntl_getfl};

    let out = std::io::stdout();
    let is_both = fcntl_getfl(&out).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR);
    let device = |file: std::io::Result<std::fs::File>| Some(file.ok()?.metadata().ok()?.rdev());
    let of_out = device(out.as_fd().try_clone_to_owned().map(Into::into));
    match is_both && of_out.is_some() && of_out == device(std::fs::File::open("/dev/null")) {
        true => Err(CliError::Output(std::io::Error::other("it is closed"))),
        false => Ok(()),
    }
}

#[cfg(not(unix))]
pub(super) fn require_stdout() -> Result<(), CliError> {
    Ok(())
}
