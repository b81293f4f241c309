//! `verify`

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::connection::verify;
use crate::cli::render::{OutputStyle, Panel, Table};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::store::Verification;

const EXAMPLES: &str = "Examples:
  keyguard verify
  keyguard verify /backup/keyguard-monday.redb";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The data file, in place of that of --db
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: Option<PathBuf>,
}

/// Needs no secret.
pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    let found = verify(&cli.db)?;
    cli.print(&found, |style| view(&cli.db, &found, style))?;
    Ok(match found.is_sound() {
        true => Exit::Done,
        false => Exit::Refused,
    })
}

fn view(file: &Path, found: &Verification, style: OutputStyle) -> String {
    let panel = Panel::new("Verification")
        .line("file", file.display())
        .line("rows read", found.rows)
        .line(
            "state",
            match found.is_sound() {
                true => "sound",
                false => "damaged: restore a backup, or go on without the lost rows",
            },
        );
    let mut table = Table::new(&["table", ">rows", "~lost", "~problem"]);
    for damage in &found.damage {
        table.row([
            damage.table.clone(),
            damage.rows.map_or("?".into(), |rows| rows.to_string()),
            damage.lost.clone(),
            damage.problem.clone(),
        ]);
    }
    panel.render(style) + &table.render(style)
}
