//! `usage`

use clap::Args;

use crate::admin::command::{GetUsage, Rows};
use crate::admin::{UsageReport, UsageValue, UsedKey};
use crate::cli::args::{RequestFilterArgs, TimeRangeArgs};
use crate::cli::format::count;
use crate::cli::output::write_out;
use crate::cli::render::{OutputStyle, Table};
use crate::cli::{csv, error::CliError, exit::Exit, settings::Cli};
use crate::model::UsageGroup;

const EXAMPLES: &str = "Examples:
  keyguard usage --since 1h                        # who uses most this hour?
  keyguard usage --refused --since 24h             # which keys were refused?
  keyguard usage --key 7 --refused --by reason     # why was key 7 refused?
  keyguard usage --ip 192.0.2.7 --by path          # what did this address do?
  keyguard usage --status 5xx --by hour --since 7d # when did requests fail?

Refusals of requests without a known key have no address and no path. They are counted by minute, hour, \
day or reason, for 48 hours, if no option other than --refused, --reason, --since and --until is given.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// What to count by: minute, hour, day, key, path, status, ip or reason
    #[arg(long, value_name = "GROUP", default_value_t = UsageGroup::Key)]
    by: UsageGroup,
    #[command(flatten)]
    filter: RequestFilterArgs,
    #[command(flatten)]
    times: TimeRangeArgs,
    /// The greatest number of rows: those with the most requests, or the latest periods
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = rows)]
    rows: usize,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

fn rows(text: &str) -> Result<usize, String> {
    let rows = text.parse::<usize>().map_err(|error| error.to_string())?;
    match Rows::try_from(rows) {
        Ok(_) => Ok(rows),
        Err(_) => Err("expected 1 to 1,000 rows".to_owned()),
    }
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let by = opts.by;
    let query = GetUsage {
        by,
        since: opts.times.since,
        until: opts.times.until,
        limit: Rows::try_from(opts.rows).unwrap_or_default(),
        ..GetUsage::default()
    }
    .filtered_by(opts.filter.into());
    let report = cli.connect()?.execute(query)?;
    match opts.csv {
        true => write_out(lines(by, &report).as_bytes())?,
        false => cli.print(&report, |style| view(by, &report, style))?,
    }
    warn_of_omitted(cli, &report);
    Ok(Exit::Done)
}

/// Warns of requests that were not counted because they cannot be read.
pub(super) fn warn_of_omitted(cli: &Cli, report: &UsageReport) {
    if report.omitted_blocks > 0 {
        cli.warn(&format!(
            "damaged blocks of requests that are missing here: {}; `{} verify` shows what is lost",
            report.omitted_blocks,
            cli.program()
        ));
    }
}

fn view(by: UsageGroup, report: &UsageReport, style: OutputStyle) -> String {
    let mut table = match by {
        UsageGroup::Key => Table::new(&[">id", "prefix", "~label", "~org", ">requests", ">errors"]),
        _ => Table::new(&[header(by), ">requests", ">errors"]),
    };
    for row in &report.rows {
        let (requests, errors) = (count(row.requests, style), count(row.errors, style));
        match &row.group {
            UsageValue::Key(UsedKey {
                id,
                prefix,
                label,
                org_name,
            }) => table.row([
                id.to_string(),
                prefix.clone(),
                label.clone(),
                org_name.clone(),
                requests,
                errors,
            ]),
            group => table.row([text(group), requests, errors]),
        }
    }
    let sum = match style.is_terminal && !report.rows.is_empty() {
        true => sum(report, style),
        false => String::new(),
    };
    let keyless = match report.includes_keyless {
        true => "",
        false => "Refusals without a known key are not included.\n",
    };
    table.render_or("No such requests.", style) + &sum + keyless
}

/// The header of a group other than a key.
fn header(by: UsageGroup) -> &'static str {
    match by {
        UsageGroup::Path => "~path",
        UsageGroup::Status => ">status",
        by => by.as_str(),
    }
}

/// Returns the total, and the counted range of times.
fn sum(report: &UsageReport, style: OutputStyle) -> String {
    let since = report.since.map(|at| format!(" since {at}"));
    let until = report.until.map(|at| format!(" until {at}"));
    format!(
        "Total: {} requests, {} errors{}{}\n",
        count(report.requests, style),
        count(report.errors, style),
        since.unwrap_or_default(),
        until.unwrap_or_default(),
    )
}

fn lines(by: UsageGroup, report: &UsageReport) -> String {
    let names = match by {
        UsageGroup::Minute | UsageGroup::Hour | UsageGroup::Day => vec!["start"],
        UsageGroup::Key => vec!["key_id", "prefix", "label", "org_name"],
        by => vec![by.as_str()],
    };
    let mut lines = csv::line(names.into_iter().chain(["requests", "errors"]));
    for row in &report.rows {
        let mut fields = match &row.group {
            UsageValue::Key(key) => vec![
                key.id.to_string(),
                key.prefix.clone(),
                key.label.clone(),
                key.org_name.clone(),
            ],
            UsageValue::Reason(None) => vec![String::new()],
            group => vec![text(group)],
        };
        fields.extend([row.requests.to_string(), row.errors.to_string()]);
        lines += &csv::line(fields);
    }
    lines
}

fn text(group: &UsageValue) -> String {
    match group {
        UsageValue::Start(at) => at.to_string(),
        UsageValue::Key(key) => key.id.to_string(),
        UsageValue::Path(path) => path.clone(),
        UsageValue::Status(status) => status.to_string(),
        UsageValue::Ip(ip) => ip.to_string(),
        UsageValue::Reason(reason) => {
            reason.map_or("not refused".to_owned(), |reason| reason.to_string())
        }
    }
}
