//! The program `keyguard`: parses the arguments, collects the settings and runs one command.

mod args;
mod commands;
mod connection;
mod copying;
mod csv;
mod error;
mod exit;
mod flags;
mod format;
mod new_key;
mod next;
mod output;
mod pages;
mod private_dir;
mod render;
mod settings;
mod signals;
mod transfer;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::commands::*;
use self::error::CliError;
use self::exit::Exit;
use self::next::install_with;
use self::output::eprint_line;
use self::settings::Cli;
use crate::model::key_words::message_without_keys;

const EXAMPLES: &str = "Examples:
  keyguard init --org acme
  keyguard create-org globex
  keyguard create-key --org globex --label \"web shop\"
  keyguard list-keys

Exit codes: 0 for success, 1 for a refusal or a failure, whose reason and next step are printed to standard \
error, 2 for invalid arguments.";

/// Manages the API keys, organizations, limits and locks of a data file or a database, also while a
/// server uses it
#[derive(Parser)]
#[command(name = "keyguard", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Opts {
    #[command(flatten)]
    cli: Cli,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Create the data file, a secret if there is none and, with --org, an organization and its first key
    Init(init::Opts),
    /// Create an organization
    #[command(after_help = create_org::EXAMPLES)]
    CreateOrg(create_org::Opts),
    /// List organizations
    ListOrgs(list_orgs::Opts),
    /// Refuse all keys of an organization until it is resumed
    #[command(after_help = suspend_org::EXAMPLES)]
    SuspendOrg(suspend_org::Opts),
    /// Accept the keys of a suspended organization again
    #[command(after_help = resume_org::EXAMPLES)]
    ResumeOrg(resume_org::Opts),
    /// Replace the limits of an organization
    UpdateOrg(update_org::Opts),
    /// Create a key and print its text, which is shown only once
    CreateKey(create_key::Opts),
    /// List keys
    ListKeys(list_keys::Opts),
    /// Change a key
    UpdateKey(update_key::Opts),
    /// Refuse a key until it is resumed
    #[command(after_help = suspend_key::EXAMPLES)]
    SuspendKey(suspend_key::Opts),
    /// Accept a suspended key again
    #[command(after_help = resume_key::EXAMPLES)]
    ResumeKey(resume_key::Opts),
    /// Replace the text of a key; the old text is accepted during a grace period
    RotateKey(rotate_key::Opts),
    /// Revoke a key permanently
    #[command(after_help = revoke_key::EXAMPLES)]
    RevokeKey(revoke_key::Opts),
    /// Show totals of keys, requests and locks
    Stats(stats::Opts),
    /// Count recorded requests: who uses most, what was refused and why, what an address did
    Usage(usage::Opts),
    /// Follow the requests of the process that holds the data file
    Tail(tail::Opts),
    /// Look for weak points, mistakes and faults, and name the next command for each
    Doctor(doctor::Opts),
    /// Show whether a request would be admitted, without counting it
    Check(check::Opts),
    /// Show the limits of a key or an IP address and what remains of them
    #[command(after_help = limits::EXAMPLES)]
    Limits(limits::Opts),
    /// Reset what a key or an IP address has used of its limits
    Reset(reset::Opts),
    /// Override a limit of a key for a period
    OverrideLimit(override_limit::Opts),
    /// End the override of a limit
    RestoreLimit(restore_limit::Opts),
    /// Lock out an IP address
    Block(block::Opts),
    /// Remove the locks of an IP address
    Unblock(unblock::Opts),
    /// List the IP addresses that are locked out
    #[command(after_help = list_blocks::EXAMPLES)]
    ListBlocks,
    /// List administrative changes, the latest first
    Audit(audit::Opts),
    /// List the events that were sent to webhooks, test these, or send an event again
    Webhooks(webhooks::Opts),
    /// Read all of a data file, and list what is damaged; exit code 1 if anything is
    Verify(verify::Opts),
    /// Write a verified copy of the data file, also while a server uses it
    Backup(backup::Opts),
    /// Restore a backup at the path of --db, where no file may be
    Restore(restore::Opts),
    /// Return the space of deleted rows to the disk, of a data file that no process holds
    #[command(after_help = compact::EXAMPLES)]
    Compact,
    /// Reload the policy file of the process that holds the data file. With a database, send SIGHUP to
    /// each `keyguard serve` instead
    #[command(after_help = reload::EXAMPLES)]
    Reload,
    /// Check a policy file, explain it, or print an example
    Policy(policy::Opts),
    /// Show which requests of an access log a policy would have refused
    Replay(replay::Opts),
    /// Copy organizations, keys, quotas, locks and totals to another data file or database
    Export(export::Opts),
    Import(import::Opts),
    /// Write recorded requests to a file, as comma-separated values, lines of JSON or Parquet
    ExportUsage(export_usage::Opts),
    /// Run the HTTP server: the admin API, request checks for other servers, and metrics
    #[cfg(feature = "serve")]
    Serve(Box<serve::Opts>),
    /// Try KeyGuard: run a small protected server with a key and show its requests. Leaves nothing behind
    #[cfg(feature = "serve")]
    Demo(demo::Opts),
    /// Print the admin key, which is derived from the secret
    #[command(after_help = admin_key::EXAMPLES)]
    AdminKey,
    /// Print the completion script for a shell
    Completions(completions::Opts),
    /// Install the manual pages, and the completion scripts of bash, zsh and fish
    InstallDocs(install_docs::Opts),
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    crate::sys::process::forbid_core_dumps();
    let definition = Opts::command();
    let parsed = definition.clone().try_get_matches().and_then(|matches| {
        let mut opts = Opts::from_arg_matches(&matches)?;
        let command = definition.find_subcommand(matches.subcommand_name().unwrap_or_default());
        opts.cli.command = command.cloned().unwrap_or_default();
        if let Subcommands::Verify(verify::Opts { file: Some(file) }) = &opts.command {
            opts.cli.db.clone_from(file);
        }
        Ok(opts)
    });
    let exit = match parsed {
        Ok(Opts { cli, command }) => {
            let exit = cli.finish(run(&cli, command));
            cli.end_by_signals();
            exit
        }
        // Help and the version are errors of `clap`, too.
        Err(error) => match error.use_stderr() {
            true => report_usage(&error),
            false => {
                let _ = error.print();
                Exit::Done
            }
        },
    };
    exit.into()
}

/// The commands that only builds with the feature `serve` have.
const OF_SERVE: [&str; 2] = ["serve", "demo"];

/// Prints an error of invalid arguments. It quotes them, and a key may be among them.
fn report_usage(error: &clap::Error) -> Exit {
    if let Some(command) = unknown_command(error).filter(|name| OF_SERVE.contains(name)) {
        eprint_line(&format!(
            "error: this build has no command `{command}`: it lacks the cargo feature `serve`\nnext:  {}",
            install_with("serve")
        ));
        return Exit::Usage;
    }
    let message = error.render().to_string();
    match message_without_keys(&message) == message {
        // With colors.
        true => drop(error.print()),
        false => eprint_line(message.trim_end()),
    }
    Exit::Usage
}

/// The command, if the error is that there is no such command.
fn unknown_command(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) => Some(name),
        _ => None,
    }
}

fn run(cli: &Cli, command: Subcommands) -> Result<Exit, CliError> {
    if command.needs_storage() {
        cli.check_storage()?;
    }
    match command {
        Subcommands::Init(opts) => init::run(cli, opts),
        Subcommands::CreateOrg(opts) => create_org::run(cli, opts),
        Subcommands::ListOrgs(opts) => list_orgs::run(cli, opts),
        Subcommands::SuspendOrg(opts) => suspend_org::run(cli, opts),
        Subcommands::ResumeOrg(opts) => resume_org::run(cli, opts),
        Subcommands::UpdateOrg(opts) => update_org::run(cli, opts),
        Subcommands::CreateKey(opts) => create_key::run(cli, opts),
        Subcommands::ListKeys(opts) => list_keys::run(cli, opts),
        Subcommands::UpdateKey(opts) => update_key::run(cli, opts),
        Subcommands::SuspendKey(opts) => suspend_key::run(cli, opts),
        Subcommands::ResumeKey(opts) => resume_key::run(cli, opts),
        Subcommands::RotateKey(opts) => rotate_key::run(cli, opts),
        Subcommands::RevokeKey(opts) => revoke_key::run(cli, opts),
        Subcommands::Stats(opts) => stats::run(cli, &opts),
        Subcommands::Usage(opts) => usage::run(cli, opts),
        Subcommands::Tail(opts) => tail::run(cli, opts),
        Subcommands::Doctor(opts) => doctor::run(cli, &opts),
        Subcommands::Check(opts) => check::run(cli, opts),
        Subcommands::Limits(opts) => limits::run(cli, opts),
        Subcommands::Reset(opts) => reset::run(cli, opts),
        Subcommands::OverrideLimit(opts) => override_limit::run(cli, opts),
        Subcommands::RestoreLimit(opts) => restore_limit::run(cli, opts),
        Subcommands::Block(opts) => block::run(cli, opts),
        Subcommands::Unblock(opts) => unblock::run(cli, opts),
        Subcommands::ListBlocks => list_blocks::run(cli),
        Subcommands::Audit(opts) => audit::run(cli, opts),
        Subcommands::Webhooks(opts) => webhooks::run(cli, opts),
        Subcommands::Verify(_) => verify::run(cli),
        Subcommands::Backup(opts) => backup::run(cli, &opts),
        Subcommands::Restore(opts) => restore::run(cli, &opts),
        Subcommands::Compact => compact::run(cli),
        Subcommands::Reload => reload::run(cli),
        Subcommands::Policy(opts) => policy::run(cli, opts),
        Subcommands::Replay(opts) => replay::run(cli, &opts),
        Subcommands::Export(opts) => export::run(cli, opts),
        Subcommands::Import(opts) => import::run(cli, &opts),
        Subcommands::ExportUsage(opts) => export_usage::run(cli, opts),
        #[cfg(feature = "serve")]
        Subcommands::Serve(opts) => serve::run(cli, *opts),
        #[cfg(feature = "serve")]
        Subcommands::Demo(opts) => demo::run(cli, &opts),
        Subcommands::AdminKey => admin_key::run(cli),
        Subcommands::Completions(opts) => completions::run(&opts, Opts::command()),
        Subcommands::InstallDocs(opts) => install_docs::run(cli, &opts, Opts::command()),
    }
}

impl Subcommands {
    /// Whether the command works on a data file or a database.
    fn needs_storage(&self) -> bool {
        !matches!(
            self,
            Self::Completions(_) | Self::InstallDocs(_) | Self::Policy(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_definition_of_the_arguments() {
        Opts::command().debug_assert();
    }

    #[test]
    fn absent_commands_are_told_from_others() {
        let unknown = |arguments: &[&str]| {
            let error = Opts::command().try_get_matches_from(arguments).unwrap_err();
            unknown_command(&error).map(str::to_owned)
        };
        assert_eq!(
            unknown(&["keyguard", "absent", "--help"]).as_deref(),
            Some("absent")
        );
        assert_eq!(unknown(&["keyguard", "stats", "--absent"]), None);
        for name in OF_SERVE {
            let command = Opts::command();
            assert_eq!(
                command.find_subcommand(name).is_some(),
                cfg!(feature = "serve")
            );
        }
    }

    #[test]
    fn help_of_every_command_has_valid_examples() {
        let mut definition = Opts::command();
        definition.build();
        let mut count = 0;
        check_examples(&definition, &[], &mut count);
        assert!(count > 60, "{count}");
    }

    /// Checks the examples of a command and its subcommands. `path` are the names that lead to it.
    fn check_examples(command: &clap::Command, path: &[&str], count: &mut usize) {
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        assert!(help.starts_with("Examples:\n  "), "{path:?}: {help}");
        let mut is_shown = false;
        for line in help.lines().filter(|line| line.starts_with("  ")) {
            assert!(line.chars().count() <= 80, "{path:?}: {line}");
            for example in line.split(" && ").filter_map(words_of_example) {
                let matches = Opts::command().try_get_matches_from(&example);
                let matches = matches.unwrap_or_else(|error| panic!("{path:?}: {line}\n{error}"));
                is_shown |= names(&matches).starts_with(path);
                *count += 1;
            }
        }
        assert!(is_shown, "{path:?} has no example of its own");
        let shown = command.get_subcommands();
        for subcommand in shown.filter(|command| command.get_name() != "help") {
            check_examples(
                subcommand,
                &[path, &[subcommand.get_name()]].concat(),
                count,
            );
        }
    }

    /// The names of the subcommands in a command line.
    fn names(matches: &clap::ArgMatches) -> Vec<&str> {
        let mut names = Vec::new();
        let mut current = matches;
        while let Some((name, inner)) = current.subcommand() {
            names.push(name);
            current = inner;
        }
        names
    }

    /// The words of the command `keyguard` in a line of a shell.
    fn words_of_example(line: &str) -> Option<Vec<String>> {
        let inner = line.split_once("$(").or_else(|| line.split_once("<("));
        let line = inner.map_or(line, |(_, inner)| inner.split(')').next().unwrap());
        let mut starts = line.match_indices("keyguard ").map(|(start, _)| start);
        let start = starts.find(|start| *start == 0 || line[..*start].ends_with(' '))?;
        let (mut words, mut quote) = (vec![String::new()], None);
        for c in line[start..].chars() {
            let is_first = words.last().is_some_and(String::is_empty);
            match (c, quote) {
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                ('|' | '>' | '<' | '#', None) if is_first => break,
                (' ', None) => words.push(String::new()),
                (c, _) => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        Some(words)
    }

    /// `--limit` once counted rows, named limits and set them.
    #[test]
    fn options_of_one_name_mean_the_same_in_every_command() {
        let definition = Opts::command();
        let commands = definition.get_subcommands();
        let limits: Vec<&str> = commands
            .filter(|command| {
                let mut arguments = command.get_arguments();
                arguments.any(|argument| argument.get_long() == Some("limit"))
            })
            .map(clap::Command::get_name)
            .collect();
        assert_eq!(limits, ["init", "update-org", "create-key", "update-key"]);
    }
}
