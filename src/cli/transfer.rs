//! What `export` and `import` share: a target, how far it is, and what has moved.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::failure::CliError;
use super::render::Panel;
use super::session::{SessionError, by_this_user, open_in_turn};
use super::{Cli, print};
use crate::guard::Config;
use crate::keyguard::KeyGuard;
use crate::store::transfer::TransferStats;
use crate::store::{OpenError, StoreError};

/// Opens a store that nobody else may use meanwhile.
pub(super) fn open(place: &Path, config: Config) -> Result<KeyGuard, CliError> {
    match open_in_turn(place, &config.socket(false)) {
        Ok(guard) => Ok(guard),
        Err(SessionError::Open(OpenError::InUse { path, holder })) => Err(CliError::Held {
            file: path,
            holder: holder.unwrap_or_else(|| "another process".to_owned()),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Has `fill` move so many organizations and keys to a target, and enters that in its audit log.
pub(super) fn fill(
    target: KeyGuard,
    organizations_and_keys: u64,
    fill: impl FnOnce(&KeyGuard, &mut dyn FnMut(&TransferStats)) -> Result<TransferStats, StoreError>,
) -> Result<TransferStats, CliError> {
    let bar = bar(organizations_and_keys);
    let moved = fill(&target, &mut |moved| show(&bar, moved));
    bar.finish_and_clear();
    let moved = moved.map_err(CliError::moving)?;
    let audit = by_this_user(&target).audit_context("import", None, as_json(&moved));
    let noted = target.inner.store().note(&audit);
    noted.map_err(CliError::moving)?;
    target.close()?;
    Ok(moved)
}

/// On standard error, if that is a terminal.
fn bar(len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}");
    let bar = ProgressBar::new(len);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, moved: &TransferStats) {
    bar.set_position(moved.orgs + moved.keys);
    bar.set_message(match moved.totals {
        0 => "organizations and keys".to_owned(),
        totals => format!("{totals} rows of totals"),
    });
}

/// Says what has moved, and what to do next.
pub(super) fn report(
    cli: &Cli,
    title: &'static str,
    moved: &TransferStats,
    next: &str,
) -> Result<(), CliError> {
    if cli.json {
        return cli.print_json(&as_json(moved));
    }
    let panel = Panel::new(title)
        .line("organizations", moved.orgs)
        .line("keys", moved.keys)
        .line("balances", moved.balances)
        .line("locks", moved.locks)
        .line("rows of totals", moved.totals)
        .copied("next", next);
    print(&panel.render(cli.look))
}

fn as_json(moved: &TransferStats) -> Value {
    json!({
        "organizations": moved.orgs,
        "keys": moved.keys,
        "credentials": moved.credentials,
        "balances": moved.balances,
        "locks": moved.locks,
        "totals": moved.totals,
    })
}
