//! Printing a new key, whose text is shown only once.

use super::error::CliError;
use super::format::key_lines;
use super::output::{require_stdout, write_line};
use super::render::Panel;
use super::settings::Cli;
use crate::admin::command::NewKeyReply;

/// Prints a new key, or with `quiet` only its text. If the text cannot be printed, `undo` is called and returns what became of the key.
pub(super) fn print_new_key(
    cli: &Cli,
    title: &'static str,
    quiet: bool,
    new: NewKeyReply,
    undo: impl FnOnce(&NewKeyReply) -> String,
) -> Result<NewKeyReply, CliError> {
    let view = |style| {
        let panel = Panel::new(title).copied("key", &new.raw_key);
        key_lines(panel, &new.reply.key)
            .line(
                "note",
                "the key is shown only once; only its hash is stored",
            )
            .render(style)
    };
    let printed = require_stdout().and_then(|()| match quiet {
        true => write_line(&new.raw_key),
        false => cli.print(&new, view),
    });
    match printed {
        Ok(()) => Ok(new),
        Err(CliError::Output(source)) => Err(CliError::KeyNotPrinted {
            source,
            outcome: undo(&new),
        }),
        Err(error) => Err(error),
    }
}
