//! `backup`

use std::path::PathBuf;

use clap::Args;

use crate::cli::connection::{back_up, backup_progress};
use crate::cli::copying::{CopyReport, report, require_file, with_progress};
use crate::cli::settings::program_at;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::sys::shell::quoted;

const EXAMPLES: &str = "Examples:
  keyguard backup /backup/keyguard-monday.redb
  keyguard --db NEW.redb restore /backup/keyguard-monday.redb

The copy is a data file in the state of one moment, and was read back. Its secret, without which it is of no \
use, is not in it: keep a copy of the secret elsewhere. If a server holds the data file, the server writes the copy, \
with its rights, and finishes it also after Ctrl-C. `keyguard serve --backup-dir DIR` writes copies regularly.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The file to create
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Needs no secret.
pub(crate) fn run(cli: &Cli, opts: &Opts) -> Result<Exit, CliError> {
    require_file(&opts.file)?;
    let to = std::path::absolute(&opts.file).map_err(|error| CliError::UsageFile {
        file: opts.file.clone(),
        source: error,
    })?;
    let db = cli.db.as_path();
    let copied = with_progress(
        |progress| back_up(db, &to, progress),
        || backup_progress(db),
    )?;
    let restore = format!(
        "{} restore {}",
        program_at("NEW.redb".as_ref()),
        quoted(&opts.file.display().to_string())
    );
    let notes = [
        ("secret", "not included: keep a copy elsewhere".to_owned()),
        ("restore", restore),
    ];
    let copy = CopyReport {
        title: "Backup written",
        file: &opts.file,
        copied,
        notes: &notes,
        fields: &[],
    };
    report(cli, copy)
}
