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
mod render;
mod settings;
mod transfer;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::commands::*;
use self::error::CliError;
use self::exit::Exit;
use self::settings::Cli;

/// Manages the API keys, organizations, limits and locks of a data file or a database, also while a
/// server uses it
#[derive(Parser)]
#[command(name = "keyguard", version, arg_required_else_help = true)]
struct Opts {
    #[command(flatten)]
    cli: Cli,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Create the data file, and a secret if there is none
    Init,
    /// Create an organization
    CreateOrg(create_org::Opts),
    /// List all organizations
    ListOrgs,
    /// Refuse all keys of an organization until it is resumed
    SuspendOrg(suspend_org::Opts),
    /// Accept the keys of a suspended organization again
    ResumeOrg(resume_org::Opts),
    /// Replace the limits of an organization
    UpdateOrg(update_org::Opts),
    /// Create a key and print its text, which is shown only once
    CreateKey(create_key::Opts),
    /// List keys
    ListKeys(list_keys::Opts),
    /// Change a key
    UpdateKey(update_key::Opts),
    /// Replace the text of a key; the old text is accepted during a grace period
    RotateKey(rotate_key::Opts),
    /// Revoke a key permanently
    RevokeKey(revoke_key::Opts),
    /// Show totals of keys, requests and locks
    Stats(stats::Opts),
    /// Count recorded requests: who uses most, what was refused and why, what an address did
    Usage(usage::Opts),
    /// Follow the requests of the process that holds the data file
    Tail(tail::Opts),
    /// Show whether a request would be admitted, without counting it
    Check(check::Opts),
    /// Show the limits of a key or an IP address and what remains of them
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
    ListBlocks,
    /// List administrative changes, the latest first
    Audit(audit::Opts),
    /// Read all of a data file, and list what is damaged; exit code 1 if anything is
    Verify(verify::Opts),
    /// Write a verified copy of the data file, also while a server uses it
    Backup(backup::Opts),
    /// Restore a backup at the path of --db, where no file may be
    Restore(restore::Opts),
    /// Return the space of deleted rows to the disk, of a data file that no process holds
    Compact,
    /// Reload the policy file of the process that holds the data file. With a database, send SIGHUP to
    /// each `keyguard serve` instead
    Reload,
    /// Show which requests of an access log a policy would have refused
    Replay(replay::Opts),
    /// Copy organizations, keys, quotas, locks and totals to another data file or database
    Export(export::Opts),
    Import(import::Opts),
    /// Write recorded requests to a file, as comma-separated values or lines of JSON
    ExportUsage(export_usage::Opts),
    /// Run the HTTP server: the admin API, request checks for other servers, and metrics
    #[cfg(feature = "serve")]
    Serve(Box<serve::Opts>),
    /// Print the admin key, which is derived from the secret
    AdminKey,
    /// Print the completion script for a shell
    Completions(completions::Opts),
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
        Ok(Opts { cli, command }) => cli.finish(run(&cli, command)),
        // Help and the version are errors of `clap`, too.
        Err(error) => {
            let _ = error.print();
            match error.use_stderr() {
                true => Exit::Usage,
                false => Exit::Done,
            }
        }
    };
    exit.into()
}

fn run(cli: &Cli, command: Subcommands) -> Result<Exit, CliError> {
    if !matches!(command, Subcommands::Completions(_)) {
        cli.check_storage()?;
    }
    match command {
        Subcommands::Init => init::run(cli),
        Subcommands::CreateOrg(opts) => create_org::run(cli, opts),
        Subcommands::ListOrgs => list_orgs::run(cli),
        Subcommands::SuspendOrg(opts) => suspend_org::run(cli, opts),
        Subcommands::ResumeOrg(opts) => resume_org::run(cli, opts),
        Subcommands::UpdateOrg(opts) => update_org::run(cli, opts),
        Subcommands::CreateKey(opts) => create_key::run(cli, opts),
        Subcommands::ListKeys(opts) => list_keys::run(cli, opts),
        Subcommands::UpdateKey(opts) => update_key::run(cli, opts),
        Subcommands::RotateKey(opts) => rotate_key::run(cli, opts),
        Subcommands::RevokeKey(opts) => revoke_key::run(cli, opts),
        Subcommands::Stats(opts) => stats::run(cli, &opts),
        Subcommands::Usage(opts) => usage::run(cli, opts),
        Subcommands::Tail(opts) => tail::run(cli, opts),
        Subcommands::Check(opts) => check::run(cli, opts),
        Subcommands::Limits(opts) => limits::run(cli, opts),
        Subcommands::Reset(opts) => reset::run(cli, opts),
        Subcommands::OverrideLimit(opts) => override_limit::run(cli, opts),
        Subcommands::RestoreLimit(opts) => restore_limit::run(cli, opts),
        Subcommands::Block(opts) => block::run(cli, opts),
        Subcommands::Unblock(opts) => unblock::run(cli, opts),
        Subcommands::ListBlocks => list_blocks::run(cli),
        Subcommands::Audit(opts) => audit::run(cli, opts),
        Subcommands::Verify(_) => verify::run(cli),
        Subcommands::Backup(opts) => backup::run(cli, &opts),
        Subcommands::Restore(opts) => restore::run(cli, &opts),
        Subcommands::Compact => compact::run(cli),
        Subcommands::Reload => reload::run(cli),
        Subcommands::Replay(opts) => replay::run(cli, &opts),
        Subcommands::Export(opts) => export::run(cli, opts),
        Subcommands::Import(opts) => import::run(cli, &opts),
        Subcommands::ExportUsage(opts) => export_usage::run(cli, opts),
        #[cfg(feature = "serve")]
        Subcommands::Serve(opts) => serve::run(cli, *opts),
        Subcommands::AdminKey => admin_key::run(cli),
        Subcommands::Completions(opts) => completions::run(&opts, Opts::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_definition_of_the_arguments() {
        Opts::command().debug_assert();
    }
}
