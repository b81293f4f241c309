//! `list-keys`

use clap::Args;

use crate::admin::command::KeyReply;
use crate::cli::format::{count, minutes, scopes, total};
use crate::cli::render::{OutputStyle, Table};
use crate::cli::{error::CliError, exit::Exit, pages, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard list-keys
  keyguard list-keys --org acme
  keyguard list-keys --search shop
  keyguard list-keys --json | jq -r '.[] | select(.active) | .id'";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// Only keys of this organization
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Only keys whose label, prefix or organization name contains this text, or whose id it is. The case of
    /// the letters A to Z does not matter
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let none = match opts.search {
        Some(_) => "No key is found.",
        None => "No keys yet: keyguard create-key --org NAME --label LABEL",
    };
    let keys = cli.list(|connection| {
        pages::items(pages::keys(connection, opts.org, opts.search)).collect()
    })?;
    cli.print(&keys, |style| view(&keys, none, style))?;
    Ok(Exit::Done)
}

fn view(keys: &[KeyReply], none: &str, style: OutputStyle) -> String {
    table(keys, style).render_or(none, style)
        + &total(keys.len(), "key", style)
        + &rotations(keys, style)
}

/// The columns. The last one is shown in a pipe only: a terminal has no space for it.
const COLUMNS: [&str; 9] = [
    ">id",
    "prefix",
    "~label",
    "~org",
    ">/min",
    "~scopes",
    "status",
    "@last used",
    "old text until",
];

fn table(keys: &[KeyReply], style: OutputStyle) -> Table {
    let shown = COLUMNS.len() - usize::from(style.is_terminal);
    let mut table = Table::new(&COLUMNS[..shown]);
    for listed in keys {
        table.row(cells(listed, style).into_iter().take(shown));
    }
    table
}

fn cells(KeyReply { key, org_name, .. }: &KeyReply, style: OutputStyle) -> [String; COLUMNS.len()] {
    let (used, old_text) = (key.last_used_at, key.old_text_until);
    [
        key.id.to_string(),
        key.shown_prefix.clone(),
        key.label.clone(),
        org_name.clone(),
        count(key.rate_limit_per_minute.get().into(), style),
        scopes(key),
        key.status.as_str().to_owned(),
        used.map_or("never".into(), |at| minutes(at, style)),
        old_text.map_or("-".into(), |until| minutes(until, style)),
    ]
}

/// In a terminal, a line for each key with an old text that is still accepted.
fn rotations(keys: &[KeyReply], style: OutputStyle) -> String {
    let mut lines = String::new();
    for KeyReply { key, .. } in keys.iter().filter(|_| style.is_terminal) {
        if let Some(until) = key.old_text_until {
            let until = minutes(until, style);
            lines += &format!(
                "Rotated: the old text of key {} is accepted until {until}\n",
                key.id
            );
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listed(id: u64, label: &str, last_used_at: Option<&str>, until: Option<&str>) -> KeyReply {
        let key = json!({
            "id": id, "org_id": 1, "org_name": "acme", "label": label, "prefix": "kg_live_xvC3",
            "status": "active", "active": true, "scopes": ["read", "write"],
            "rate_limit_per_minute": 12_000, "limits": [], "allowed_ips": [], "overrides": [],
            "created_at": "2026-01-15T12:00:00Z", "expires_at": null,
            "last_used_at": last_used_at, "old_text_until": until,
        });
        serde_json::from_value(key).unwrap()
    }

    #[test]
    fn terminal_shows_times_totals_and_rotations_in_80_columns() {
        let used = Some("2026-11-24T10:00:00Z");
        let keys = [
            listed(1, "shop", used, None),
            listed(2, "till", None, Some("2026-11-25T10:00:00Z")),
        ];
        assert_eq!(
            view(&keys, "", OutputStyle::TERMINAL),
            "┌────┬──────────────┬───────┬──────┬────────┬────────────┬────────┬────────────┐\n\
             │ id │ prefix       │ label │ org  │   /min │ scopes     │ status │ last used  │\n\
             ├────┼──────────────┼───────┼──────┼────────┼────────────┼────────┼────────────┤\n\
             │  1 │ kg_live_xvC3 │ shop  │ acme │ 12,000 │ read,write │ active │ 2026-11-24 │\n\
             │    │              │       │      │        │            │        │ 10:00      │\n\
             │  2 │ kg_live_xvC3 │ till  │ acme │ 12,000 │ read,write │ active │ never      │\n\
             └────┴──────────────┴───────┴──────┴────────┴────────────┴────────┴────────────┘\n\
             Total: 2 key(s)\n\
             Rotated: the old text of key 2 is accepted until 2026-11-25 10:00\n"
        );
    }

    #[test]
    fn pipe_gets_lines_of_whole_values() {
        let keys = [listed(1, "till", None, Some("2026-11-25T10:00:00Z"))];
        assert_eq!(
            view(&keys, "", OutputStyle::PIPE),
            "id\tprefix\tlabel\torg\t/min\tscopes\tstatus\tlast used\told text until\n\
             1\tkg_live_xvC3\ttill\tacme\t12000\tread,write\tactive\tnever\t\
             2026-11-25T10:00:00Z\n"
        );
    }
}
