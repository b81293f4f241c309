//! `init`, `admin-key`

use serde_json::json;

use super::failure::CliError;
use super::render::Panel;
use super::session::open_in_turn;
use super::{Cli, Exit, print};
use crate::admin::answer::Command;
use crate::guard::{followed, is_server, secret_path};

/// Creates the data file. One that is there is only looked at.
pub(super) fn init(cli: &Cli) -> Result<Exit, CliError> {
    let file = &cli.connection.db;
    if is_server(file) {
        return init_database(cli);
    }
    let is_new = !file.exists();
    if is_new {
        drop(open_in_turn(file, &cli.config()?.socket(false))?);
    } else {
        drop(cli.session()?);
    }
    if cli.json {
        cli.print_json(&json!({ "db": file, "created": is_new }))?;
        return Ok(Exit::Done);
    }
    let title = if is_new {
        "Data file created"
    } else {
        "Data file found"
    };
    let secret = secret_path(&followed(file)?);
    let mut panel = Panel::new(title).copied("file", file.display());
    if secret.exists() {
        panel = panel.copied("secret", secret.display());
    }
    let next = format!("{} create-org NAME", cli.called());
    print(&panel.copied("next", next).render(cli.look))?;
    Ok(Exit::Done)
}

/// Creates the tables of a database. Those that are there are only looked at.
fn init_database(cli: &Cli) -> Result<Exit, CliError> {
    // A guard would also wait for a server that is down.
    cli.session()?.ask(Command::Stats)?;
    if cli.json {
        cli.print_json(&json!({ "db": "postgres", "ready": true }))?;
        return Ok(Exit::Done);
    }
    let next = format!("{} create-org NAME", cli.called());
    let panel = Panel::new("Database ready").copied("next", next);
    print(&panel.render(cli.look))?;
    Ok(Exit::Done)
}

/// Derived from the secret alone; the data file is not opened.
pub(super) fn admin_key(cli: &Cli) -> Result<Exit, CliError> {
    cli.needs_data()?;
    let secret = crate::guard::existing_secret(&cli.connection.db, cli.secret()?)?;
    let key = secret.admin_key();
    if cli.json {
        cli.print_json(&json!({ "admin_key": key.as_str() }))?;
    } else {
        print(&format!("{}\n", key.as_str()))?;
    }
    Ok(Exit::Done)
}
