//! `compact`

use crate::cli::connection::compact;
use crate::cli::copying::{CopyReport, report, with_progress};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard backup /backup/before.redb && keyguard compact";

/// Needs no secret.
pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    let before = std::fs::metadata(&cli.db).map_or(0, |file| file.len());
    let copied = with_progress(|progress| compact(&cli.db, progress), || None)?;
    let notes = [("before", before.to_string())];
    let copy = CopyReport {
        title: "Compacted",
        file: &cli.db,
        copied,
        notes: &notes,
        fields: &[],
    };
    report(cli, copy)
}
