//! Views of records that several commands print.

use super::render::{OutputStyle, Panel, Table};
use crate::guard::LimitStatus;
use crate::input::text::with_commas;
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
    if let Some(until) = key.old_text_until {
        panel = panel.line("old text", format!("accepted until {}", seconds(until)));
    }
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

pub(super) fn limit_table(states: &[LimitStatus], style: OutputStyle) -> Table {
    let mut table = Table::new(&["~rule", ">limit", ">remaining", ">reset"]);
    for state in states {
        let reset = match (state.overridden_until, state.resets_in) {
            (Some(until), _) => format!("overridden until {}", seconds(until)),
            (None, Some(resets_in)) => format!("{} s", resets_in.as_secs()),
            (None, None) => "-".to_owned(),
        };
        table.row([
            state.name.clone(),
            count(state.limit, style),
            count(state.remaining, style),
            reset,
        ]);
    }
    table
}

pub(super) fn lock_table(locks: &[Lock], style: OutputStyle) -> String {
    let mut table = Table::new(&["ip", "~scope", "~cause", "@since", "@until"]);
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
pub(super) fn minutes(at: Timestamp, style: OutputStyle) -> String {
    let text = seconds(at);
    match (style.is_terminal, text.get(..16)) {
        (true, Some(short)) => short.replace('T', " "),
        _ => text,
    }
}

/// A number, in a terminal with a comma between thousands.
pub(super) fn count(number: u64, style: OutputStyle) -> String {
    match style.is_terminal {
        true => with_commas(number),
        false => number.to_string(),
    }
}

/// The last line of a list in a terminal, such as `Total: 3 key(s)`. A pipe gets rows only.
pub(super) fn total(rows: usize, noun: &str, style: OutputStyle) -> String {
    match style.is_terminal && rows > 0 {
        true => format!("Total: {} {noun}(s)\n", count(rows as u64, style)),
        false => String::new(),
    }
}

/// A time to the second; in a terminal, where space is short, without the year.
pub(super) fn short_time(at: Timestamp, style: OutputStyle) -> String {
    let text = seconds(at);
    match (style.is_terminal, text.get(5..19)) {
        (true, Some(short)) => short.replace('T', " "),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockout::{LockCause, LockScope};

    const TERMINAL: OutputStyle = OutputStyle::TERMINAL;
    const PIPE: OutputStyle = OutputStyle::PIPE;

    #[test]
    fn numbers_have_a_comma_between_thousands_in_a_terminal() {
        let numbers = [0, 999, 1_000, 12_345, 123_456, u64::MAX];
        assert_eq!(
            numbers.map(|number| count(number, TERMINAL)),
            [
                "0",
                "999",
                "1,000",
                "12,345",
                "123,456",
                "18,446,744,073,709,551,615"
            ]
        );
        assert_eq!(count(12_345, PIPE), "12345");
        assert_eq!(total(1_500, "key", TERMINAL), "Total: 1,500 key(s)\n");
        assert_eq!(total(1_500, "key", PIPE) + &total(0, "key", TERMINAL), "");
    }

    /// Once, the table of locks of IPv6 networks left four columns for the scope and the cause.
    #[test]
    fn locks_are_readable_at_80_columns() {
        let since = Timestamp::from_unix_millis(1_768_478_400_000);
        let lock = |ip: &str, scope, cause| Lock {
            ip: ip.parse().unwrap(),
            scope,
            cause,
            since,
            until: since,
            step: 0,
            remembered_until: since,
        };
        let locks = [
            lock("192.0.2.7", LockScope::All, LockCause::Manual),
            lock(
                "2001:db8:1234:5678::/64",
                LockScope::Keyless,
                LockCause::MissingKeys,
            ),
        ];
        assert_eq!(
            lock_table(&locks, TERMINAL),
            "┌─────────────────────────┬────────────────┬─────────┬────────────┬────────────┐\n\
             │ ip                      │ scope          │ cause   │ since      │ until      │\n\
             ├─────────────────────────┼────────────────┼─────────┼────────────┼────────────┤\n\
             │ 192.0.2.7               │ all requests   │ manual  │ 2026-01-15 │ 2026-01-15 │\n\
             │                         │                │         │ 12:00      │ 12:00      │\n\
             │ 2001:db8:1234:5678::/64 │ requests       │ missing │ 2026-01-15 │ 2026-01-15 │\n\
             │                         │ without a key  │ keys    │ 12:00      │ 12:00      │\n\
             └─────────────────────────┴────────────────┴─────────┴────────────┴────────────┘\n"
        );
    }
}
