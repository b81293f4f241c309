//! `admin-key`

use serde_json::json;

use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::existing_secret;

pub(crate) const EXAMPLES: &str = "Examples:
  export KEYGUARD_ADMIN_KEY=$(keyguard admin-key)
  curl -H \"X-Admin-Key: $(keyguard admin-key)\" http://127.0.0.1:8700/admin/orgs";

/// Prints the key derived from the secret. The data file is not opened.
pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    cli.require_data()?;
    let key = existing_secret(&cli.db, cli.secret()?)?.admin_key();
    let key = key.as_str();
    cli.print(&json!({ "admin_key": key }), |_| format!("{key}\n"))?;
    Ok(Exit::Done)
}
