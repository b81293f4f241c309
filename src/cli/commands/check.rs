//! `check`: a dry run of a request.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU32;

use clap::Args;

use crate::admin::command::{Check, DryRunReply};
use crate::cli::format::limit_table;
use crate::cli::render::{OutputStyle, Panel};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard check 7 --path /orders --method POST --ip 192.0.2.7
  keyguard check kg_live_xvC3 --scopes orders:write
  pass show shop | keyguard check --path /orders
  keyguard check --json < key.txt";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The id of the key, or its whole prefix. Without one, the text of a key is read from the variable
    /// KEYGUARD_KEY, or else from standard input; an empty line stands for no key
    #[arg(value_name = "ID|PREFIX")]
    key: Option<String>,
    /// The IP address of the client, or `local`
    #[arg(long, default_value = "local")]
    ip: String,
    /// The path of the request
    #[arg(long, default_value = "/")]
    path: String,
    /// The method of the request
    #[arg(long, default_value = "GET")]
    method: String,
    /// The cost of the request [default: that of its routes, or 1]
    #[arg(long, value_name = "N")]
    cost: Option<NonZeroU32>,
    /// Scopes that the key must have
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    scopes: Vec<String>,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let raw_key = match opts.key {
        Some(_) => None,
        None => read_key()?,
    };
    let command = Check {
        key: opts.key,
        raw_key,
        ip: opts.ip,
        path: opts.path,
        method: opts.method,
        cost: opts.cost,
        scopes: opts.scopes,
    };
    let reply = cli.connect()?.execute(command)?;
    cli.print(&reply, |style| view(&reply, style))?;
    Ok(match reply.allowed {
        true => Exit::Done,
        false => Exit::Refused,
    })
}

/// Reads the text of a key. It is not an argument, since other users can see those.
fn read_key() -> Result<Option<String>, CliError> {
    let text = match env::var("KEYGUARD_KEY") {
        Ok(text) => text,
        Err(_) => {
            if io::stdin().is_terminal() {
                let _ = write!(io::stderr(), "key (an empty line for none): ");
            }
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(CliError::Input)?;
            line
        }
    };
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn view(reply: &DryRunReply, style: OutputStyle) -> String {
    let mut panel = Panel::new("Check")
        .line(
            "verdict",
            if reply.allowed { "admitted" } else { "refused" },
        )
        .line("status", reply.status);
    if let Some(reason) = reply.reason {
        panel = panel.line("reason", reason);
    }
    if let Some(rule) = &reply.rule {
        panel = panel.line("rule", rule);
    }
    if !reply.shadow_denied.is_empty() {
        panel = panel.line("shadow denied", reply.shadow_denied.join(", "));
    }
    if reply.allowed && !reply.key_checked {
        panel = panel.line("key", "not checked: the request needs none");
    }
    if let Some(wait) = reply.retry_after {
        panel = panel.line("retry after", format!("{wait} s"));
    }
    if let Some(note) = &reply.note {
        panel = panel.line("note", note);
    }
    panel.render(style) + &limit_table(&reply.rules, style).render(style)
}
