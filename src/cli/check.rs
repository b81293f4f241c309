//! `check`: the dry run

use std::io::IsTerminal;
use std::num::NonZeroU32;

use clap::Args;

use super::failure::{CliError, hint};
use super::render::{Look, Panel};
use super::{Cli, Exit};
use crate::admin::answer::{self, CheckReply, Command, FailureCode};

#[derive(Args)]
pub(super) struct Check {
    /// The id of a key, or its whole prefix. Without: the key in the variable KEYGUARD_KEY,
    /// or else on standard input; an empty line for none
    #[arg(value_name = "ID|PREFIX")]
    key: Option<String>,
    /// The address that asks, or `local`
    #[arg(long, default_value = "local")]
    ip: String,
    /// The path that is asked for
    #[arg(long, default_value = "/")]
    path: String,
    /// The method
    #[arg(long, default_value = "GET")]
    method: String,
    /// How much the request costs [default: what the routes say, or 1]
    #[arg(long, value_name = "N")]
    cost: Option<NonZeroU32>,
    /// Scopes that the key must hold
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    scopes: Vec<String>,
}

pub(super) fn check(cli: &Cli, check: Check) -> Result<Exit, CliError> {
    let raw_key = match &check.key {
        Some(_) => None,
        None => presented()?,
    };
    let command = Command::Check(answer::Check {
        key: check.key,
        raw_key,
        ip: check.ip,
        path: check.path,
        method: check.method,
        cost: check.cost,
        scopes: check.scopes,
    });
    let checked = hint(cli.ask(command, text), |failure| match failure.code {
        FailureCode::Ambiguous => "check ID".into(),
        FailureCode::Invalid => "check --help".into(),
        _ => "list-keys".into(),
    })?;
    Ok(if checked.allowed {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// The text of a key, from where no other user of the machine can see it.
fn presented() -> Result<Option<String>, CliError> {
    let text = match std::env::var("KEYGUARD_KEY") {
        Ok(text) => text,
        Err(_) => {
            if std::io::stdin().is_terminal() {
                super::complain("key (an empty line for none): ");
            }
            let mut line = String::new();
            std::io::stdin()
                .read_line(&mut line)
                .map_err(CliError::Input)?;
            line
        }
    };
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn text(reply: &CheckReply, look: Look) -> String {
    let verdict = if reply.allowed { "admitted" } else { "refused" };
    let mut panel = Panel::new("Check")
        .line("verdict", verdict)
        .line("status", reply.status);
    if let Some(reason) = reply.reason {
        panel = panel.line("reason", reason);
    }
    if let Some(rule) = &reply.rule {
        panel = panel.line("rule", rule);
    }
    if !reply.shadowed.is_empty() {
        panel = panel.line("in shadow", reply.shadowed.join(", "));
    }
    if reply.allowed && !reply.key_checked {
        panel = panel.line("key", "not looked at: the request needs none");
    }
    if let Some(wait) = reply.retry_after {
        panel = panel.line("retry after", format!("{wait} s"));
    }
    let mut out = panel.render(look);
    if !reply.rules.is_empty() {
        out += &super::limits::table(&reply.rules, look);
    }
    out
}
