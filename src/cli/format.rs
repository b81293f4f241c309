//! Views of records that several commands print.

use super::render::{OutputStyle, Panel, Table};
use crate::guard::LimitStatus;
use crate::limit::Limit;
use crate::lockout::Lock;
use crate::model::{Key, Org};
use crate::time::Timestamp;

pub(super) fn org_panel(title: &'static str, org: &Org, style: OutputStyle) -> String {
    Panel::new(title)
        .line("id", org.id)
        .line("name", &org.name)
        .line("status", org.status.as_str())
        .line("limits", limits(&org.limits))
        .line("created", seconds(org.created_at))
        .render(style)
}

pub(super) fn key_panel(title: &'static str, key: &Key, style: OutputStyle) -> String {
    key_lines(Panel::new(title), key).render(style)
}

/// Adds the properties of a key to a panel.
pub(super) fn key_lines(panel: Panel, key: &Key) -> Panel {
    let mut panel = panel
        .line("id", key.id)
        .line("label", &key.label)
        .line("prefix", &key.shown_prefix)
        .line("status", key.status.as_str())
        .line("per minute", key.rate_limit_per_minute)
        .line("limits", limits(&key.limits))
        .line("scopes", scopes(key))
        .line("expires", key.expires_at.map_or("never".into(), seconds));
    if !key.allowed_ips.is_empty() {
        panel = panel.line("accepted from", key.allowed_ips.texts().join(", "));
    }
    for known in &key.overrides {
        let text = format!("{} until {}", known.limit, seconds(known.until));
        panel = panel.line("overridden", text);
    }
    panel
}

pub(super) fn limits(limits: &[Limit]) -> String {
    or_dash(limits.iter().map(Limit::to_string).collect(), ", ")
}

pub(super) fn scopes(key: &Key) -> String {
    or_dash(key.scopes.iter().map(ToString::to_string).collect(), ",")
}

fn or_dash(texts: Vec<String>, separator: &str) -> String {
    match texts.is_empty() {
        true => "-".to_owned(),
        false => texts.join(separator),
    }
}

pub(super) fn limit_table(states: &[LimitStatus]) -> Table {
    let mut table = Table::new(&["~rule", ">limit", ">remaining", ">reset"]);
    for state in states {
        let reset = match (state.overridden_until, state.resets_in) {
            (Some(until), _) => format!("overridden until {}", seconds(until)),
            (None, Some(resets_in)) => format!("{} s", resets_in.as_secs()),
            (None, None) => "-".to_owned(),
        };
        table.row([
            state.name.clone(),
            state.limit.to_string(),
            state.remaining.to_string(),
            reset,
        ]);
    }
    table
}

pub(super) fn lock_table(locks: &[Lock], style: OutputStyle) -> String {
    let mut table = Table::new(&["ip", "~scope", "~cause", "since", "until"]);
    for lock in locks {
        table.row([
            lock.ip.to_string(),
            lock.scope.to_string(),
            lock.cause.to_string(),
            minutes(lock.since, style),
            minutes(lock.until, style),
        ]);
    }
    table.render(style)
}

/// A time to the second.
pub(super) fn seconds(at: Timestamp) -> String {
    Timestamp::from_unix_millis(at.unix_millis() / 1_000 * 1_000).to_string()
}

/// A time to the second; in a terminal, where space is short, to the minute.
fn minutes(at: Timestamp, style: OutputStyle) -> String {
    let text = seconds(at);
    match (style.is_terminal, text.get(..16)) {
        (true, Some(short)) => short.replace('T', " "),
        _ => text,
    }
}

/// A time to the day.
pub(super) fn day(at: Timestamp) -> String {
    let mut text = at.to_string();
    text.truncate("2026-11-24".len());
    text
}

/// A time to the second; in a terminal, where space is short, without the year.
pub(super) fn short_time(at: Timestamp, style: OutputStyle) -> String {
    let text = seconds(at);
    match (style.is_terminal, text.get(5..19)) {
        (true, Some(short)) => short.replace('T', " "),
        _ => text,
    }
}
