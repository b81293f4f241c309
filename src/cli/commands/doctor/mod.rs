//! `doctor`: looks for conditions that need an administrator, and names the next command for each.

mod damage;
mod files;
mod remedy;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde_json::json;

use self::damage::DamageSearch;
use crate::admin::Diagnosis;
use crate::admin::command::Diagnose;
use crate::cli::connection::{ConnectError, GuardConnection};
use crate::cli::next::next_command;
use crate::cli::output::escaped_lines;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::SECRET_ARGUMENT;
use crate::model::key_words::message_without_keys;
use crate::model::{Area, Condition};
use crate::policy::{self, CompiledPolicy};
use crate::store::OpenError;
use crate::time::duration::duration_argument;

const EXAMPLES: &str = "Examples:
  keyguard doctor
  keyguard doctor --policy keyguard.toml
  keyguard doctor --ignore unused_keys,expiring_keys --json

The exit code is 0 if nothing is found, 1 if something is found or the data cannot be examined, and 2 for \
invalid arguments. While a process holds the data file, that process is examined, too: its warnings, its \
policy, its clock and its backends. A data file of at most 64 MiB is read as a whole, in search of damage; `keyguard \
verify` reads any file.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// A policy to examine. That of the process that holds the data file is examined in any case
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Areas to pass over, with commas between
    #[arg(long, value_name = "AREA", value_delimiter = ',', value_parser = area())]
    ignore: Vec<Area>,
    /// Report active keys that were not used for so long
    #[arg(long, value_name = "DURATION", default_value = "90 days", value_parser = duration_argument)]
    unused_for: Duration,
    /// Report active keys that expire so soon
    #[arg(long, value_name = "DURATION", default_value = "14 days", value_parser = duration_argument)]
    expires_within: Duration,
}

fn area() -> impl TypedValueParser<Value = Area> {
    let names = Area::ALL.map(Area::as_str);
    PossibleValuesParser::new(names).try_map(|name| {
        let mut areas = Area::ALL.into_iter();
        areas
            .find(|area| area.as_str() == name)
            .ok_or("unknown area")
    })
}

/// A condition, and the next command.
#[derive(Debug, Serialize)]
struct Finding {
    area: Area,
    problem: String,
    next: String,
}

pub(crate) fn run(cli: &Cli, opts: &Opts) -> Result<Exit, CliError> {
    // Examined first, since opening a data file makes it private.
    let mut findings = files::examine(cli);
    findings.extend(secret_argument(cli));
    let mut damage = DamageSearch::run(cli);
    findings.append(&mut damage.findings);
    // Why the data cannot be examined.
    let mut unexamined = None;
    let policy_file = match diagnose(cli, opts) {
        Ok(diagnosis) => {
            let file = diagnosis.policy_file.map(PathBuf::from);
            let conditions = diagnosis.conditions.into_iter();
            let reported = conditions.map(|condition| finding(cli, condition, file.as_deref()));
            findings.extend(reported.filter(|finding| !damage.explains(finding)));
            file
        }
        Err(error) => {
            unexamined = Some(unusable_data(cli, &error));
            None
        }
    };
    match (&opts.policy, policy_file) {
        (Some(file), _) => findings.extend(policy_findings(cli, file)),
        // The process has reported the rules that are in force. The file may have changed since.
        (None, Some(file)) => findings.extend(unusable_policy(cli, &file)),
        (None, None) => {}
    }
    // The same error is not shown twice.
    let is_shown = |reason: &String| findings.iter().any(|found| found.problem == *reason);
    let not_searched = damage.omitted.take().filter(|reason| !is_shown(reason));
    findings.retain(|finding| !opts.ignore.contains(&finding.area));
    // Shown in any case, unless another finding has the cause.
    let is_told = |cause: &Finding| {
        let is_of_damage = damage.explains(cause);
        let tells = |found: &Finding| match found.area {
            Area::Damage => is_of_damage,
            _ => found.next == cause.next,
        };
        findings.iter().any(tells)
    };
    let unexamined = unexamined.filter(|cause| !is_told(cause));
    findings.extend(unexamined);
    for finding in &mut findings {
        for text in [&mut finding.problem, &mut finding.next] {
            *text = message_without_keys(text).into_owned();
        }
    }
    let mut reply = json!({ "findings": findings });
    if not_searched.is_some() {
        reply["not_examined"] = json!(["damage"]);
    }
    cli.print(&reply, |_| view(cli, &findings, not_searched.as_deref()))?;
    Ok(match findings.is_empty() {
        true => Exit::Done,
        false => Exit::Refused,
    })
}

/// Asks the process that holds the data file, or opens it.
fn diagnose(cli: &Cli, opts: &Opts) -> Result<Diagnosis, CliError> {
    // Reads all keys.
    let mut connection = GuardConnection::open(&cli.db, &cli.config()?)?.without_timeout();
    let mut diagnosis = connection.execute(Diagnose {
        unused_for: opts.unused_for.as_secs(),
        expires_within: opts.expires_within.as_secs(),
    })?;
    // The files and the arguments of this command are examined here, and as they are now.
    let is_reported = |condition: &Condition| {
        condition.area == Area::Files
            || cli.has_secret_argument() && condition.area == Area::SecretArgument
    };
    diagnosis
        .conditions
        .retain(|condition| !is_reported(condition));
    Ok(diagnosis)
}

fn secret_argument(cli: &Cli) -> Option<Finding> {
    let condition = || Condition::new(Area::SecretArgument, SECRET_ARGUMENT);
    cli.has_secret_argument()
        .then(|| finding(cli, condition(), None))
}

fn finding(cli: &Cli, condition: Condition, policy_file: Option<&Path>) -> Finding {
    Finding {
        next: remedy::of(cli, &condition, policy_file),
        area: condition.area,
        problem: condition.problem,
    }
}

/// The data or a backend cannot be used.
fn unusable_data(cli: &Cli, error: &CliError) -> Finding {
    let problem = error.message(cli);
    let area = match error {
        CliError::Connect(ConnectError::Open(OpenError::Server { server, .. })) => {
            let area = match *server {
                "Redis" => Area::Redis,
                _ => Area::Postgres,
            };
            return finding(cli, Condition::new(area, problem), None);
        }
        CliError::Connect(ConnectError::Open(OpenError::Damaged { .. })) => Area::Damage,
        CliError::Connect(ConnectError::Open(
            OpenError::SecretFile { path: file, .. } | OpenError::ExposedSecret { path: file, .. },
        )) => match cli.is_legacy_secret_file(file) {
            true => Area::LegacySecret,
            false => Area::Secret,
        },
        _ => Area::Data,
    };
    Finding {
        area,
        problem,
        next: next_command(error, cli),
    }
}

/// Examines a policy file with its rules.
fn policy_findings(cli: &Cli, file: &Path) -> Vec<Finding> {
    let mut findings: Vec<Finding> = unusable_policy(cli, file).into_iter().collect();
    if let Ok(policy) = policy::read(file).and_then(CompiledPolicy::new) {
        let warnings = policy.warnings().into_iter();
        let warnings = warnings.map(|warning| Condition::new(Area::Policy, warning));
        findings.extend(warnings.map(|condition| finding(cli, condition, Some(file))));
    }
    findings
}

fn unusable_policy(cli: &Cli, file: &Path) -> Option<Finding> {
    let error = policy::read(file).and_then(CompiledPolicy::new).err()?;
    let problem = format!("the policy file would be refused: {error}");
    Some(finding(
        cli,
        Condition::new(Area::Policy, problem),
        Some(file),
    ))
}

fn view(cli: &Cli, findings: &[Finding], not_searched: Option<&str>) -> String {
    let lines = findings.iter().map(|finding| {
        let Finding {
            area,
            problem,
            next,
        } = finding;
        let area = area.as_str();
        format!(
            "{area}: {}\n  next:  {}\n",
            escaped_lines(problem),
            escaped_lines(next)
        )
    });
    let found: String = match findings.is_empty() {
        true => "Nothing found.\n".to_owned(),
        false => lines.collect(),
    };
    match not_searched {
        Some(reason) => format!(
            "{found}Not searched for damage, because {}: {} verify\n",
            escaped_lines(reason),
            cli.program()
        ),
        None => found,
    }
}
