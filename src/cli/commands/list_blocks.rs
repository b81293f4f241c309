//! `list-blocks`

use crate::admin::command::ListBlocks;
use crate::cli::format::{lock_table, total};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard list-blocks
  keyguard list-blocks --json";

pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    cli.execute(ListBlocks {}, |locks, style| match locks.is_empty() {
        true => "No locks.\n".to_owned(),
        false => lock_table(locks, style) + &total(locks.len(), "lock", style),
    })
}
