//! `stats`

use super::failure::CliError;
use super::render::{Look, Panel, Table};
use super::{Cli, Exit};
use crate::admin::Stats;
use crate::admin::answer::Command;
use crate::model::Reason;

pub(super) fn show(cli: &Cli) -> Result<Exit, CliError> {
    let stats: Stats = cli.ask(Command::Stats, text)?;
    if !cli.json {
        for warning in &stats.warnings {
            cli.warn(warning);
        }
    }
    Ok(Exit::Done)
}

fn text(stats: &Stats, look: Look) -> String {
    let mut panel = Panel::new("Statistics")
        .line("organizations", stats.organizations)
        .line("total keys", stats.total_keys)
        .line("active keys", stats.active_keys)
        .line("requests", stats.requests)
        .line("requests (1h)", stats.requests_1h)
        .line("error rate", format!("{:.2} %", 100.0 * stats.error_rate()))
        .line("locked out", stats.locks);
    if !stats.refused.is_empty() {
        let count = |(reason, count): &(Reason, u64)| format!("{count} {reason}");
        let counts: Vec<String> = stats.refused.iter().map(count).collect();
        panel = panel.line("refused", counts.join(", "));
    }
    if !stats.shadowed.is_empty() {
        let count = |(name, count): (&String, &u64)| format!("{count} {name}");
        let counts: Vec<String> = stats.shadowed.iter().map(count).collect();
        panel = panel.line("in shadow", counts.join(", "));
    }
    if stats.dropped > 0 {
        panel = panel.line("not recorded", stats.dropped);
    }
    if stats.unlocked > 0 {
        panel = panel.line("not locked out", stats.unlocked);
    }
    if stats.sink_failures > 0 {
        panel = panel.line("sink failures", stats.sink_failures);
    }
    let mut out = panel.render(look);
    if stats.top_keys.is_empty() {
        return out;
    }
    let mut table = Table::new(&[">id", "top keys", "~label", "~org", ">requests"]);
    for top in &stats.top_keys {
        table.row([
            top.key.id.to_string(),
            top.key.prefix.clone(),
            top.key.label.clone(),
            top.org_name.clone(),
            top.requests.to_string(),
        ]);
    }
    out += &table.render(look);
    out
}
