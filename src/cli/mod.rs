//! The program `keyguard`.

mod audit;
mod blocks;
mod check;
mod export;
mod failure;
mod flags;
mod import;
mod keys;
mod limits;
mod orgs;
mod render;
mod replay;
#[cfg(feature = "serve")]
mod serve;
mod session;
mod setup;
mod stats;
mod transfer;
#[cfg(feature = "serve")]
mod usage_log;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::de::DeserializeOwned;

use self::failure::{CliError, quoted};
use self::render::Look;
use self::session::{Session, SessionError};
use crate::admin::answer::Command;
use crate::guard::{Config, Storage, exposure_of, followed, is_server, read_secret};
use crate::input::text::escaped_json;
use crate::model::Secret;

/// Manage the keys, organizations and locks of a data file, also while a server holds it, or of a
/// database.
#[derive(Parser)]
#[command(name = "keyguard", version, arg_required_else_help = true)]
struct Opts {
    #[command(flatten)]
    connection: ConnectionOpts,
    /// Print the reply as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Subcommands,
}

/// Which data file, and under which secret.
#[derive(Args)]
struct ConnectionOpts {
    /// The data file, or the URL of a PostgreSQL database
    #[arg(
        long,
        global = true,
        env = "KEYGUARD_DB",
        hide_env_values = true,
        default_value = "keyguard.redb"
    )]
    db: PathBuf,
    /// A Redis server for shared limits
    #[arg(
        long,
        global = true,
        env = "KEYGUARD_REDIS",
        hide_env_values = true,
        value_name = "URL"
    )]
    redis: Option<String>,
    /// A file that holds the secret [default: the data file's name and `.secret`]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "secret")]
    secret_file: Option<PathBuf>,
    /// The secret itself. Other users of this machine can see it in the list of processes, and
    /// the shell remembers it: prefer --secret-file, or the variable KEYGUARD_SECRET
    #[arg(long, global = true, value_name = "SECRET")]
    secret: Option<OsString>,
    /// A file that holds the secret of the Python package, whose keys were imported [default: the variable
    /// KEYGUARD_LEGACY_SECRET]
    #[arg(long, global = true, value_name = "FILE")]
    legacy_secret_file: Option<PathBuf>,
}

/// Where keys of the Python package are accepted.
const LEGACY_SECRET: &str = "KEYGUARD_LEGACY_SECRET";

#[derive(Subcommand)]
enum Subcommands {
    /// Create the data file, and its secret if there is none
    Init,
    /// Create an organization
    CreateOrg(orgs::Name),
    /// List all organizations
    ListOrgs,
    /// Refuse all keys of an organization until it is resumed
    SuspendOrg(orgs::Name),
    /// Accept the keys of a suspended organization again
    ResumeOrg(orgs::Name),
    /// Change the limits of an organization
    UpdateOrg(orgs::Update),
    /// Create a key; its text is shown this once
    CreateKey(keys::Create),
    /// List keys
    ListKeys(keys::List),
    /// Change a key
    UpdateKey(keys::Update),
    /// Give a key a new text; the old one is accepted for a while
    RotateKey(keys::Rotate),
    /// Refuse a key from now on, for good
    RevokeKey(keys::Which),
    /// Show what the data file holds and what was asked of it
    Stats,
    /// Show what a request would be answered with, consuming nothing
    Check(check::Check),
    /// Show how the limits of a key or an address stand, consuming nothing
    Limits(limits::Who),
    /// Forget what a key or an address has used
    Reset(limits::Reset),
    /// Lift a limit of a key for a time
    LimitOverride(limits::LimitOverride),
    /// Lock an address out
    Block(blocks::Block),
    /// End the locks of an address
    Unblock(blocks::Unblock),
    /// List who is locked out
    ListBlocks,
    /// List who changed what, the latest first
    Audit(audit::Audit),
    /// Have the process that holds the data file read its policy file again. With a database, send SIGHUP
    /// to each `keyguard serve` instead
    Reload,
    /// Show who of an access log would have been refused under a policy
    Replay(replay::Replay),
    /// Move organizations, keys, quotas, locks and totals to another data file or database
    Export(export::Export),
    Import(import::Import),
    /// Serve the admin API, verdicts for other servers, and metrics over HTTP
    #[cfg(feature = "serve")]
    Serve(Box<serve::Serve>),
    /// Print the key that administrators send, which is derived from the secret
    AdminKey,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// How the program ends. With 2 it ends, by `clap`, if the arguments make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    /// What was asked was refused; why is on standard error.
    Refused = 1,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let matches = Opts::command().get_matches();
    let opts = Opts::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let mut cli = Cli {
        command: matches.subcommand_name().unwrap_or_default().to_owned(),
        json: opts.json,
        look: Look::of_stdout(),
        connection: opts.connection,
        warned: RefCell::default(),
    };
    let exit = match cli.run(opts.command) {
        Ok(exit) => exit,
        // A reader that has gone away, such as `head`, has seen enough.
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => error.report(&cli),
    };
    ExitCode::from(exit as u8)
}

/// What all commands share.
struct Cli {
    /// As it is typed, such as `create-key`.
    command: String,
    json: bool,
    look: Look,
    connection: ConnectionOpts,
    /// The warnings that were printed.
    warned: RefCell<BTreeSet<String>>,
}

impl Cli {
    fn run(&mut self, command: Subcommands) -> Result<Exit, CliError> {
        if !matches!(command, Subcommands::Completions { .. }) {
            // Refused before anything names it.
            Storage::of(&self.connection.db)?;
        }
        match command {
            Subcommands::Init => setup::init(self),
            Subcommands::CreateOrg(name) => orgs::create(self, name),
            Subcommands::ListOrgs => orgs::list(self),
            Subcommands::SuspendOrg(name) => orgs::suspend(self, name),
            Subcommands::ResumeOrg(name) => orgs::resume(self, name),
            Subcommands::UpdateOrg(update) => orgs::update(self, update),
            Subcommands::Limits(who) => limits::show(self, who),
            Subcommands::Reset(reset) => limits::reset(self, reset),
            Subcommands::LimitOverride(lift) => limits::lift(self, lift),
            Subcommands::Audit(audit) => audit::list(self, audit),
            Subcommands::Reload => limits::reload(self),
            Subcommands::Replay(replay) => replay::run(self, &replay),
            Subcommands::CreateKey(create) => keys::create(self, create),
            Subcommands::ListKeys(list) => keys::list(self, &list),
            Subcommands::UpdateKey(update) => keys::update(self, update),
            Subcommands::RotateKey(rotate) => keys::rotate(self, rotate),
            Subcommands::RevokeKey(which) => keys::revoke(self, which),
            Subcommands::Stats => stats::show(self),
            Subcommands::Check(check) => check::check(self, check),
            Subcommands::Block(block) => blocks::block(self, block),
            Subcommands::Unblock(unblock) => blocks::unblock(self, unblock),
            Subcommands::ListBlocks => blocks::list(self),
            Subcommands::Export(opts) => export::run(self, opts),
            Subcommands::Import(opts) => import::run(self, &opts),
            #[cfg(feature = "serve")]
            Subcommands::Serve(opts) => serve::run(self, *opts),
            Subcommands::AdminKey => setup::admin_key(self),
            Subcommands::Completions { shell } => {
                // Into memory, which does not fail.
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Opts::command(), "keyguard", &mut script);
                write_out(&script)?;
                Ok(Exit::Done)
            }
        }
    }

    /// The secret that was given, if any was.
    fn secret(&self) -> Result<Option<Secret>, CliError> {
        let secret = match (&self.connection.secret, &self.connection.secret_file) {
            (Some(secret), _) => Secret::from(secret.clone().into_encoded_bytes()),
            (None, Some(file)) => self.secret_in(file)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(secret))
    }

    /// That of the Python package.
    fn legacy_secret(&self) -> Result<Option<Secret>, CliError> {
        if let Some(file) = &self.connection.legacy_secret_file {
            return self.secret_in(file).map(Some);
        }
        let secret = std::env::var_os(LEGACY_SECRET);
        Ok(secret.map(|secret| Secret::from(secret.into_encoded_bytes())))
    }

    /// What a file holds that only its owner may read.
    fn secret_in(&self, file: &Path) -> Result<Secret, CliError> {
        Ok(read_secret(file, &self.connection.db)?)
    }

    fn config(&self) -> Result<Config, CliError> {
        let mut config = match self.secret()? {
            Some(secret) => Config::new(secret),
            None => Config::default(),
        };
        if let Some(secret) = self.legacy_secret()? {
            config = config.legacy_secret(secret);
        }
        if let Some(url) = &self.connection.redis {
            config = config.redis_url(url);
        }
        Ok(config)
    }

    fn is_on_server(&self) -> bool {
        is_server(&self.connection.db)
    }

    /// Whether there is a data file. A database shows only when it is asked.
    fn has_data(&self) -> bool {
        self.is_on_server() || self.connection.db.exists()
    }

    fn needs_data(&self) -> Result<(), CliError> {
        if !is_server(&self.connection.db) {
            followed(&self.connection.db)?;
        }
        match self.has_data() {
            true => Ok(()),
            false => Err(SessionError::missing(&self.connection.db).into()),
        }
    }

    /// How the program is called to work on the same data.
    fn called(&self) -> String {
        match self.connection.db.to_str() {
            Some("keyguard.redb") => "keyguard".to_owned(),
            _ => called_at(&self.connection.db),
        }
    }

    fn session(&self) -> Result<Session, CliError> {
        // Opening a file makes it private.
        let exposure = exposure_of(&self.connection.db);
        let session = Session::open(&self.connection.db, &self.config()?)?;
        exposure.iter().for_each(|text| self.warn(text));
        Ok(session)
    }

    /// Prints a warning to standard error, once.
    fn warn(&self, text: &str) {
        if self.warned.borrow_mut().insert(text.to_owned()) {
            match self.json {
                true => {
                    let warning = serde_json::json!({ "warning": text }).to_string();
                    complain(&format!("{}\n", escaped_json(&warning)));
                }
                false => {
                    let lines: Vec<String> = text.lines().map(render::escaped).collect();
                    complain(&format!("warning: {}\n", lines.join("\n")));
                }
            }
        }
    }

    /// Asks for one thing and shows it: as JSON, or as `show` makes of it.
    fn ask<T: DeserializeOwned>(
        &self,
        command: Command,
        show: impl FnOnce(&T, Look) -> String,
    ) -> Result<T, CliError> {
        let value = self.session()?.ask(command)?;
        let reply: T = serde_json::from_value(value.clone())?;
        self.show(&value, || show(&reply, self.look))?;
        Ok(reply)
    }

    /// Prints a reply: as JSON, or as `text` makes of it.
    fn show(
        &self,
        value: &serde_json::Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        match self.json {
            true => self.print_json(value),
            false => print(&text()),
        }
    }

    /// Prints the text of a key, which is seen this once.
    fn show_key(
        &self,
        value: &serde_json::Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        if is_nowhere() {
            let closed = std::io::Error::other("it is closed");
            return Err(CliError::Output(closed));
        }
        self.show(value, text)
    }

    fn print_json(&self, value: &serde_json::Value) -> Result<(), CliError> {
        let text = if self.look.is_terminal {
            format!("{value:#}")
        } else {
            value.to_string()
        };
        print(&format!("{}\n", escaped_json(&text)))
    }
}

/// How the program is called to work on the data at `place`, without the password of a URL.
fn called_at(place: &Path) -> String {
    match Storage::of(place) {
        Ok(Storage::File(file)) => {
            format!("keyguard --db {}", quoted(&file.display().to_string()))
        }
        _ => "keyguard --db URL".to_owned(),
    }
}

/// Prints to standard output.
fn print(text: &str) -> Result<(), CliError> {
    write_out(text.as_bytes())
}

fn write_out(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(CliError::Output)
}

/// Whether standard output was closed when the program started: the runtime has then opened the null
/// device for it, for reading and writing, as shells do not.
#[cfg(unix)]
fn is_nowhere() -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{OFlags, fcntl_getfl};

    let out = std::io::stdout();
    let is_both = fcntl_getfl(&out).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR);
    let device = |file: std::io::Result<std::fs::File>| Some(file.ok()?.metadata().ok()?.rdev());
    let of_out = device(out.as_fd().try_clone_to_owned().map(Into::into));
    is_both && of_out.is_some() && of_out == device(std::fs::File::open("/dev/null"))
}

#[cfg(not(unix))]
fn is_nowhere() -> bool {
    false
}

/// Prints to standard error. If that fails, there is nowhere to say so.
fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        Opts::command().debug_assert();
    }
}
