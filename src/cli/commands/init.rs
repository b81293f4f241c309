//! `init`

use serde_json::json;

use crate::admin::command::GetStats;
use crate::cli::connection::open_in_turn;
use crate::cli::render::Panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::{followed, secret_path};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard init
  keyguard --db /var/lib/keyguard/keyguard.redb init";

/// Creates the data file or the tables of the database. Changes nothing that exists.
pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    match cli.is_on_server() {
        true => init_database(cli),
        false => init_file(cli),
    }
}

fn init_file(cli: &Cli) -> Result<Exit, CliError> {
    let is_new = !cli.db.exists();
    match is_new {
        true => drop(open_in_turn(&cli.db, &cli.config()?.socket(false))?),
        false => drop(cli.connect()?),
    }
    let secret = secret_path(&followed(&cli.db)?);
    cli.print(&json!({ "db": cli.db, "created": is_new }), |style| {
        let title = match is_new {
            true => "Data file created",
            false => "Data file found",
        };
        let mut panel = Panel::new(title).copied("file", cli.db.display());
        if secret.exists() {
            panel = panel.copied("secret", secret.display());
        }
        panel
            .copied("next", next(cli))
            .copied("library", opening(cli))
            .copied("sidecar", format!("{} serve", cli.program()))
            .copied("proxy", "examples/sidecar: nginx, Caddy, HAProxy")
            .render(style)
    })?;
    Ok(Exit::Done)
}

fn init_database(cli: &Cli) -> Result<Exit, CliError> {
    // Unlike opening the database, a query fails if the server is down.
    cli.connect()?.execute(GetStats {})?;
    cli.print(&json!({ "db": "postgres", "ready": true }), |style| {
        Panel::new("Database ready")
            .copied("next", next(cli))
            .render(style)
    })?;
    Ok(Exit::Done)
}

fn next(cli: &Cli) -> String {
    format!("{} create-org NAME", cli.program())
}

/// Returns the expression that opens the data file in a Rust program.
fn opening(cli: &Cli) -> String {
    format!("KeyGuard::open({:?}, Config::default())", cli.db)
}
