//! `audit`

use clap::Args;
use serde_json::Value;

use crate::admin::command::{ListAudit, Rows};
use crate::cli::format::short_time;
use crate::cli::render::{OutputStyle, Table};
use crate::cli::{error::CliError, exit::Exit, pages, settings::Cli};
use crate::model::AuditEntry;

const EXAMPLES: &str = "Examples:
  keyguard audit
  keyguard audit --rows 1000 --json
  keyguard audit --before 200          # the changes before number 200";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// Only changes before the one of this number
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// The greatest number of rows to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    rows: usize,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let entries = cli.list(|connection| {
        let pages = pages::pages(
            connection,
            |entry: &AuditEntry| entry.id,
            |last| ListAudit {
                before: last.or(opts.before),
                limit: Rows::try_from(opts.rows).unwrap_or_default(),
            },
        );
        pages::items(pages).take(opts.rows).collect()
    })?;
    cli.print(&entries, |style| {
        table(&entries, style).render_or("No changes.", style)
    })?;
    Ok(Exit::Done)
}

fn table(entries: &[AuditEntry], style: OutputStyle) -> Table {
    let mut table = Table::new(&[">no", "at", "by", "from", "change", ">id", "~details"]);
    for entry in entries {
        table.row([
            entry.id.to_string(),
            short_time(entry.at, style),
            entry.actor.clone(),
            entry.ip.to_string(),
            entry.action.clone(),
            entry.subject.map_or_else(String::new, |id| id.to_string()),
            details(&entry.details),
        ]);
    }
    table
}

/// Returns the fields of a request that were given, as `NAME: VALUE` with texts unquoted.
fn details(details: &Value) -> String {
    let Value::Object(fields) = details else {
        return details.to_string();
    };
    let pairs = fields.iter().filter_map(|(name, value)| match value {
        Value::Null => None,
        Value::Array(items) if items.is_empty() => None,
        Value::String(text) => Some(format!("{name}: {text}")),
        value => Some(format!("{name}: {value}")),
    });
    pairs.collect::<Vec<_>>().join(", ")
}
