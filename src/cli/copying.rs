//! What `backup`, `restore` and `compact` have in common: a progress bar, and the report.

use std::path::Path;
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::error::CliError;
use super::exit::Exit;
use super::render::Panel;
use super::settings::Cli;
#[cfg(unix)]
use super::signals;
use crate::guard::Storage;
use crate::store::copy::CopyProgress;
use crate::store::{FileCopy, OpenError};

const SHOW_INTERVAL: Duration = Duration::from_millis(250);
/// The length of the bar.
const STEPS: f64 = 1_000.0;
/// Shown beside the progress of a copy in another process.
const ELSEWHERE: &str = "the server goes on after Ctrl-C";

/// Refuses the URL of a database as a path; it may contain a password.
pub(super) fn require_file(path: &Path) -> Result<(), CliError> {
    let storage = Storage::of(path)?;
    match storage.is_server() {
        false => Ok(()),
        true => Err(OpenError::IsDatabase {
            storage: storage.shown(),
        }
        .into()),
    }
}

/// Runs `copy` with a progress bar. `elsewhere` returns the progress of a copy in another process.
pub(super) fn with_progress(
    copy: impl FnOnce(&CopyProgress) -> Result<FileCopy, CliError>,
    elsewhere: impl Fn() -> Option<f64> + Sync,
) -> Result<FileCopy, CliError> {
    let bar = ProgressBar::new(STEPS as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent} %  {eta}  {msg}") {
        bar.set_style(style);
    }
    let progress = CopyProgress::default();
    let (end, ended) = channel::<()>();
    let copied = std::thread::scope(|threads| {
        let (bar, progress, elsewhere) = (&bar, &progress, &elsewhere);
        // Without a terminal nobody sees the bar.
        if !bar.is_hidden() {
            threads.spawn(move || {
                while ended.recv_timeout(SHOW_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if let Some(fraction) = progress
                        .fraction()
                        .or_else(|| elsewhere().inspect(|_| bar.set_message(ELSEWHERE)))
                    {
                        bar.set_position((fraction * STEPS) as u64);
                    }
                }
            });
        }
        let copied = copy(progress);
        // From here on, signals end the process.
        progress.cancel();
        drop(end);
        copied
    });
    bar.finish_and_clear();
    copied
}

/// Returns `copy`, which SIGINT and SIGTERM cancel once it has begun. A second signal ends the process at once.
pub(super) fn cancelled_by_signals<T>(
    progress: &CopyProgress,
    copy: impl Fn() -> T,
) -> impl Fn() -> T {
    let registered = Once::new();
    move || {
        registered.call_once(|| cancel_on_signals(progress));
        copy()
    }
}

#[cfg(unix)]
fn cancel_on_signals(progress: &CopyProgress) {
    // A killed copy leaves a temporary file, which the next one removes.
    for signal in signals::ENDING {
        signals::set_on_signal(signal, &progress.cancel_flag());
    }
}

#[cfg(not(unix))]
fn cancel_on_signals(_: &CopyProgress) {}

/// The report of a copy.
pub(super) struct CopyReport<'r> {
    pub(super) title: &'static str,
    pub(super) file: &'r Path,
    pub(super) copied: FileCopy,
    /// Further lines for users.
    pub(super) notes: &'r [(&'static str, String)],
    /// Further fields for programs.
    pub(super) fields: &'r [(&'static str, &'static str)],
}

/// Prints what was written.
pub(super) fn report(cli: &Cli, report: CopyReport<'_>) -> Result<Exit, CliError> {
    let CopyReport {
        title,
        file,
        copied,
        notes,
        fields,
    } = report;
    if copied.lost_blocks > 0 {
        cli.warn(&format!(
            "damaged blocks of requests that the copy lacks: {}; `{} verify` shows what is lost",
            copied.lost_blocks,
            cli.program()
        ));
    }
    if copied.lost_totals > 0 {
        cli.warn(&format!(
            "tables of totals with damaged rows, which the copy lacks: {}; `{} verify` shows what is lost",
            copied.lost_totals,
            cli.program()
        ));
    }
    if copied.lost_windows > 0 {
        cli.warn(&format!(
            "tables of rate-limit windows with damaged rows, which the copy lacks: {}; these windows start empty",
            copied.lost_windows
        ));
    }
    if copied.tables_set_aside > 0 {
        cli.warn(&format!(
            "tables with damaged requests, totals or windows, set aside earlier, that the copy lacks: {}",
            copied.tables_set_aside
        ));
    }
    let mut reply = serde_json::to_value(copied)?;
    reply["file"] = json!(file.display().to_string());
    for (name, text) in fields {
        reply[*name] = json!(text);
    }
    cli.print(&reply, |style| {
        let panel = Panel::new(title)
            .copied("file", file.display())
            .line("rows", copied.rows)
            .line("bytes", copied.bytes);
        let lines = notes.iter();
        let panel = lines.fold(panel, |panel, (name, text)| panel.line(name, text));
        panel.render(style)
    })?;
    Ok(Exit::Done)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn first_signal_cancels_the_copy() {
        let progress = CopyProgress::default();
        let copy = cancelled_by_signals(&progress, || {
            progress.add(1).unwrap();
            signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
            progress.add(1)
        });
        assert!(copy().is_err());
    }
}
