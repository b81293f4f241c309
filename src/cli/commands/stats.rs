//! `stats`

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;

use crate::admin::Stats;
use crate::admin::command::GetStats;
use crate::cli::format::count;
use crate::cli::output::write_out;
use crate::cli::render::{OutputStyle, Panel, Table};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard stats
  keyguard stats --watch          # every 2 seconds, until Ctrl-C
  keyguard stats --watch 60 --json >> stats.ndjson";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// Repeat after so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = pause)]
    watch: Option<Duration>,
}

fn pause(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|pause| (SHORTEST..=LONGEST).contains(pause))
        .ok_or_else(|| "expected a number of seconds from 0.1 to 86400".to_owned())
}

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(86_400);

/// Clears a terminal.
pub(super) const CLEAR: &[u8] = b"\x1b[H\x1b[2J\x1b[3J";

pub(crate) fn run(cli: &Cli, opts: &Opts) -> Result<Exit, CliError> {
    let mut last = None;
    loop {
        // A connection that stays open would keep a server from opening the file.
        let reply = cli.connect()?.execute(GetStats {})?;
        let (at, stats) = (Instant::now(), &reply.stats);
        if opts.watch.is_some() && cli.style.is_terminal {
            write_out(CLEAR)?;
        }
        let rate = last.map(|(then, requests)| rate(stats.requests, requests, at - then));
        cli.print(&reply, |style| view(stats, rate, style))?;
        if !cli.json {
            for warning in &stats.warnings {
                cli.warn(warning);
            }
        }
        let Some(pause) = opts.watch else {
            return Ok(Exit::Done);
        };
        last = Some((at, stats.requests));
        sleep(pause);
    }
}

/// Returns the requests per second between two readings of the total.
fn rate(requests: u64, before: u64, elapsed: Duration) -> f64 {
    requests.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(0.001)
}

/// The rate is that of the requests since the last view.
fn view(stats: &Stats, rate: Option<f64>, style: OutputStyle) -> String {
    let mut panel = Panel::new("Statistics")
        .line("organizations", count(stats.organizations, style))
        .line("total keys", count(stats.total_keys, style))
        .line("active keys", count(stats.active_keys, style))
        .line("requests", count(stats.requests, style))
        .line("requests (1h)", count(stats.requests_1h, style));
    if let Some(rate) = rate {
        panel = panel.line("requests/s", format!("{rate:.1}"));
    }
    panel = panel
        .line("error rate", format!("{:.2} %", 100.0 * stats.error_rate()))
        .line("locked out", count(stats.locks, style));
    let refused = stats.refused.iter().map(|(reason, count)| (reason, count));
    for (name, counts) in [
        ("refused", counts(refused, style)),
        ("shadow denied", counts(stats.shadow_denied.iter(), style)),
    ] {
        if !counts.is_empty() {
            panel = panel.line(name, counts);
        }
    }
    for (name, number) in [
        ("not recorded", stats.dropped),
        ("rejected locks", stats.rejected_locks),
        ("sink failures", stats.sink_failures),
    ] {
        if number > 0 {
            panel = panel.line(name, count(number, style));
        }
    }
    panel.render(style) + &top_keys(stats, style).render(style)
}

fn counts<'a, N: Display + 'a>(
    counts: impl Iterator<Item = (&'a N, &'a u64)>,
    style: OutputStyle,
) -> String {
    let texts: Vec<String> = counts
        .map(|(name, number)| format!("{} {name}", count(*number, style)))
        .collect();
    texts.join(", ")
}

fn top_keys(stats: &Stats, style: OutputStyle) -> Table {
    let mut table = Table::new(&[">id", "top keys", "~label", "~org", ">requests"]);
    for top in &stats.top_keys {
        table.row([
            top.key.id.to_string(),
            top.key.shown_prefix.clone(),
            top.key.label.clone(),
            top.org_name.clone(),
            count(top.requests, style),
        ]);
    }
    table
}
