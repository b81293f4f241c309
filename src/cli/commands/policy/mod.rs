//! `policy`: checks and explains policy files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::output::write_out;
use crate::cli::render::escaped;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::model::Method;
use crate::net::ClientIp;
use crate::policy::{self, CompiledPolicy, ExampleRequest, Section};

const EXAMPLES: &str = "Examples:
  keyguard policy example > keyguard.toml
  keyguard policy check keyguard.toml
  keyguard policy explain keyguard.toml --path /api/orders --method POST";

const CHECK_EXAMPLES: &str = "Examples:
  keyguard policy check keyguard.toml
  keyguard policy check keyguard.toml && keyguard reload

Rules without effect are warnings, and the exit code is 0.";

const EXPLAIN_EXAMPLES: &str = "Examples:
  keyguard policy explain keyguard.toml
  keyguard policy explain keyguard.toml --path /api/orders --method POST
  keyguard policy explain keyguard.toml --path /login --ip 192.0.2.7

`keyguard check` decides about a request with a key and the state of limits and locks.";

const EXAMPLE_EXAMPLES: &str = "Examples:
  keyguard policy example
  keyguard policy example > keyguard.toml";

const EXAMPLE: &str = include_str!("example.toml");

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Check a policy file, and report rules without effect
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// The policy, as TOML
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Explain in sentences what a policy file requires, limits and locks
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainOpts),
    /// Print a policy with every field and what it means
    #[command(after_help = EXAMPLE_EXAMPLES)]
    Example,
}

#[derive(Args)]
struct ExplainOpts {
    /// The policy, as TOML
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Explain only the rules for this path, undecoded
    #[arg(long, value_parser = path)]
    path: Option<String>,
    /// The method of the request
    #[arg(long, default_value = "GET", requires = "path")]
    method: String,
    /// The IP address of the client, or `local`
    #[arg(long, requires = "path")]
    ip: Option<ClientIp>,
}

fn path(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("expected a path that starts with `/`".to_owned()),
    }
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    match opts.action {
        Action::Check { file } => check(cli, &file),
        Action::Explain(opts) => explain(cli, &opts),
        Action::Example => {
            write_out(EXAMPLE.as_bytes())?;
            Ok(Exit::Done)
        }
    }
}

fn check(cli: &Cli, file: &Path) -> Result<Exit, CliError> {
    let policy = read(file)?;
    let (shown, warnings) = (file.display().to_string(), policy.warnings());
    let routes = policy.routes().count();
    let reply = json!({ "file": shown, "routes": routes, "warnings": warnings });
    cli.print(&reply, |_| {
        format!(
            "The policy `{}` is valid. Routes: {routes}.\n",
            escaped(&shown)
        )
    })?;
    warn(cli, &warnings);
    Ok(Exit::Done)
}

fn explain(cli: &Cli, opts: &ExplainOpts) -> Result<Exit, CliError> {
    let policy = read(&opts.file)?;
    let sections = match &opts.path {
        None => policy.explained(),
        Some(path) => policy.explained_for(&ExampleRequest {
            path,
            method: Method::from(opts.method.as_str()),
            ip: opts.ip,
        }),
    };
    let warnings = policy.warnings();
    let reply = json!({ "sections": sections, "warnings": warnings });
    cli.print(&reply, |_| sections.iter().map(text).collect())?;
    warn(cli, &warnings);
    Ok(Exit::Done)
}

fn read(file: &Path) -> Result<CompiledPolicy, CliError> {
    Ok(policy::read(file).and_then(CompiledPolicy::new)?)
}

/// Prints what JSON has in its field `warnings`.
fn warn(cli: &Cli, warnings: &[String]) {
    if !cli.json {
        warnings.iter().for_each(|warning| cli.warn(warning));
    }
}

/// The section as a heading and indented lines.
fn text(section: &Section) -> String {
    let mut about = section.about.chars();
    let first = about.next().map(|c| c.to_ascii_uppercase());
    let heading: String = first.into_iter().chain(about).collect();
    let sentences = section.sentences.iter();
    let lines = sentences.map(|sentence| format!("  {}\n", escaped(sentence)));
    format!("{}\n{}", escaped(&heading), lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_is_valid_with_and_without_its_comments() {
        let raises_no_warning = |text: &str| {
            let policy = CompiledPolicy::new(text.parse().unwrap()).unwrap();
            assert_eq!(policy.warnings(), [""; 0]);
        };
        raises_no_warning(EXAMPLE);
        let mut fields = 0;
        let whole = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
            Some(field) if field.contains(" = ") => {
                fields += 1;
                format!("{field}\n")
            }
            _ => format!("{line}\n"),
        });
        raises_no_warning(&whole.collect::<String>());
        assert_eq!(fields, 6);
    }

    /// Every field of a policy, of its lockout and of a route.
    #[test]
    fn example_has_every_field() {
        let error = |text: &str| text.parse::<policy::Policy>().unwrap_err().to_string();
        for unknown in [
            "none = 1",
            "[lockout]\nnone = 1",
            "[[route]]\nname = \"x\"\npath = \"/\"\nnone = 1",
        ] {
            let error = error(unknown);
            let (_, expected) = error.split_once("expected one of ").unwrap();
            let fields = expected.split('`').skip(1).step_by(2);
            for field in fields {
                let is_there = EXAMPLE.contains(&format!("{field} = "))
                    || EXAMPLE.contains(&format!("[{field}]"));
                assert!(is_there, "{field}");
            }
        }
    }
}
