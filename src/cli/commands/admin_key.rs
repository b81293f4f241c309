//! `admin-key`

use serde_json::json;

use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::existing_secret;

/// Prints the key derived from the secret. The data file is not opened.
pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    cli.require_data()?;
    let key = existing_secret(&cli.db, cli.secret()?)?.admin_key();
    let key = key.as_str();
    cli.print(&json!({ "admin_key": key }), |_| format!("{key}\n"))?;
    Ok(Exit::Done)
}
