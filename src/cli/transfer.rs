//! Copying records to another store, shared by `export` and `import`.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use super::connection::{ConnectError, by_this_user, open_in_turn};
use super::error::CliError;
use super::exit::Exit;
use super::format::count;
use super::render::Panel;
use super::settings::Cli;
use crate::guard::Config;
use crate::keyguard::KeyGuard;
use crate::store::transfer::TransferStats;
use crate::store::{OpenError, StoreError};

/// Opens a store for this process alone.
pub(super) fn open(db: &Path, config: Config) -> Result<KeyGuard, CliError> {
    match open_in_turn(db, &config.socket(false)) {
        Ok(guard) => Ok(guard),
        Err(ConnectError::Open(OpenError::InUse { path, holder })) => Err(CliError::Held {
            file: path,
            holder: holder.unwrap_or_else(|| "another process".to_owned()),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Runs `copy` into a target with a progress bar on `total` organizations and keys, and adds an entry to
/// the target's audit log.
pub(super) fn transfer(
    target: KeyGuard,
    total: u64,
    copy: impl FnOnce(&KeyGuard, &mut dyn FnMut(&TransferStats)) -> Result<TransferStats, StoreError>,
) -> Result<TransferStats, CliError> {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}") {
        bar.set_style(style);
    }
    let copied = copy(&target, &mut |copied| {
        bar.set_position(copied.orgs + copied.keys);
        bar.set_message(match copied.totals {
            0 => "organizations and keys".to_owned(),
            totals => format!("{totals} rows of totals"),
        });
    });
    bar.finish_and_clear();
    let copied = copied?;
    let audit = by_this_user(&target).audit_context("import", None, json!(copied));
    target.inner.store().append_audit(&audit)?;
    target.close()?;
    Ok(copied)
}

/// What was copied, as JSON has it.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    copied: &'a TransferStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// Prints how much was copied, a note, and the next command to type.
pub(super) fn report(
    cli: &Cli,
    title: &'static str,
    copied: &TransferStats,
    note: Option<&'static str>,
    next: &str,
) -> Result<Exit, CliError> {
    cli.print(&Report { copied, note }, |style| {
        let mut panel = Panel::new(title)
            .line("organizations", count(copied.orgs, style))
            .line("keys", count(copied.keys, style))
            .line("balances", count(copied.balances, style))
            .line("locks", count(copied.locks, style))
            .line("rows of totals", count(copied.totals, style));
        if let Some(note) = note {
            panel = panel.line("note", note);
        }
        panel.copied("next", next).render(style)
    })?;
    Ok(Exit::Done)
}
