//! `init`, `admin-key`

use serde_json::json;

use super::failure::{CliError, quoted};
use super::render::Panel;
use super::{Cli, Exit, print};
use crate::admin::session::SessionError;
use crate::guard::KeyGuard;

/// Creates the data file. One that is there is only looked at.
pub(super) fn init(cli: &Cli) -> Result<Exit, CliError> {
    let file = &cli.place.db;
    let is_new = !file.exists();
    if is_new {
        drop(KeyGuard::open(file, cli.config()?.socket(false))?);
    } else {
        drop(cli.session()?);
    }
    if cli.json {
        cli.print_json(&json!({ "db": file, "created": is_new }));
        return Ok(Exit::Done);
    }
    let title = if is_new {
        "Data file created"
    } else {
        "Data file found"
    };
    let mut secret = file.clone().into_os_string();
    secret.push(".secret");
    let mut panel = Panel::new(title).copied("file", file.display());
    if std::path::Path::new(&secret).exists() {
        panel = panel.copied("secret", secret.to_string_lossy());
    }
    let db = match file.to_str() {
        Some("keyguard.redb") => String::new(),
        _ => format!("--db {} ", quoted(&file.display().to_string())),
    };
    print(
        &panel
            .copied("next", format!("keyguard {db}create-org NAME"))
            .render(cli.look),
    );
    Ok(Exit::Done)
}

/// Derived from the secret alone; the data file is not opened.
pub(super) fn admin_key(cli: &Cli) -> Result<Exit, CliError> {
    let file = &cli.place.db;
    if !file.exists() {
        return Err(SessionError::NoFile(file.clone()).into());
    }
    let secret = crate::guard::existing_secret(file, cli.secret()?)?;
    let key = secret.admin_key();
    if cli.json {
        cli.print_json(&json!({ "admin_key": key.as_str() }));
    } else {
        print(&format!("{}\n", key.as_str()));
    }
    Ok(Exit::Done)
}
