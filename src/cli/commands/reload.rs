//! `reload`

use crate::admin::command::Reload;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard policy check keyguard.toml && keyguard reload";

pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    if cli.is_on_server() {
        return Err(CliError::ReloadOnServer);
    }
    cli.execute(Reload {}, |_, _| "Policy reloaded.\n".to_owned())
}
