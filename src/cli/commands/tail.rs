//! `tail`

use std::thread::sleep;
use std::time::Duration;

use clap::Args;

use crate::admin::TailReply;
use crate::admin::command::{RequestFilter, TailUsage};
use crate::cli::args::RequestFilterArgs;
use crate::cli::output::write_out;
use crate::cli::render::{OutputStyle, escaped};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::input::text::escaped_json;
use crate::model::Usage;

const EXAMPLES: &str = "Examples:
  keyguard tail
  keyguard tail --refused --org acme
  keyguard tail --path '/v1/*' --status 5xx --json | jq .ip

Requests appear within half a second. Refusals without a known key are shown, too. With a database, \
`GET /admin/usage/tail` of each `keyguard serve` shows the requests of that process.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    #[command(flatten)]
    filter: RequestFilterArgs,
}

/// The pause after a reply without further requests.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let filter = RequestFilter::from(opts.filter);
    let mut connection = cli.connect()?;
    if !connection.is_remote() {
        return Err(CliError::NothingToFollow {
            is_on_server: cli.is_on_server(),
        });
    }
    let mut from = None;
    loop {
        let command = TailUsage {
            from,
            ..TailUsage::default()
        };
        let reply = connection.execute(command.filtered_by(filter.clone()))?;
        from = Some(reply.next);
        print(cli, &reply)?;
        if !reply.has_more {
            sleep(PAUSE);
        }
    }
}

pub(super) fn print(cli: &Cli, reply: &TailReply) -> Result<(), CliError> {
    let mut lines = String::new();
    for usage in &reply.requests {
        lines += &match cli.json {
            true => escaped_json(&serde_json::to_string(usage)?).into_owned(),
            false => line(usage, cli.style),
        };
        lines.push('\n');
    }
    write_out(lines.as_bytes())?;
    if reply.missed > 0 {
        cli.warn_again(&format!(
            "{} requests were too fast to be shown",
            reply.missed
        ));
    }
    Ok(())
}

/// A line of a request: columns in a terminal, fields between tabs in a pipe.
fn line(usage: &Usage, style: OutputStyle) -> String {
    let key = usage.key_id.map_or("-".to_owned(), |key| key.to_string());
    let outcome = usage.refused.map_or_else(
        || format!("{:.1} ms", usage.latency.as_secs_f64() * 1_000.0),
        |reason| reason.to_string(),
    );
    let at = usage.at.to_string();
    let (method, path) = (usage.method.as_str(), escaped(&usage.path));
    match style.is_terminal {
        // The time of the day.
        true => format!(
            "{}  {:>3}  {method:<7} {path}  key {key}  {}  {outcome}",
            at.get(11..19).unwrap_or(&at),
            usage.status,
            usage.ip,
        ),
        false => format!(
            "{at}\t{}\t{method}\t{path}\t{key}\t{}\t{outcome}",
            usage.status, usage.ip
        ),
    }
}
