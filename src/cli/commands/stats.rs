//! `stats`

use std::fmt::Display;

use crate::admin::Stats;
use crate::admin::command::GetStats;
use crate::cli::render::{OutputStyle, Panel, Table};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) fn run(cli: &Cli) -> Result<Exit, CliError> {
    let reply = cli.connect()?.execute(GetStats {})?;
    cli.print(&reply, |style| view(&reply.stats, style))?;
    if !cli.json {
        for warning in &reply.stats.warnings {
            cli.warn(warning);
        }
    }
    Ok(Exit::Done)
}

fn view(stats: &Stats, style: OutputStyle) -> String {
    let mut panel = Panel::new("Statistics")
        .line("organizations", stats.organizations)
        .line("total keys", stats.total_keys)
        .line("active keys", stats.active_keys)
        .line("requests", stats.requests)
        .line("requests (1h)", stats.requests_1h)
        .line("error rate", format!("{:.2} %", 100.0 * stats.error_rate()))
        .line("locked out", stats.locks);
    let refused = stats.refused.iter().map(|(reason, count)| (reason, count));
    for (name, counts) in [
        ("refused", counts(refused)),
        ("shadow denied", counts(stats.shadow_denied.iter())),
    ] {
        if !counts.is_empty() {
            panel = panel.line(name, counts);
        }
    }
    for (name, count) in [
        ("not recorded", stats.dropped),
        ("rejected locks", stats.rejected_locks),
        ("sink failures", stats.sink_failures),
    ] {
        if count > 0 {
            panel = panel.line(name, count);
        }
    }
    panel.render(style) + &top_keys(stats).render(style)
}

fn counts<'a, N: Display + 'a>(counts: impl Iterator<Item = (&'a N, &'a u64)>) -> String {
    let texts: Vec<String> = counts
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    texts.join(", ")
}

fn top_keys(stats: &Stats) -> Table {
    let mut table = Table::new(&[">id", "top keys", "~label", "~org", ">requests"]);
    for top in &stats.top_keys {
        table.row([
            top.key.id.to_string(),
            top.key.shown_prefix.clone(),
            top.key.label.clone(),
            top.org_name.clone(),
            top.requests.to_string(),
        ]);
    }
    table
}
