//! `reload`

use crate::admin::command::Reload;
use crate::cli::render::Panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    if cli.is_on_server() {
        return Err(CliError::ReloadOnServer);
    }
    cli.execute(Reload {}, |_, style| {
        Panel::new("Policy reloaded")
            .line("in force", "yes")
            .render(style)
    })
}
